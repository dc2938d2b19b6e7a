"""Pooling over the levels of a pyramid, against torchvision's kernel."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from detframe.ops import RoIs, region_bags, roi_align_pyramid
from detframe.ops.roi_align import assign_levels, roi_align_by_level, roi_align_everywhere

STRIDES = (4, 8, 16, 32)


def _inputs(regions: int = 60) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(2, 8, 96 // s, 128 // s, generator=generator).requires_grad_() for s in STRIDES]
    corner = torch.rand(regions, 2, generator=generator) * 140 - 20
    boxes = torch.cat([corner, corner + torch.rand(regions, 2, generator=generator) * 90], 1)
    image = torch.randint(0, 2, (regions,), generator=generator)
    level = torch.randint(0, 4, (regions,), generator=generator)
    return features, boxes, image, level


def _expected(features, boxes, image, level, side, ratio, aligned):
    rows = []
    for i in range(len(boxes)):
        roi = torch.cat([image[i : i + 1].float(), boxes[i]])[None]
        at = int(level[i])
        rows.append(roi_align(features[at], roi, side, 1 / STRIDES[at], ratio, aligned))
    return torch.cat(rows)


@pytest.mark.parametrize("pool", [roi_align_pyramid, roi_align_everywhere])
@pytest.mark.parametrize(
    ("side", "ratio", "aligned"),
    [(7, 2, False), (7, 2, True), (5, 1, True), (3, 3, False), (7, 0, True), (7, 0, False), (4, -1, True)],
)
def test_values_and_gradients_agree_with_torchvision(pool, side, ratio, aligned):
    features, boxes, image, level = _inputs()
    ours = pool(features, STRIDES, RoIs(boxes, image, level, side, ratio, aligned))
    theirs = _expected(features, boxes, image, level, side, ratio or -1, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), features),
        torch.autograd.grad((theirs * weight).sum(), features),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("regions", [60, 0])
@pytest.mark.parametrize("ratio", [0, 2])
def test_a_compiled_graph_pools_the_very_values(regions, ratio):
    features, boxes, image, level = _inputs(regions)

    def pooled(*maps: torch.Tensor) -> torch.Tensor:
        return roi_align_pyramid(maps, STRIDES, RoIs(boxes, image, level, 7, ratio, True))

    eager, graph = pooled(*features), torch.compile(pooled, fullgraph=True, backend="aot_eager")(*features)
    assert torch.equal(eager, graph)
    weight = torch.randn_like(eager)
    wanted = torch.autograd.grad((eager * weight).sum(), features)
    for mine, right in zip(torch.autograd.grad((graph * weight).sum(), features), wanted, strict=True):
        assert torch.equal(mine, right)


def test_the_operators_of_a_graph_are_as_pytorch_wants_them():
    features, boxes, image, level = _inputs(5)
    table = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, 8) for f in features]).detach().requires_grad_()
    sizes = [size for f in features for size in f.shape[-2:]]
    where = (boxes, image, level, sizes, list(STRIDES), 2, 7, 2, False)
    parts = ("test_schema", "test_autograd_registration", "test_faketensor")
    grad = torch.randn(5 * 49, 8)
    pooled = torch.library.opcheck(torch.ops.detframe.pool_regions.default, (table, *where), test_utils=parts)
    back = (grad, len(table), *where)
    spread = torch.library.opcheck(torch.ops.detframe.spread_regions.default, back, test_utils=parts)
    assert pooled == spread == dict.fromkeys(parts, "SUCCESS")


def test_adaptive_sampling_keeps_the_order_of_the_regions():
    features, boxes, image, level = _inputs()
    ours = roi_align_pyramid(features, STRIDES, RoIs(boxes, image, level, 7, 0, True))
    torch.testing.assert_close(ours, _expected(features, boxes, image, level, 7, -1, True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_no_regions_give_zero_gradients(ratio):
    features, boxes, image, level = _inputs()
    out = roi_align_pyramid(features, STRIDES, RoIs(boxes[:0], image[:0], level[:0], 7, ratio, False))
    assert out.shape == (0, 8, 7, 7)
    for gradient in torch.autograd.grad(out.sum(), features):
        assert gradient.abs().max() == 0


def test_levels_agree_with_torchvision():
    generator = torch.Generator().manual_seed(1)
    side = torch.exp(torch.rand(300, 2, generator=generator) * 5 + 1)
    boxes = torch.cat([torch.zeros(300, 2), side], 1)
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    features = {str(i): torch.zeros(1, 1, 512 // s, 512 // s) for i, s in enumerate(STRIDES)}
    pooler(features, [boxes], [(512, 512)])
    expected = pooler.map_levels([boxes])
    assert (assign_levels(boxes, 2, 5, 224, 4) - 2).tolist() == expected.tolist()


def test_half_precision_features_stay_in_half_precision():
    features, boxes, image, level = _inputs()
    half = [f.detach().bfloat16() for f in features]
    out = roi_align_pyramid(half, STRIDES, RoIs(boxes, image, level, 7, 2, False))
    assert out.dtype == torch.bfloat16
    full = roi_align_pyramid(features, STRIDES, RoIs(boxes, image, level, 7, 2, False))
    torch.testing.assert_close(out.float(), full, atol=0.06, rtol=0.02)


# x1, y1, x2, y2 in pixels of images of 128 x 96
EDGES = {
    "tiny": [[10.3, 20.7, 10.301, 20.702], [40.0, 8.0, 40.5, 8.25], [3.9, 4.1, 5.0, 6.0]],
    "no area": [[16.0, 16.0, 16.0, 16.0], [5.5, 7.0, 5.5, 60.0], [0.0, 0.0, 0.0, 0.0], [127.0, 95.0, 127.0, 95.0]],
    "turned round": [[50.0, 40.0, 10.0, 8.0], [50.0, 8.0, 10.0, 40.0], [90.0, 90.0, -40.0, 20.0]],
    "outside": [[-90.0, -70.0, -40.0, -30.0], [200.0, 10.0, 280.0, 60.0], [10.0, 150.0, 60.0, 230.0]],
    "over the border": [[-33.0, -21.0, 20.0, 18.0], [100.0, 70.0, 171.0, 140.0], [-10.0, 30.0, 150.0, 50.0]],
    "at the border": [
        [-4.0, -4.0, 128.0, 96.0],
        [124.0, 92.0, 132.0, 100.0],
        [-8.0, -8.0, -4.0, -4.0],
        [0, 0, 128, 96],
    ],
    "on cells": [[8.0, 8.0, 64.0, 64.0], [4.0, 4.0, 32.0, 32.0], [2.0, 2.0, 30.0, 30.0]],
    "huge": [[-500.0, -400.0, 900.0, 700.0], [-3000.0, 10.0, 40.0, 90.0], [20.0, 20.0, 2500.0, 2400.0]],
    "long": [[0.0, 40.0, 128.0, 41.0], [60.0, 0.0, 60.7, 96.0]],
}


def _edge_inputs(boxes: list[list[float]]) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each box on each level of each of three images."""
    generator = torch.Generator().manual_seed(3)
    sizes_hw = [(24, 32), (12, 16), (3, 5), (1, 1)]
    features = [torch.randn(3, 5, *size, generator=generator).requires_grad_() for size in sizes_hw]
    each = torch.tensor(boxes).repeat_interleave(12, 0)
    level, image = torch.arange(4).repeat(3 * len(boxes)), torch.arange(3).repeat_interleave(4).repeat(len(boxes))
    return features, each, image, level


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, 1, 2, 5])
@pytest.mark.parametrize("edge", EDGES)
def test_edges_agree_with_torchvision(edge, ratio, aligned):
    if edge == "turned round" and ratio == 0 and aligned:
        pytest.skip("torchvision's kernel asks for more memory than there is")
    features, boxes, image, level = _edge_inputs(EDGES[edge])
    for side in (1, 7):
        ours = roi_align_pyramid(features, STRIDES, RoIs(boxes, image, level, side, ratio, aligned))
        theirs = _expected(features, boxes, image, level, side, ratio or -1, aligned)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
        weight = torch.randn_like(ours)
        mine = torch.autograd.grad((ours * weight).sum(), features)
        other = torch.autograd.grad((theirs * weight).sum(), features)
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)


