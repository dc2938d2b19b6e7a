"""Pooling over the levels of a pyramid, against torchvision's kernel."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from detframe.ops import roi_align_pyramid
from detframe.ops.roi_align import assign_levels, roi_align_everywhere

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
    [(7, 2, False), (7, 2, True), (5, 1, True), (3, 3, False), (7, 0, True), (7, 0, False)],
)
def test_values_and_gradients_agree_with_torchvision(pool, side, ratio, aligned):
    features, boxes, image, level = _inputs()
    ours = pool(features, STRIDES, boxes, image, level, side, ratio, aligned)
    theirs = _expected(features, boxes, image, level, side, ratio or -1, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), features),
        torch.autograd.grad((theirs * weight).sum(), features),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_adaptive_sampling_keeps_the_order_of_the_regions():
    features, boxes, image, level = _inputs()
    ours = roi_align_pyramid(features, STRIDES, boxes, image, level, 7, 0, True)
    torch.testing.assert_close(ours, _expected(features, boxes, image, level, 7, -1, True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ratio", [0, 2])
def test_no_regions_give_zero_gradients(ratio):
    features, boxes, image, level = _inputs()
    out = roi_align_pyramid(features, STRIDES, boxes[:0], image[:0], level[:0], 7, ratio, False)
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
    out = roi_align_pyramid(half, STRIDES, boxes, image, level, 7, 2, False)
    assert out.dtype == torch.bfloat16
    full = roi_align_pyramid(features, STRIDES, boxes, image, level, 7, 2, False)
    torch.testing.assert_close(out.float(), full, atol=0.06, rtol=0.02)
