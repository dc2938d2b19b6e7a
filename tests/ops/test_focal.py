"""The focal loss of one pass over the logits equals torchvision's, value and gradient."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from detframe.ops import losses, sigmoid_focal


def _case(rows: int, classes: int, scale: float):
    generator = torch.Generator().manual_seed(rows)
    logits = scale * torch.randn(rows, classes, generator=generator)
    labels = torch.randint(-classes, classes + 1, (rows,), generator=generator).clamp(min=0)
    return logits, labels, torch.rand(rows, generator=generator)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 1.5), (0.25, 0.0)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_gradient(alpha, gamma, scale, monkeypatch):
    monkeypatch.setattr(losses, "ENTRIES_ON_CPU", 100)  # several pieces, the last one shorter
    logits, labels, weights = _case(103, 7, scale)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().double().requires_grad_()
    one_hot = torch.nn.functional.one_hot(labels, 8)[:, 1:].double()
    actual = sigmoid_focal(ours, labels, weights, alpha, gamma)
    expected = (sigmoid_focal_loss(theirs, one_hot, alpha, gamma) * weights[:, None]).sum()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-5)
    (3 * actual).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-4)


def test_rows_of_weight_zero_are_left_out():
    logits, labels, weights = _case(20, 3, 1.0)
    weights[5:] = 0
    leaf = logits.clone().requires_grad_()
    loss = sigmoid_focal(leaf, labels, weights, 0.25, 2.0)
    torch.testing.assert_close(loss, sigmoid_focal(logits[:5], labels[:5], weights[:5], 0.25, 2.0))
    loss.backward()
    assert (leaf.grad[5:] == 0).all() and (leaf.grad[:5] != 0).all()


def test_the_arguments_stay_as_they_are_and_half_precision_is_computed_in_float32():
    logits, labels, weights = _case(20, 3, 1.0)
    low = logits.bfloat16().requires_grad_()
    before = (low.detach().clone(), labels.clone(), weights.clone())
    loss = sigmoid_focal(low, labels, weights, 0.25, 2.0)
    assert all(torch.equal(a, b) for a, b in zip((low, labels, weights), before, strict=True))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, sigmoid_focal(low.detach().float(), labels, weights, 0.25, 2.0))
    loss.backward()
    assert low.grad.dtype == torch.bfloat16


def test_no_rows():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = sigmoid_focal(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0), 0.25, 2.0)
    loss.backward()
    assert loss == 0 and logits.grad.shape == (0, 3)


def test_the_levels_of_a_batch_are_as_if_they_were_joined(monkeypatch):
    monkeypatch.setattr(losses, "ENTRIES_ON_CPU", 40)
    logits, labels, weights = (x.unflatten(0, (2, 12)) for x in _case(24, 3, 2.0))
    leaf, joined = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    levels = torch.split(leaf, [7, 1, 4], 1)
    loss = sigmoid_focal(levels, labels, weights, 0.25, 2.0)
    expected = sigmoid_focal(joined.flatten(0, 1), labels.flatten(), weights.flatten(), 0.25, 2.0)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(leaf.grad, joined.grad)


@pytest.mark.parametrize("gamma", [2.0, 1.5, 0.5, 0.0])
def test_in_a_graph_it_is_the_same(gamma):
    """Also where a score is 0 or 1 in float32."""
    logits, labels, weights = (x.unflatten(0, (2, 12)) for x in _case(24, 3, 60.0))
    found, wanted = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    def loss(x):
        return sigmoid_focal(torch.split(x, [7, 1, 4], 1), labels, weights, 0.25, gamma)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)(found)
    torch.testing.assert_close(compiled, loss(wanted))
    compiled.backward()
    loss(wanted).backward()
    torch.testing.assert_close(found.grad, wanted.grad)
