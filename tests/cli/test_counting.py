"""The counter of operations and waits, each kind of them; and what the benchmark prints of a config."""

from __future__ import annotations

import json

import pytest
import torch
from torchvision.ops import nms

from detframe.cli.benchmark import main
from detframe.cli.counting import OperationCounter

ROWS = torch.arange(6.0)
MASK = ROWS > 2
BOXES = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])


def counted(work):
    with OperationCounter() as counter, torch.no_grad():
        work()
    return counter


@pytest.mark.parametrize(
    ("work", "wait"),
    [
        (lambda: ROWS[0].item(), "aten::_local_scalar_dense"),
        (lambda: float(ROWS[1]), "aten::_local_scalar_dense"),
        (lambda: bool(MASK.any()), "aten::_local_scalar_dense"),
        (lambda: MASK.nonzero(), "aten::nonzero"),
        (lambda: torch.where(MASK), "aten::nonzero"),
        (lambda: ROWS[MASK], "aten::index"),
        (lambda: ROWS.clone().index_put_((MASK,), torch.zeros(())), "aten::index_put_"),
        (lambda: ROWS.masked_select(MASK), "aten::masked_select"),
        (lambda: ROWS.unique(), "aten::_unique2"),
        (lambda: ROWS.unique_consecutive(), "aten::unique_consecutive"),
        (lambda: ROWS.long().bincount(), "aten::bincount"),
        (lambda: torch.equal(ROWS, ROWS + 1), "aten::equal"),
        (lambda: torch.repeat_interleave(ROWS, MASK.long()), "aten::repeat_interleave"),
        (lambda: nms(BOXES, ROWS[:3], 0.5), "torchvision::nms"),
        (lambda: ROWS.tolist(), "tolist"),
        (lambda: ROWS.cpu(), "cpu"),
        (lambda: ROWS.numpy(), "numpy"),
    ],
)
def test_what_needs_a_value_waits_for_it(work, wait):
    assert wait in counted(work).waits


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.where(MASK, ROWS, 0.0),
        lambda: ROWS[torch.tensor([1, 3])],
        lambda: ROWS.masked_fill(MASK, 0.0),
        lambda: ROWS.topk(2),
        lambda: torch.repeat_interleave(ROWS, 2),
        lambda: ROWS.sort(),
        lambda: (ROWS * MASK).sum() / MASK.sum(),
    ],
)
def test_what_has_a_fixed_shape_does_not_wait(work):
    assert counted(work).totals[1] == 0


def test_a_view_and_an_allocation_are_no_operations():
    counter = counted(lambda: (ROWS.view(2, 3).t()[0], ROWS.detach(), torch.empty(3), ROWS[None].expand(4, 6)))
    assert counter.totals == (0, 0)


def test_what_writes_in_place_is_one():
    target = torch.zeros(6)
    assert counted(lambda: target.add_(ROWS)).operations == {"aten::add_": 1}


def test_the_backward_pass_counts():
    x = torch.ones(3, requires_grad=True)
    with OperationCounter() as forward:
        y = (x * 2).sum()
    with OperationCounter() as backward:
        y.backward()
    assert forward.operations == {"aten::mul": 1, "aten::sum": 1}
    assert backward.operations["aten::mul"] == 1


def test_an_operator_of_detframe_counts_as_what_it_is_made_of():
    from detframe.ops.nms import nms as rows_of_nms

    group = torch.zeros(3, dtype=torch.int64)
    counter = counted(lambda: rows_of_nms(BOXES, ROWS[:3], group, group, 1, 0.5, 3))
    assert "detframe::nms" not in counter.operations
    assert counter.waits["torchvision::nms"] >= 1
    assert counter.operations["torchvision::nms"] >= 1


def test_lines_of_detframe_are_named():
    from detframe.ops.nms import nms as rows_of_nms

    group = torch.zeros(3, dtype=torch.int64)
    counter = counted(lambda: rows_of_nms(BOXES, ROWS[:3], group, group, 1, 0.5, 3))
    assert all(line.startswith("ops/nms.py:") for line in counter.wait_lines)
    assert counter.wait_lines.total() == counter.waits.total()


SMALL = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.WEIGHTS", ""]


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("fcos_R_18_FPN_shapes", ["MODEL.COMPILE", "dense"]),  # whose graphs would hide what is in them
        ("fcos_R_18_FPN_shapes", ["INPUT.CHANNELS", "2", "INPUT.PIXEL_MEAN", "(9, 9)", "INPUT.PIXEL_STD", "(5, 5)"]),
        ("keypoint_rcnn_R_18_FPN_shapes", []),  # of as many keypoints as COCO's persons have
    ],
)
def test_the_benchmark_counts_a_config(config, more, tmp_path):
    words = ["--what", "ops", "--config-file", f"configs/quick/{config}.yaml", "--size", "64", "96"]
    assert main([*words, "--json", str(tmp_path / "out.json"), *SMALL, *more]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["ops"]
    assert set(rows) == {f"{config}/train", f"{config}/inference"}
    assert all(row["detframe"]["operations"] > 100 for row in rows.values())
