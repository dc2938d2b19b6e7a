"""Whole images beside tiles: at as many pixels, and what each costs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from detframe.config import get_cfg
from detframe.engine.comparing import (
    EqualPixels,
    Watched,
    comparison_table,
    costs,
    equal_shape,
    tile_shapes,
    why_not,
)
from detframe.evaluation.exported import FileModel
from detframe.inference.augmentation import AugmentedModel, View
from detframe.report.whole_images import EQUAL, WHOLE


def config(min_size=0, max_size=0, **tiles):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min_size, max_size
    cfg.INPUT.TILES.update({"SIZE": 100, "OVERLAP": 0.2, **tiles})
    return cfg


class Quarter(nn.Module):
    """Finds the upper left quarter of each image."""

    pixel = 0.0

    def __init__(self, error=None):
        super().__init__()
        self.sizes, self.error = [], error

    def forward(self, images):
        if self.error is not None:
            raise self.error
        self.sizes += [tuple(image.shape[-2:]) for image in images]
        return [
            {"boxes": torch.tensor([[0.0, 0.0, w / 2, h / 2]]), "labels": torch.ones(1), "scores": torch.ones(1)}
            for h, w in (image.shape[-2:] for image in images)
        ]


@pytest.mark.parametrize("min_size", [0, 160])
@pytest.mark.parametrize("whole", [False, True])
def test_a_whole_image_gets_as_many_pixels_as_its_tiles(min_size, whole):
    cfg = config(min_size, WHOLE_IMAGE_TOO=whole)
    for size_hw in [(300, 400), (101, 250), (999, 1300)]:
        height, width = equal_shape(cfg, size_hw)
        seen = sum(h * w for h, w in tile_shapes(cfg, size_hw))
        assert height * width == pytest.approx(seen, rel=0.02)
        assert width / height == pytest.approx(size_hw[1] / size_hw[0], rel=0.02)
    assert sum(h * w for h, w in tile_shapes(config(), (180, 180))) == 4 * 100 * 100


def test_an_image_that_is_one_tile_is_looked_at_as_it_always_is():
    assert equal_shape(config(160, 300), (60, 100)) == (160, 267)
    assert equal_shape(config(), (100, 100)) == (100, 100)


def test_predictions_at_as_many_pixels_are_in_the_image():
    model = Quarter()
    cfg = config(200)
    images = [torch.zeros(3, 180, 260, dtype=torch.uint8), torch.zeros(3, 90, 90, dtype=torch.uint8)]
    found = EqualPixels(Watched(model), cfg)(images)
    assert model.sizes == [equal_shape(cfg, (180, 260)), (200, 200)]
    torch.testing.assert_close(found[0]["boxes"], torch.tensor([[0.0, 0.0, 130, 90]]))
    torch.testing.assert_close(found[1]["boxes"], torch.tensor([[0.0, 0.0, 45, 45]]))


def test_pixels_and_seconds_are_those_of_the_model_for_each_image():
    watched = Watched(Quarter())
    watched([torch.zeros(3, 10, 20)])
    watched([torch.zeros(3, 10, 20), torch.zeros(3, 30, 20)])
    assert watched.pixels == 1000 and watched.seconds > 0
    found = costs(watched, 2, seconds=100.0)
    assert found["pixels"] == 500 and 50 < found["seconds"] < 51


def test_pixels_of_several_views_and_of_a_file_of_one_size():
    views = SimpleNamespace(views=[View(100, 0), View(100, 0, -1)])
    views.shapes_seen = AugmentedModel.shapes_seen.__get__(views)
    assert views.shapes_seen((50, 80)) == [(100, 160)] * 2
    card = SimpleNamespace(input=SimpleNamespace(static_hw=(100, 200)), class_agnostic=False, pixel=0.0)
    model = FileModel(SimpleNamespace(card=card))
    assert model.shapes_seen((50, 50)) == [(100, 100)]
    card.input.static_hw = None
    assert model.shapes_seen((50, 50)) == [(50, 50)]


def test_a_batch_without_memory_is_an_error_unless_it_may_be_left_out():
    error = torch.OutOfMemoryError("no memory")
    with pytest.raises(torch.OutOfMemoryError):
        Watched(Quarter(error))([torch.zeros(3, 10, 20)])
    watched = Watched(Quarter(error), spare=True)
    (found,) = watched([torch.zeros(3, 10, 20)])
    assert watched.failed == 1 and found["boxes"].shape == (0, 4)


def test_what_the_loop_asks_of_a_model():
    for takes in (True, False):
        model = Quarter()
        model.takes_paste_masks, model.pixel, model.class_agnostic = takes, 1.0, True
        watched = Watched(model)
        assert watched.takes_paste_masks == EqualPixels(watched, config()).takes_paste_masks == takes
        assert watched.pixel == 1.0 and watched.class_agnostic


def test_why_images_are_not_evaluated_whole(monkeypatch):
    sizes = np.array([[300, 400], [3000, 2000]])
    assert why_not(WHOLE, config(), None, sizes) == why_not(EQUAL, config(), None, sizes) == ""
    large = np.array([[300, 400], [8000, 9000]])
    for kind in (WHOLE, EQUAL):
        assert "9000x8000 pixels (width x height), which takes too much" in why_not(WHOLE, config(), None, large)
        assert "there is no image" in why_not(kind, config(), None, sizes[:0])
    assert why_not(WHOLE, config(800), None, large) == ""
    assert "too much memory" in why_not(EQUAL, config(800), None, large)
    augmented = config()
    augmented.TEST.AUG.ENABLED = True
    assert "TEST.AUG" in why_not(EQUAL, augmented, None, sizes)
    card = SimpleNamespace(input=SimpleNamespace(static_hw=(100, 200)), class_agnostic=False, pixel=0.0)
    model = FileModel(SimpleNamespace(card=card))
    assert (
        "images of one size" in why_not(EQUAL, config(), model, sizes) and why_not(WHOLE, config(), model, sizes) == ""
    )
    monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", "100000")
    assert "DETFRAME_MAX_IMAGE_PIXELS" in why_not(WHOLE, config(800), None, sizes)


def test_the_rows_beside_each_other():
    metrics = {"bbox/AP": 30.0, "bbox/AP50": 60.0, "bbox/AP-cell": 30.0, "tiles/pixels": 2e6, "tiles/seconds": 0.5}
    metrics |= {"whole/bbox/AP": 10.0, "whole/bbox/AP50": 20.0, "whole/pixels": 1e5, "whole/seconds": 0.1}
    lines = comparison_table(metrics).splitlines()
    assert lines[0].split() == ["AP", "AP50", "Mpx/image", "s/image"]
    assert [line.split()[-4:] for line in lines[2:]] == [
        ["30.0", "60.0", "2.00", "0.500"],
        ["10.0", "20.0", "0.10", "0.100"],
    ]
    assert lines[2].startswith("Tiles ") and lines[3].startswith("Whole images ")
