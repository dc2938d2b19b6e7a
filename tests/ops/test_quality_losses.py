"""Quality focal, varifocal, distribution focal, DIoU and CIoU: the formulas in plain Python, and torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss

from detframe.ops import BoxCoder, BoxLoss, distribution_focal, quality_focal, varifocal
from detframe.ops.losses import _focal_in_graph, distance_iou_loss, sigmoid_focal


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def plain_quality_focal(x, y, beta):
    s = sigmoid(x)
    return -(abs(y - s) ** beta) * ((1 - y) * math.log(1 - s) + y * math.log(s))


def plain_varifocal(x, q, alpha, gamma):
    p = sigmoid(x)
    if q > 0:
        return -q * (q * math.log(p) + (1 - q) * math.log(1 - p))
    return -alpha * p**gamma * math.log(1 - p)


def plain_distribution_focal(logits, y):
    total = sum(math.exp(x) for x in logits)
    y = min(max(y, 0), len(logits) - 1)
    left = min(math.floor(y), len(logits) - 2)
    right = left + 1
    return -(
        (right - y) * math.log(math.exp(logits[left]) / total) + (y - left) * math.log(math.exp(logits[right]) / total)
    )


def entries(seed=0, rows=30, classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    targets = torch.rand(rows, classes, generator=generator) * (torch.rand(rows, classes, generator=generator) < 0.4)
    return logits, targets, torch.rand(rows, 1, generator=generator)


SCORES = {
    "quality focal": (quality_focal, plain_quality_focal, [(2.0,), (1.5,), (1.0,), (0.0,)]),
    "varifocal": (varifocal, plain_varifocal, [(0.75, 2.0), (0.5, 1.5), (0.75, 0.0)]),
}
CASES = [(name, settings) for name, (_, _, all_settings) in SCORES.items() for settings in all_settings]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_scores_are_those_of_the_formula(name, settings):
    function, plain, _ = SCORES[name]
    logits, targets, weights = entries()
    loss = function(logits, targets, weights, *settings)
    rows = zip(logits.tolist(), targets.tolist(), weights.flatten().tolist(), strict=True)
    expected = [[w * plain(x, y, *settings) for x, y in zip(xs, ys, strict=True)] for xs, ys, w in rows]
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_gradients_of_scores_are_those_of_the_formula_and_finite_anywhere(name, settings):
    function, plain, _ = SCORES[name]
    logits, targets, weights = entries(1, rows=8)
    leaf = logits.clone().requires_grad_()
    function(leaf, targets, weights, *settings).sum().backward()
    step = 1e-5
    for row, column in ((0, 0), (3, 1), (7, 3)):
        x, y = logits[row, column].item(), targets[row, column].item()
        slope = (plain(x + step, y, *settings) - plain(x - step, y, *settings)) / (2 * step)
        assert leaf.grad[row, column].item() == pytest.approx(slope * weights[row].item(), rel=1e-3, abs=1e-6)
    extreme = torch.tensor([[-200.0, 200.0, 0.0, -200.0, 200.0]]).requires_grad_()
    loss = function(extreme, torch.tensor([[0.0, 0.0, 0.5, 1.0, 1.0]]), torch.ones(1, 1), *settings)
    loss.sum().backward()
    assert loss.isfinite().all() and extreme.grad.isfinite().all()


@pytest.mark.parametrize("function", [quality_focal, varifocal])
def test_a_score_that_is_right_costs_nothing_where_the_formula_says_so(function):
    """The quality focal loss is 0 at s = y; the varifocal one has its minimum there."""
    y = torch.tensor([[0.3, 0.8]])
    leaf = torch.logit(y).requires_grad_()
    loss = function(leaf, y, torch.ones(1, 1))
    loss.sum().backward()
    torch.testing.assert_close(leaf.grad, torch.zeros(1, 2), atol=1e-6, rtol=0)
    assert (loss.abs().max() < 1e-6) == (function is quality_focal)


def test_quality_focal_of_whole_targets_is_the_focal_loss_without_alpha():
    from torchvision.ops import sigmoid_focal_loss

    logits, targets, _ = entries()
    targets = (targets > 0).float()
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2)
    torch.testing.assert_close(quality_focal(logits, targets, torch.ones(())), expected)


@pytest.mark.parametrize("function", [quality_focal, varifocal])
def test_no_gradient_flows_into_targets_and_half_precision_is_computed_in_float32(function):
    logits, targets, weights = entries()
    low, targets = logits.bfloat16().requires_grad_(), targets.requires_grad_()
    loss = function(low, targets, weights)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, function(low.detach().float(), targets, weights))
    loss.sum().backward()
    assert targets.grad is None and low.grad.isfinite().all()
    assert function(low[:0], targets[:0], weights[:0]).shape == (0, 4)


def test_distances_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(12, 4, 9, generator=generator)
    targets = torch.rand(12, 4, generator=generator) * 8
    targets[0] = torch.tensor([0.0, 3.0, 8.0, 11.5])  # whole numbers, the last bin and beyond it
    targets[1, 0] = -2.0
    weights = torch.rand(12, 1, generator=generator)
    loss = distribution_focal(logits, targets, weights)
    expected = [
        [weights[i].item() * plain_distribution_focal(logits[i, j].tolist(), targets[i, j].item()) for j in range(4)]
        for i in range(12)
    ]
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_the_best_distribution_has_the_distance_as_its_mean():
    """The minimum is at S_left = y_right - y, S_right = y - y_left (arXiv:2006.04388, after equation 6)."""
    share = torch.tensor([1e-9, 1e-9, 0.75, 0.25, 1e-9])
    leaf = share.log().requires_grad_()
    loss = distribution_focal(leaf, torch.tensor(2.25), torch.ones(()))
    loss.backward()
    torch.testing.assert_close(leaf.grad, torch.zeros(5), atol=1e-6, rtol=0)
    assert loss.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-4)
    none = distribution_focal(torch.zeros(0, 4, 5), torch.zeros(0, 4), torch.zeros(0, 1))
    assert none.shape == (0, 4)


# ---------------------------------------------------------------------------------------------- DIoU and CIoU
THEIRS = {"diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}


def plain_ciou(a, b, complete):
    """From the formulas of arXiv:1911.08287, of boxes xyxy."""
    inner_w, inner_h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inner = max(inner_w, 0) * max(inner_h, 0)
    (aw, ah), (bw, bh) = ((c[2] - c[0], c[3] - c[1]) for c in (a, b))
    iou = inner / (aw * ah + bw * bh - inner)
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    cw, ch = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    loss = 1 - iou + (dx**2 + dy**2) / (cw**2 + ch**2)
    if not complete:
        return loss
    v = 4 / math.pi**2 * (math.atan(bw / bh) - math.atan(aw / ah)) ** 2
    return loss + (v**2 / (1 - iou + v) if v else 0.0)


def boxes(seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(3, 50, 2, generator=generator) * 40
    return torch.cat([corner, corner + 1 + torch.rand(3, 50, 2, generator=generator) * 30], 2).unbind()


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("kind", THEIRS)
def test_box_losses_are_those_of_the_formulas_and_of_torchvision(kind, pixel):
    found, wanted, anchors = boxes()
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0), pixel)
    deltas = coder.encode(found, anchors).requires_grad_()
    loss = BoxLoss(kind, 0.0)(deltas, anchors, wanted, coder)
    covered = [coder.extend(x) for x in (found, wanted)]
    expected = [plain_ciou(a, b, kind == "ciou") for a, b in zip(*(x.tolist() for x in covered), strict=True)]
    torch.testing.assert_close(loss, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    leaf = deltas.detach().clone().requires_grad_()
    theirs = THEIRS[kind](coder.extend(coder.decode(leaf, anchors)), covered[1], reduction="none")
    torch.testing.assert_close(loss, theirs, rtol=1e-4, atol=1e-5)
    loss.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(deltas.grad, leaf.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", THEIRS)
def test_distances_of_boxes_that_share_a_location(kind):
    pred, target = torch.tensor([[3.0, 2, 5, 4], [1, 1, 1, 1]]).requires_grad_(), torch.tensor([[1.0, 2, 8, 4]] * 2)
    loss = distance_iou_loss(pred, target, kind, 0.0)
    expected = [plain_ciou((-a, -b, c, d), (-1, -2, 8, 4), kind == "ciou") for a, b, c, d in pred.tolist()]
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize("kind", THEIRS)
def test_box_losses_are_finite_and_still_pull_where_boxes_are_empty_or_apart(kind):
    pred = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 5], [1e-30, 0, 0, 1e-30], [1e4, 1e4, 1e4, 1e4]]).requires_grad_()
    target = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 5], [4, 4, 4, 4], [4, 4, 4, 4]])
    loss = distance_iou_loss(pred, target, kind, 0.0)
    loss.sum().backward()
    assert loss.isfinite().all() and pred.grad.isfinite().all() and loss[1].abs() < 1e-6
    apart = torch.tensor([[0.0, 0, 10, 10]]).requires_grad_()
    BoxLoss(kind, 0.0)(torch.zeros(1, 4), apart, torch.tensor([[30.0, 0, 40, 10]]), BoxCoder()).sum().backward()
    assert apart.grad[0, [0, 2]].sum() < 0


@pytest.mark.parametrize("loss", ["sigmoid_focal", "in_graph", "quality_focal", "varifocal"])
def test_no_gradient_is_too_small_for_fast_numbers(loss):
    """One of 1e-39 makes the convolutions that it passes through many times as slow; it is 0."""
    logits = torch.linspace(-100, 20, 12_001)[:, None].requires_grad_()
    weights = torch.full((len(logits), 1), 0.01)  # over the number of positives
    background = torch.zeros(len(logits), dtype=torch.int64)
    found = {
        "sigmoid_focal": lambda: sigmoid_focal(logits, background, weights[:, 0], 0.25, 2.0),
        "in_graph": lambda: _focal_in_graph(logits, background, weights[:, 0], 0.25, 2.0),
        "quality_focal": lambda: quality_focal(logits, torch.zeros_like(logits), weights).sum(),
        "varifocal": lambda: varifocal(logits, torch.zeros_like(logits), weights).sum(),
    }[loss]()
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[gradient != 0].abs() > 1e-27).all()
    assert gradient[logits < -25].eq(0).all() and gradient[logits > -15].gt(0).all()
