"""Where training learns no background, from records to batches: cut objects of tiles, and crowds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from detframe.config import ConfigNode, get_cfg
from detframe.data import Records, build_test_loader, build_train_loader
from detframe.data.samples import Parcel, Sample
from detframe.data.transforms import Compose, HorizontalFlip, LargeScaleJitter, Resize, VerticalFlip
from detframe.data.transforms.mixing import MixUp, Mosaic
from detframe.structures import LazyMasks
from detframe.visualization import training_image
from tests.data.sets import annotation, coco_records


@pytest.fixture
def records(tmp_path: Path) -> Records:
    """Two tiles of 32 pixels side by side. The left one has an object, the left fifth of another, and a crowd."""
    rows = [
        annotation(1, 1, [4, 4, 10, 8]),
        annotation(2, 1, [28, 10, 20, 16]),
        annotation(3, 1, [2, 20, 12, 10], iscrowd=1),
    ]
    return coco_records(tmp_path, rows, [(32, 64)])


def config(*overrides: Any) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("INPUT.TILES.SIZE", 32, "INPUT.TILES.OVERLAP", 0, "INPUT.FLIP_PROB", 0, "INPUT.MIN_SIZE_TRAIN", 0),
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "TEST.IMS_PER_BATCH", 2),
            *("INPUT.MIN_SIZE_TEST", 0, "SEED", 3, *overrides),
        ]
    )
    return cfg


def training_targets(cfg: ConfigNode, records: Records) -> dict[Any, Any]:
    """The targets of an epoch of two tiles, or of the image, by the number of the tile."""
    loader = build_train_loader(cfg, records)
    return {target.get("tile_index"): target for target in next(loader)[1]}


CUT, CROWD = [28.0, 10, 48, 26], [2.0, 20, 14, 30]  # a region goes on beyond the tile as the object does


@pytest.mark.parametrize(
    ("key", "expected"), [("off", None), ("cut", [CUT]), ("crowd", [CROWD]), ("all", [CUT, CROWD])]
)
def test_a_tile_with_a_cut_object_has_an_ignored_box(records: Records, key: str, expected: Any) -> None:
    targets = training_targets(config("MODEL.IGNORE_REGIONS", key), records)
    left, right = targets[0], targets[1]
    assert left["boxes"].tolist() == [[4, 4, 14, 12]] and "iscrowd" not in left
    assert (left["ignore_boxes"].tolist() if "ignore_boxes" in left else None) == expected
    assert right["boxes"].tolist() == [[0, 10, 16, 26]] and "ignore_boxes" not in right


def test_cut_objects_are_ignored_by_default_and_whole_images_stay_as_they_were(records: Records) -> None:
    assert training_targets(config(), records)[0]["ignore_boxes"].tolist() == [CUT]
    whole = training_targets(config("INPUT.TILES.SIZE", 0), records)[None]
    assert len(whole["boxes"]) == 2 and "ignore_boxes" not in whole
    crowds = training_targets(config("INPUT.TILES.SIZE", 0, "MODEL.IGNORE_REGIONS", "crowd"), records)[None]
    assert crowds["ignore_boxes"].tolist() == [CROWD] and len(crowds["boxes"]) == 2


@pytest.mark.parametrize(("key", "expected"), [("off", []), ("cut", [CUT]), ("crowd", [CROWD]), ("all", [CUT, CROWD])])
def test_validation_losses_ignore_what_the_training_ignores(records: Records, key: str, expected: Any) -> None:
    """Targets of an evaluation keep their crowds, so that they say which of them are ignored, also if none is."""
    [(_, [left, right])] = list(build_test_loader(config("MODEL.IGNORE_REGIONS", key), records))
    assert left["ignore_boxes"].tolist() == expected and left["iscrowd"].tolist() == [False, True, True]
    assert "ignore_boxes" not in right


def test_regions_move_with_the_image() -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    target: Any = {
        "boxes": torch.tensor([[10.0, 10, 30, 20]]),
        "labels": torch.tensor([1]),
        "ignore_boxes": torch.tensor([[10.0, 10, 30, 20], [50, 0, 80, 8]]),
    }
    for transform in (HorizontalFlip(1.0), VerticalFlip(1.0), Resize((80,)), LargeScaleJitter(48, 1.0, 1.5)):
        for seed in range(4):
            out = Compose([transform])(image, dict(target), torch.Generator().manual_seed(seed))[1]  # type: ignore[arg-type]
            for box in out["boxes"]:  # the region that is the object's box goes where that goes
                assert torch.equal(out["ignore_boxes"][0], box)
            assert len(out["boxes"]) or len(out["ignore_boxes"]) < 2
    out = Compose([])(image, target, torch.Generator())[1]
    assert out["ignore_boxes"].tolist() == [[10, 10, 30, 20], [50, 0, 80, 8]]
    out = Compose([HorizontalFlip(1.0), Resize((20,))])(image, target, torch.Generator())[1]
    assert out["ignore_boxes"].tolist() == [[15, 5, 25, 10], [-10, 0, 5, 4]]
    out = Compose([HorizontalFlip(1.0)])(image, {**target, "ignore_boxes": torch.zeros(0, 4)}, torch.Generator())[1]
    assert out["ignore_boxes"].shape == (0, 4)


def test_regions_that_are_cut_away_are_gone() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    beyond = torch.tensor([[25.0, 0, 40, 10], [0, 0, 5, 5]])
    target: Any = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "ignore_boxes": beyond}
    assert Compose([])(image, target, torch.Generator())[1]["ignore_boxes"].tolist() == [[0, 0, 5, 5]]


def test_copy_paste_keeps_the_regions_of_the_image_below(tmp_path: Path) -> None:
    polygon = [4, 4, 14, 4, 14, 12, 4, 12]
    rows = [
        annotation(1, 1, [4, 4, 10, 8], segmentation=[polygon]),
        annotation(2, 1, [28, 10, 20, 16], segmentation=[[28, 10, 48, 10, 48, 26, 28, 26]]),
    ]
    records = coco_records(tmp_path, rows, [(32, 64)])
    targets = training_targets(config("INPUT.COPY_PASTE_PROB", 1.0), records)
    assert targets[0]["ignore_boxes"].tolist() == [CUT] and isinstance(targets[0]["masks"], LazyMasks)
    assert "ignore_boxes" not in targets[1]


def test_regions_travel_from_worker_processes() -> None:
    target: Any = {"boxes": torch.zeros(0, 4), "ignore_boxes": torch.tensor([[1.0, 2, 3, 4]])}
    [sample] = Parcel([Sample(None, target, [])]).unpack(torch.zeros(0, dtype=torch.uint8))
    assert torch.equal(sample.target["ignore_boxes"], target["ignore_boxes"])


def test_pictures_of_training_images_show_the_regions() -> None:
    image = torch.full((3, 200, 200), 255, dtype=torch.uint8)
    plain: Any = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    region = {**plain, "ignore_boxes": torch.tensor([[20.0, 20, 120, 120]])}
    changed = np.flatnonzero((training_image(image, plain, ["a"]) != training_image(image, region, ["a"])).any(2))
    assert len(changed) > 300


def cut_region(size_hw: tuple[int, int]) -> tuple[Tensor, Any]:
    """An image that was cut, so that its ignored region reaches beyond three of its borders; it is white inside."""
    height, width = size_hw
    return torch.full((3, height, width), 255, dtype=torch.uint8), {
        "boxes": torch.tensor([[2.0, 2.0, 12.0, 12.0]]),
        "labels": torch.tensor([1]),
        "ignore_boxes": torch.tensor([[-40.0, -40.0, width + 40.0, height - 4.0]]),
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_region_that_reaches_beyond_its_image_hides_nothing_of_those_beside_it(seed: int) -> None:
    """The one image has a region, and the others are black and have none: in what it covers nothing is black."""
    black = torch.zeros(3, 64, 64, dtype=torch.uint8)
    plain = {**cut_region((64, 64))[1], "ignore_boxes": torch.zeros(0, 4)}
    generator = Generator().manual_seed(seed)
    mosaic = Mosaic(scale=(1.0, 1.0), fill=255.0).mix(*cut_region((64, 64)), [(black, plain)] * 3, generator)
    mixed = MixUp(alpha=1e4, fill=0.0).mix(black, plain, [cut_region((30, 30))], generator)
    for image, target in (mosaic, mixed):
        assert len(target["ignore_boxes"]) == 1
        x1, y1, x2, y2 = (int(side) for side in target["ignore_boxes"][0].clamp(min=0, max=64).tolist())
        assert image[:, y1:y2, x1:x2].min() > 0 and x2 - x1 > 10 and y2 - y1 > 3
