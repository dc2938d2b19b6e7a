"""The dynamic head: each attention against its formula, and the detectors that it stands in."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from detframe.config.effects import without_effect
from detframe.modeling import build_detection_model
from detframe.modeling.rpn.dyhead import DyHead, DynamicBlock, DynamicReLU
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

KEYS = {**DENSE, "MODEL.FCOS.NUM_CONVS": 0, "MODEL.TOOD.NUM_CONVS": 1, "MODEL.FCOS.INFERENCE_TH": 0.001}


def maps(sides=(8, 4, 2)):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, side, side + 1, generator=generator) for side in sides]


def random_(module):
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.eval()


@torch.no_grad()
def test_the_attention_of_tasks_by_its_formula():
    layer, x = random_(DynamicReLU(4)), maps()[0]
    found = layer(x)
    for image in range(2):
        means = x[image].mean((1, 2))
        hidden = (layer.numbers[0].weight[:, :, 0, 0] @ means + layer.numbers[0].bias).clamp(min=0)
        raw = (layer.numbers[2].weight[:, :, 0, 0] @ hidden + layer.numbers[2].bias).tolist()
        numbers = [2 / (1 + math.exp(-value)) - 1 for value in raw]
        for c in range(4):
            a1, a2, b1, b2 = 1 + numbers[c], numbers[4 + c], numbers[8 + c] / 2, numbers[12 + c] / 2
            for value, out in zip(x[image, c].flatten().tolist(), found[image, c].flatten().tolist(), strict=True):
                assert out == pytest.approx(max(a1 * value + b1, a2 * value + b2), abs=1e-4)


def test_it_begins_as_a_relu():
    layer, x = DynamicReLU(4), maps()[0]
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(layer(x), x.relu())


@torch.no_grad()
def test_the_attention_of_levels_by_its_formula():
    block = random_(DynamicBlock(4, 3, ""))
    for x in maps():
        for image in range(2):
            mean = float((x[image].mean((1, 2)) * block.scale.weight[0, :, 0, 0]).sum() + block.scale.bias)
            assert float(block._weight(x)[image]) == pytest.approx(min(1.0, max(0.0, (mean + 1) / 2)), abs=1e-5)


def sample(x, row, column):
    """Bilinear, zeros outside; (C,) of a map (C, H, W)."""
    out = torch.zeros(len(x))
    for r in range(math.floor(row), math.floor(row) + 2):
        for c in range(math.floor(column), math.floor(column) + 2):
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                out += (1 - abs(row - r)) * (1 - abs(column - c)) * x[:, r, c]
    return out


@torch.no_grad()
def test_the_attention_of_places_by_its_formula():
    """The average over a level and its neighbours of sums over nine points that move and have a weight."""
    block, levels = random_(DynamicBlock(4, 3, "")), maps()
    for at in range(3):
        own, expected = levels[at][0], torch.zeros_like(levels[at][0])
        moves = block.points(levels[at])[0]
        sources = [(i, n) for i, n in ((at - 1, "finer"), (at, "same"), (at + 1, "coarser")) if 0 <= i < 3]
        for index, name in sources:
            x = F.interpolate(levels[index], size=own.shape[-2:], mode="bilinear")[0]
            conv = block.convs[name].conv
            for i, j in product(range(own.shape[1]), range(own.shape[2])):
                total = conv.bias.clone()
                for k in range(9):
                    row = i + k // 3 - 1 + float(moves[2 * k, i, j])
                    column = j + k % 3 - 1 + float(moves[2 * k + 1, i, j])
                    value = sample(x, row, column) * moves[18 + k, i, j].sigmoid()
                    total += conv.weight[:, :, k // 3, k % 3] @ value
                expected[:, i, j] += total / len(sources)
        torch.testing.assert_close(block._around(levels, at)[0], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sides", [(9, 5, 3), (7,)], ids=["odd sides", "one level"])
def test_maps_keep_their_sizes_and_every_parameter_learns(sides):
    head, levels = DyHead(2, 4, len(sides), ""), maps(sides)
    found = head(levels)
    assert [x.shape for x in found] == [x.shape for x in levels]
    sum(x.square().sum() for x in found).backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["FCOS", "ATSS", "GFL", "TOOD"])
def test_detectors_with_it(name):
    torch.manual_seed(0)
    model = build_detection_model(tiny_config(KEYS, "MODEL.RPN.NAME", name, "MODEL.DYHEAD.NUM_BLOCKS", 1))
    for targets in ([FULL, EMPTY], [EMPTY, EMPTY]):
        model.zero_grad()
        losses = model.train()(make_images(), targets)
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        first, second = model.eval()(make_images()), model(make_images())
    assert all(torch.equal(a[key], b[key]) for a, b in zip(first, second, strict=True) for key in a)


def test_without_blocks_there_is_none():
    plain = build_detection_model(tiny_config(KEYS, "MODEL.RPN.NAME", "GFL"))
    assert plain.rpn.head.dyhead is None and not any("dyhead" in name for name in plain.state_dict())


def test_heads_that_do_not_know_it_say_so():
    (said,) = without_effect(tiny_config(DENSE, "MODEL.RPN.NAME", "RetinaNet", "MODEL.DYHEAD.NUM_BLOCKS", 2))
    assert said == "MODEL.DYHEAD.NUM_BLOCKS has no effect: MODEL.RPN.NAME is 'RetinaNet'"
