"""Objects and detections for a smaller picture of their image, or for a part of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detframe.structures import BoxMasks, LazyMasks
from detframe.structures.tile_masks import TileMasks, tile_masks
from detframe.visualization import reduced, within

BOXES = [[8.0, 4, 24, 20], [30, 10, 40, 38]]


def instances(**more):
    points = torch.tensor([[[10.0, 6, 2], [0, 0, 0]], [[32, 12, 1], [38, 36, 2]]])
    return {"boxes": torch.tensor(BOXES), "labels": torch.tensor([1, 2]), "keypoints": points, **more}


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_smaller(library):
    found = {**instances(), "names": ["a", "b"]}
    if library == "numpy":
        found = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in found.items()}
    small = reduced(found, (40, 48), (20, 12))
    assert small["boxes"].tolist() == [[2, 2, 6, 10], [7.5, 5, 10, 19]]
    assert small["keypoints"].tolist() == [[[2.5, 3, 2], [0, 0, 0]], [[8, 6, 1], [9.5, 18, 2]]]
    assert small["names"] == ["a", "b"] and np.asarray(small["labels"]).tolist() == [1, 2]
    assert np.asarray(found["boxes"]).tolist() == BOXES
    assert reduced(found, (40, 48), (40, 48)) == found


def test_masks_become_smaller():
    polygons = LazyMasks([[np.array([8.0, 4, 24, 4, 24, 20, 8, 20])], []], (40, 48))
    assert reduced(instances(masks=polygons), (40, 48), (20, 24))["masks"].decode()[0].sum() == 8 * 8
    on_boxes = BoxMasks(torch.ones(2, 28, 28), torch.tensor(BOXES), (40, 48))
    assert reduced(instances(masks=on_boxes), (40, 48), (20, 24))["masks"].boxes.tolist() == [
        [4, 2, 12, 10],
        [15, 5, 20, 19],
    ]


@pytest.mark.parametrize("kind", ["pixels", "boxes"])
def test_masks_of_tiles_become_smaller(kind):
    """A mask that two tiles have seen of one object, in rows 4 to 20 and columns 8 to 24."""
    tiles = [(0, 0, 16, 32), (16, 0, 32, 32)]
    parts = []
    for tile, box in zip(tiles, ([8.0, 4, 16, 20], [0.0, 4, 8, 20]), strict=True):
        if kind == "boxes":
            seen = BoxMasks(torch.ones(1, 28, 28), torch.tensor([box]), (32, 16))
        else:
            seen = torch.zeros(1, 32, 16, dtype=torch.bool)
            seen[0, int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        parts += tile_masks(seen, tile)
    small = TileMasks([parts], (32, 32)).rescale((32, 32), (16, 16))
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[2:10, 4:12] = True
    assert small.shape == (1, 1, 16, 16) and torch.equal(small.paste()[0, 0] >= 0.5, expected)
    # an odd factor, and nothing at all
    assert TileMasks([parts], (32, 32)).rescale((32, 32), (11, 11)).paste().shape == (1, 1, 11, 11)
    nothing = tile_masks(torch.zeros(1, 32, 16, dtype=torch.bool), tiles[1])
    assert not TileMasks([nothing], (32, 32)).rescale((32, 32), (16, 16)).paste().any()


def test_a_part_of_an_image():
    part = within({**instances(), "scores": torch.tensor([0.5, 0.25]), "image_id": 7}, (20, 8, 36, 24))
    assert part["boxes"].tolist() == [[0, 0, 4, 12], [10, 2, 16, 16]] and part["labels"].tolist() == [1, 2]
    assert part["scores"].tolist() == [0.5, 0.25] and "image_id" not in part
    assert part["keypoints"][1].tolist() == [[12, 4, 1], [18, 28, 2]]
    assert within(instances(), (20, 8, 30, 24))["labels"].tolist() == [1]
    assert within(instances(), (0, 30, 8, 40))["boxes"].shape == (0, 4)
