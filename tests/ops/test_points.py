"""Points in boxes."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from detframe.ops.compacting import fixed_shapes
from detframe.ops.exportable import exporting
from detframe.ops.points import level_sampler, regular_grid, sample_regions, to_image


def bilinear(grid, x, y):
    """The value of a (H, W) map at (x, y), where cell (0, 0) has its centre at (0.5, 0.5); zero outside."""
    height, width = grid.shape
    column, row = x - 0.5, y - 0.5
    total = 0.0
    for r in (int(np.floor(row)), int(np.floor(row)) + 1):
        for c in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= r < height and 0 <= c < width:
                total += float(grid[r, c]) * (1 - abs(row - r)) * (1 - abs(column - c))
    return total


def test_the_grid_by_hand():
    grid = regular_grid(2, 2, torch.device("cpu"))
    assert grid.tolist() == [[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]] * 2
    boxes = torch.tensor([[10.0, 20, 30, 60], [0, 0, 4, 4]])
    assert to_image(grid, boxes)[0].tolist() == [[15, 30], [25, 30], [15, 50], [25, 50]]


def test_values_of_maps_over_boxes():
    maps, points = torch.randn(3, 2, 5, 5), torch.rand(3, 7, 2)
    found = sample_regions(maps, points)
    for r in range(3):
        for p in range(7):
            x, y = (points[r, p] * 5).tolist()
            for c in range(2):
                assert abs(float(found[r, c, p]) - bilinear(maps[r, c], x, y)) < 1e-4


def test_values_of_a_level():
    """A point of the image lies in the cell of a level that covers it: stride 4, two images."""
    feature = torch.randn(2, 3, 6, 8)
    points = torch.rand(4, 5, 2) * torch.tensor([34.0, 26]) - 1
    image = torch.tensor([0, 0, 0, 1])
    found = level_sampler(feature, 4, image)(points)
    for r in range(4):
        for p in range(5):
            x, y = (points[r, p] / 4).tolist()
            for c in range(3):
                assert abs(float(found[r, c, p]) - bilinear(feature[image[r], c], x, y)) < 1e-4


def test_values_of_a_level_are_the_same_in_a_graph():
    """Of points on cells, between them, on the border and far beyond it, in two images."""
    feature = torch.randn(2, 3, 6, 8)
    points = torch.rand(4, 40, 2) * torch.tensor([50.0, 40]) - 9
    points[:, :4] = torch.tensor([[-2.0, -2], [32, 24], [34, 26], [1e6, -1e6]])
    image = torch.tensor([0, 0, 1, 1])
    wanted = level_sampler(feature, 4, image)(points)
    with exporting():
        torch.testing.assert_close(level_sampler(feature, 4, image)(points), wanted, atol=1e-5, rtol=1e-5)
        assert level_sampler(feature, 4, image[:0])(points[:0]).shape == (0, 3, 40)


def test_values_of_a_level_are_the_same_in_fixed_shapes():
    """Points beyond a map see none of the next image's; gradients are the same."""
    feature = torch.randn(3, 3, 6, 8, requires_grad=True)
    points = torch.rand(5, 40, 2) * torch.tensor([50.0, 40]) - 9
    points[:, :6] = torch.tensor([[-2.0, -2], [32, 24], [34, 26], [1e6, -1e6], [16, 25.9], [16, -1.9]])
    image = torch.tensor([0, 0, 1, 2, 2])
    factor = torch.randn(5, 3, 40)
    wanted = level_sampler(feature, 4, image)(points)
    (wanted * factor).sum().backward()
    gradient, feature.grad = feature.grad, None
    with fixed_shapes():
        found = level_sampler(feature, 4, image)(points)
        assert level_sampler(feature, 4, image[:0])(points[:0]).shape == (0, 3, 40)
    (found * factor).sum().backward()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(feature.grad, gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shapes", [nullcontext, fixed_shapes])
def test_places_keep_their_digits_in_half_precision(shapes):
    """In bfloat16 a place of a map 300 cells wide would be off by half a cell."""
    feature = torch.arange(300.0).expand(1, 1, 4, 300).to(torch.bfloat16)
    points = torch.tensor([[[4 * 255.5, 8.0], [4 * 100.5, 8.0]]])
    with shapes():
        found = level_sampler(feature, 4, torch.tensor([0]))(points)
    assert found.dtype == torch.bfloat16 and found.flatten().tolist() == [255, 100]
