"""The share of a step that its convolutions and matrix products take: which they are, run alone, and the rest."""

from __future__ import annotations

import json
from collections import Counter

import torch
from torch import nn
from torch.nn import functional as F

from detframe.cli import benchmark_roofline
from detframe.cli.benchmark import main
from detframe.cli.roofline import Layout, bare, recorded

IMAGES = torch.rand(2, 3, 12, 16).to(memory_format=torch.channels_last)


class Small(nn.Module):
    """Two convolutions, of which one has groups, and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, groups=8)
        self.last = nn.Linear(8, 4)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))).sum()


def training(bf16=False):
    model = Small()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(IMAGES)
        loss.backward()

    return step


def test_convolutions_and_products_of_forward_and_backward_are_kept():
    calls = recorded(training())
    assert Counter(call.name for call in calls) == {
        "aten::convolution": 2,
        "aten::convolution_backward": 2,
        "aten::addmm": 1,
        "aten::mm": 2,
    }
    image, weight, bias, stride, *_, groups = calls[0].args
    assert image == Layout((2, 3, 12, 16), IMAGES.stride(), torch.float32, torch.device("cpu"))
    assert (weight.shape, bias.shape, stride, groups) == ((8, 3, 3, 3), (8,), (2, 2), 1)
    assert weight.stride == (27, 1, 9, 3)
    assert calls[1].args[-1] == 8
    # no gradient of the image is asked for, but of both weights
    assert [call.args[-1] for call in calls if call.name.endswith("backward")] == [
        (True, True, True),
        (False, True, True),
    ]


def test_inference_has_no_backward_part_and_bf16_is_run_in_bf16():
    model = Small()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        calls = recorded(lambda: model(IMAGES))
    assert [call.name for call in calls] == ["aten::conv2d", "aten::conv2d", "aten::linear"]
    tensors = [x for call in calls for x in call.args if isinstance(x, Layout)]
    assert {x.dtype for x in tensors} == {torch.bfloat16}


def test_alone_the_same_calls_are_made_again():
    for bf16 in (False, True):
        calls = recorded(training(bf16))
        again = recorded(bare(calls))
        assert [(c.name, c.args, c.kwargs) for c in again] == [(c.name, c.args, c.kwargs) for c in calls]


def test_nothing_but_products_is_made_alone():
    names = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    calls = recorded(training())
    run = bare(calls)
    with Names():
        run()
    assert len(names) == len(calls)


def test_the_share_is_the_median_of_the_rounds_ratios():
    found = benchmark_roofline.share_of(training(), lambda steps: [[2.0, 4.0, 10.0], [1.0, 3.0, 9.0]])
    assert (found["step_s"], found["bare_s"], found["share"], found["calls"]) == (4.0, 3.0, 0.75, 7)
    assert not [key for key in found["rest"] if key.startswith("aten") and ("conv" in key or "mm" in key)]
    assert any("relu" in key or "threshold" in key or "clamp" in key for key in found["rest"])
    assert 0 < sum(found["rest"].values()) < 1


def test_the_command_writes_training_and_inference_in_both_precisions(tmp_path, capsys):
    path = tmp_path / "results.json"
    config = tmp_path / "small.yaml"
    config.write_text(
        "MODEL: {DEVICE: cpu, NUM_CLASSES: 3, BACKBONE: {CONV_BODY: R-18-FPN}, FPN: {OUT_CHANNELS: 32},\n"
        "  RPN: {POST_NMS_TOP_N_TRAIN: 20, POST_NMS_TOP_N_TEST: 20, FPN_POST_NMS_TOP_N_TRAIN: 20,\n"
        "        FPN_POST_NMS_TOP_N_TEST: 20},\n"
        "  ROI_HEADS: {BATCH_SIZE_PER_IMAGE: 16}, ROI_BOX_HEAD: {MLP_HEAD_DIM: 16}}\n",
        encoding="utf-8",
    )
    words = ["--what", "roofline", "--config-file", str(config), "--size", "64", "64", "--batch", "1", "--rounds", "1"]
    assert main([*words, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["roofline"]
    names = {f"small/{step}/{precision}" for step in ("train", "inference") for precision in ("fp32", "bf16")}
    assert set(rows) == names
    for row in rows.values():
        assert row["share"] == row["bare_s"] / row["step_s"] > 0
        assert row["rest"]
    assert rows["small/train/fp32"]["calls"] > 1.5 * rows["small/inference/fp32"]["calls"]
