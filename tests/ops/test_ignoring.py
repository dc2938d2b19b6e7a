"""What lies in regions that are neither object nor background, beside plain Python."""

from __future__ import annotations

import pytest
import torch

from detframe.ops import Matches
from detframe.ops.ignoring import lies_in, points_in, without_ignored


def part_in(box, region):
    """The part of a box's area that lies in a region."""
    width = max(0.0, min(box[2], region[2]) - max(box[0], region[0]))
    height = max(0.0, min(box[3], region[3]) - max(box[1], region[1]))
    area = (box[2] - box[0]) * (box[3] - box[1])
    return width * height / area if area else 0.0


def lying_in(boxes, regions):
    """For one image, in plain Python."""
    return [any(part_in(box, region) >= 0.5 for region in regions.tolist()) for box in boxes.tolist()]


def some_boxes(count, generator, side=40):
    """Whole numbers, so that halves come out even."""
    corners = torch.randint(0, side, (count, 2), generator=generator)
    return torch.cat([corners, corners + torch.randint(1, 16, (count, 2), generator=generator)], 1).float()


@pytest.mark.parametrize("max_pairs", [1, 50, 2**20])
def test_half_of_the_area_in_one_region_decides(max_pairs):
    generator = torch.Generator().manual_seed(0)
    boxes = some_boxes(300, generator)
    regions = torch.stack([some_boxes(3, generator), torch.zeros(3, 4), some_boxes(3, generator)])
    regions[2, 2] = 0  # padding
    found = lies_in(boxes, regions, max_pairs)
    assert found.shape == (3, 300) and found[0].any() and not found[0].all()
    assert found.tolist() == [lying_in(boxes, region) for region in regions]
    own = torch.stack([boxes, boxes.flip(0), boxes])  # boxes of each image
    assert lies_in(own, regions, max_pairs).tolist() == [
        lying_in(b, region) for b, region in zip(own, regions, strict=True)
    ]


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([0.0, 0, 10, 10], True),
        ([5.0, 0, 15, 10], True),  # half of it
        ([6.0, 0, 16, 10], False),
        ([0.0, 0, 100, 100], False),  # the whole region, but a hundredth of the box
        ([9.0, 0, 31, 10], False),  # a part in either region, half in none
        ([4.0, 4, 4, 4], False),  # no area
        ([50.0, 50, 60, 60], False),
    ],
)
def test_boxes_by_hand(box, inside):
    regions = torch.tensor([[[0.0, 0, 10, 10], [30, 0, 40, 10], [0, 0, 0, 0]]])
    assert lies_in(torch.tensor([box]), regions).tolist() == [[inside]]


@pytest.mark.parametrize("max_pairs", [1, 2**20])
def test_points(max_pairs):
    xy = torch.tensor([[4.0, 4], [0, 4], [12, 20], [4, 12], [8, 8], [0, 0]])
    regions = torch.tensor([[[0.0, 0, 8, 8], [10, 10, 30, 30]], [[0, 0, 0, 0], [0, 8, 16, 16]]])
    expected = [[True, False, True, False, False, False], [False, False, False, True, False, False]]
    assert points_in(xy, regions, max_pairs).tolist() == expected


def test_background_alone_is_ignored():
    matches = Matches(
        torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[1, 0, -1, 0]], dtype=torch.int8), torch.ones(1, 4)
    )
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 8, 8], [20, 20, 28, 28]])
    regions = torch.tensor([[[0.0, 0, 10, 10]]])
    assert without_ignored(matches, boxes, regions).label.tolist() == [[1, -1, -1, 0]]
    assert matches.label.tolist() == [[1, 0, -1, 0]]
    assert without_ignored(matches, boxes, None) is matches