def test_regions_without_area_have_no_points_where_their_number_is_that_of_the_cells():
    features, boxes, image, level = _edge_inputs(EDGES["turned round"] + EDGES["no area"])
    out = roi_align_pyramid(features, STRIDES, RoIs(boxes, image, level, 7, 0, True))
    assert float(out.detach().abs().max()) == 0


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_half_precision_agrees_with_full_in_values_and_gradients(ratio, aligned):
    features, boxes, image, level = _inputs(300)
    half = [f.detach().bfloat16().requires_grad_() for f in features]
    full = [f.detach().float().requires_grad_() for f in half]
    ours, exact = (roi_align_pyramid(x, STRIDES, RoIs(boxes, image, level, 7, ratio, aligned)) for x in (half, full))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), exact, atol=0.02, rtol=0.01)
    weight = torch.randn_like(exact).bfloat16()
    mine = torch.autograd.grad((ours * weight).sum(), half)
    other = torch.autograd.grad((exact * weight.float()).sum(), full)
    for a, b in zip(mine, other, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, atol=0.02 * float(b.abs().max()), rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool", [roi_align_pyramid, roi_align_everywhere, roi_align_by_level])
def test_half_precision_looks_where_the_boxes_are(pool, dtype):
    """Neither their corners nor the number of their image are what half precision can hold."""
    ramp = torch.arange(64.0).expand(260, 1, 4, 64).contiguous()
    ramp[257] += 64
    boxes = torch.tensor([[801.5, 0.0, 804.5, 64.0]])
    rois = RoIs(boxes, torch.tensor([257]), torch.zeros(1, dtype=torch.long), 1, 0, True)
    out = pool([ramp.to(dtype)], [16], rois)
    assert out.dtype == dtype
    assert float(out) == pytest.approx(64 + 803 / 16 - 0.5, abs=0.01 if dtype == torch.float16 else 0.26)


@pytest.mark.parametrize("ratio", [0, 2])
def test_numbers_that_are_none_and_endless_boxes_harm_no_other_region(ratio):
    features, boxes, image, level = _inputs(12)
    strange = boxes.clone()
    nan, inf = float("nan"), float("inf")
    strange[:6] = torch.tensor(
        [
            [nan] * 4,
            [0, nan, 50, nan],
            [-inf, -inf, inf, inf],
            [0, 0, inf, 10],
            [-1e30, -1e30, 1e30, 1e30],
            [1e38, 1e38, 3e38, 3e38],
        ]
    )
    out = roi_align_pyramid(features, STRIDES, RoIs(strange, image, level, 7, ratio, False))
    expected = _expected(features, boxes, image, level, 7, ratio or -1, False)
    torch.testing.assert_close(out[6:], expected[6:], atol=1e-5, rtol=1e-5)
    assert out.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), features))


@pytest.mark.parametrize("ratio", [0, 2])
def test_large_regions_are_pooled_in_parts_of_bounded_size(ratio, monkeypatch):
    limit, sizes = 20_000, []
    taps = region_bags.taps

    def recorded(*args):
        found = taps(*args)
        sizes.append(len(found.row))
        return found

    monkeypatch.setattr(region_bags, "_TAPS_AT_ONCE", limit)
    monkeypatch.setattr(region_bags, "taps", recorded)
    features, boxes, image, level = _inputs(80)
    boxes[::3] = torch.tensor([-5.0, -5.0, 140.0, 100.0])
    level[::2] = 0
    ours = roi_align_pyramid(features, STRIDES, RoIs(boxes, image, level, 7, ratio, False))
    theirs = _expected(features, boxes, image, level, 7, ratio or -1, False)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(ours)
    mine = torch.autograd.grad((ours * weight).sum(), features)
    torch.testing.assert_close(mine, torch.autograd.grad((theirs * weight).sum(), features), atol=1e-3, rtol=1e-4)
    assert len(sizes) > 4
    assert limit / 4 < max(sizes) <= limit
