"""Steps on many GPUs: formulas beside plain simulations, buckets beside those of PyTorch, and steps that are taken."""

from __future__ import annotations

import argparse
import json
import math

import pytest
import torch
from torch import nn

from detframe.cli.benchmark import main
from detframe.cli.benchmark_scaling import SMALL_SUMS, StepMeter, _real, fit_link
from detframe.cli.scaling import Bucket, Cluster, Link, StepTimes, fill_buckets, predict, step_seconds, summed_at
from detframe.layers import normalizers
from detframe.modeling import build_detection_model
from tests.engine.ranks import DENSE, batch_with, tiny_config

FAST = Link(200e9, 10e-6)
SLOW = Link(10e9, 20e-6)
CLUSTER = Cluster(8, FAST, SLOW, Link(math.inf, 40e-6))
STEP = StepTimes(2, 0.030, 0.060, 0.010, (Bucket(2**20, 0.005), Bucket(80_000_000, 0.040), Bucket(80_000_000, 0.060)))


# ---------------------------------------------------------------------------------------------- formulas
def simulated_ring(values: list[list[float]], size: float, link: Link) -> tuple[list[list[float]], float]:
    """Ranks in a ring, each with as many chunks as there are ranks: sums, and the seconds of all rounds."""
    ranks, seconds = len(values), 0.0
    for phase, base in (("add", 0), ("copy", 1)):
        for round_index in range(ranks - 1):
            sent = [(rank, (rank + base - round_index) % ranks) for rank in range(ranks)]
            parcels = [((rank + 1) % ranks, chunk, values[rank][chunk]) for rank, chunk in sent]
            for rank, chunk, value in parcels:
                values[rank][chunk] = values[rank][chunk] + value if phase == "add" else value
            seconds += link.latency + size / ranks / link.bandwidth
    return values, seconds


@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
def test_a_ring_takes_as_long_as_its_rounds(ranks):
    values = [[float(100 * rank + chunk) for chunk in range(ranks)] for rank in range(ranks)]
    expected = [sum(row[chunk] for row in values) for chunk in range(ranks)]
    summed, seconds = simulated_ring(values, 5e8, SLOW)
    assert summed == [expected] * ranks
    assert SLOW.ring(5e8, ranks) == pytest.approx(seconds)


def test_one_gpu_sums_nothing():
    assert SLOW.all_reduce(1e9, 1) == 0
    assert step_seconds(STEP, 1, CLUSTER) == pytest.approx(0.1)


def test_few_bytes_go_by_trees_and_many_by_a_ring():
    # 256 ranks: 2 * 8 * 20 us, instead of 510 * 20 us; 1 GB in a ring of 8: 1.75 GB over 10 GB/s
    assert SLOW.all_reduce(0, 256) == pytest.approx(320e-6)
    assert SLOW.all_reduce(1e9, 8) == pytest.approx(14 * 20e-6 + 0.175)


def simulated_step(step: StepTimes, gpus: int, link: Link, tick: float = 1e-6) -> float:
    """Backward pass and sums, tick by tick: a sum begins when its gradients are there and the link is free."""
    waiting, left, clock = list(step.buckets), 0.0, 0.0
    while waiting or left > 0 or clock < step.backward:
        if left <= 0 and waiting and waiting[0].ready <= clock:
            left = link.all_reduce(waiting.pop(0).size, gpus)
        left, clock = left - tick, clock + tick
    return step.forward + clock + step.optimizer


@pytest.mark.parametrize("gpus", [8, 64, 256])
def test_sums_hide_behind_the_backward_pass(gpus):
    link = CLUSTER.link(gpus)
    assert step_seconds(STEP, gpus, CLUSTER) == pytest.approx(simulated_step(STEP, gpus, link), abs=2e-5)
    assert predict(STEP, gpus, CLUSTER).exposed == pytest.approx(max(0, summed_at(STEP.buckets, link, gpus) - 0.060))


def test_a_step_by_hand():
    """64 GPUs, by trees: 80 MB take 12 * 20 us + 2 * 8 ms = 16.24 ms; the last ones begin at 60 ms."""
    row = predict(STEP, 64, CLUSTER)
    assert row.seconds == pytest.approx(0.030 + 0.060 + 0.01624 + 0.010)
    assert row.images_per_s == pytest.approx(128 / 0.11624) and row.efficiency == pytest.approx(0.1 / 0.11624)
    assert (row.bound, row.cost) == ("network bandwidth", pytest.approx(0.016))


# ---------------------------------------------------------------------------------------------- what binds
@pytest.mark.parametrize(
    "gpus, changes, bound",
    [
        (8, {}, "computing"),
        (8, {"node": SLOW}, "node bandwidth"),
        (64, {}, "network bandwidth"),
        (64, {"network": Link(1e12, 5e-3)}, "network latency"),
        (8, {"host": Link(math.inf, 1e-3)}, "latency between the CPUs"),
        (64, {"loader": 10.0}, "loader"),
        (256, {"storage": 1000.0}, "storage"),
    ],
)
def test_the_assumption_that_binds_is_named(gpus, changes, bound):
    step = StepTimes(**{**vars(STEP), "host": 1})
    row = predict(step, gpus, Cluster(**{**vars(CLUSTER), **changes}))
    assert row.bound == bound
    assert (row.efficiency > 0.97) == (bound == "computing")


def test_the_loader_works_beside_the_step():
    """20 images/s give two images in 100 ms, as long as the step takes by itself: nothing is lost."""
    assert step_seconds(STEP, 1, Cluster(**{**vars(CLUSTER), "loader": 20.0})) == pytest.approx(0.1)
    assert step_seconds(STEP, 1, Cluster(**{**vars(CLUSTER), "loader": 10.0})) == pytest.approx(0.2)
    assert step_seconds(STEP, 256, Cluster(**{**vars(CLUSTER), "storage": 1000.0})) == pytest.approx(0.512)


def test_a_step_of_another_length_keeps_its_shares():
    half = STEP.scaled(0.05)
    assert (half.seconds, half.forward, half.buckets[1].ready) == pytest.approx((0.05, 0.015, 0.020))
    assert half.gradient_bytes == STEP.gradient_bytes


# ---------------------------------------------------------------------------------------------- measuring
class Small(nn.Module):
    """Three layers of 5.8 MB each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(size, size) for size in (1200, 1200, 1200)])

    def forward(self, images, targets):
        return {"loss": self.layers(torch.stack(images)).square().mean()}


def test_buckets_are_those_of_distributed_data_parallel():
    from torch import distributed as dist

    numbers = torch.Generator().manual_seed(0)
    lengths = [int(10 ** (2 + 5 * torch.rand((), generator=numbers))) for _ in range(60)]
    tensors = [torch.empty(length) for length in [256, *lengths]]
    groups, _ = dist._compute_bucket_assignment_by_size(tensors, [2**20, 25 * 2**20])
    found = fill_buckets([(4 * len(tensor), float(index)) for index, tensor in enumerate(tensors)])
    assert [bucket.size for bucket in found] == [sum(4 * len(tensors[index]) for index in group) for group in groups]
    assert [bucket.ready for bucket in found] == [float(max(group)) for group in groups]
    assert len(found) > 5 and len(groups[0]) > 1


def test_gradients_come_from_the_last_layer_to_the_first():
    model = Small()
    meter = StepMeter(model, ([torch.ones(1200)] * 64, []), False, torch.device("cpu"))
    for _ in range(5):
        meter.step()
    names = {id(p): name for name, p in model.named_parameters()}
    order = [names[id(p)] for p, _ in meter.arrivals.in_order()]
    assert [name.split(".")[1] for name in order] == ["2", "2", "1", "1", "0", "0"]
    shares = [share for _, share in meter.arrivals.in_order()]
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] <= 1
    step = meter.medians()
    assert step.gradient_bytes == 4 * sum(p.numel() for p in model.parameters())
    assert step.images == 64 and min(step.forward, step.backward, step.optimizer) > 0
    assert all(0 < bucket.ready <= step.backward for bucket in step.buckets)


def test_a_link_is_found_from_its_own_sums():
    link = fit_link(SLOW.ring(0, 4), SLOW.ring(2**25, 4), 4)
    assert (link.bandwidth, link.latency) == pytest.approx((SLOW.bandwidth, SLOW.latency))


@pytest.mark.parametrize("words", [(), (*DENSE, "MODEL.RPN.NAME", "FCOS"), (*DENSE, "MODEL.RPN.NAME", "RetinaNet")])
def test_a_step_waits_for_as_few_small_sums_as_assumed(words, monkeypatch):
    """What losses are divided by; beside it, whether the step is finite, and the buffers."""
    counts = []
    monkeypatch.setattr(normalizers, "sum_over_ranks", lambda value: counts.append(1) or value)
    model = build_detection_model(tiny_config((*words, "MODEL.NUM_CLASSES", 5)))
    model.train()(*map(list, zip(batch_with(2), batch_with(0), strict=True)))
    assert 0 < len(counts) + 2 <= SMALL_SUMS


@pytest.mark.slow
def test_real_steps_of_two_processes_take_about_as_long_as_computed():
    """Sums of 17 MB by Gloo over the loopback are most of this step; a busy machine is allowed a factor of three."""
    args = argparse.Namespace(ranks=2, rounds=7)
    found = _real(args, Small(), ([torch.ones(1200)], []), False)
    assert 1 / 3 < found["computed_s"] / found["measured_s"] < 3
    assert found["measured_s"] > found["alone_s"]


def test_two_processes_take_their_steps_and_sum_their_gradients():
    """How long that takes is the slow test's; here, that each number is of what its name says."""
    found = _real(argparse.Namespace(ranks=2, rounds=1), Small(), ([torch.ones(1200)], []), False)
    assert found.keys() == {"computed_s", "measured_s", "alone_s", "bandwidth", "latency"}
    assert min(found.values()) > 0 and all(math.isfinite(value) for value in found.values())
    assert found["computed_s"] > found["alone_s"]  # 17 MB of gradients are summed beside the step


# ---------------------------------------------------------------------------------------------- the command
WORDS = ["--what", "scaling", "--size", "64", "64", "--batch", "1", "--rounds", "1", "--precision", "fp32"]
TINY = ["MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", "3"]


def test_the_command_writes_every_number_of_gpus(tmp_path, root, caplog):
    path = tmp_path / "scaling.json"
    config = ["--config-file", str(root / "configs" / "quick" / "fcos_R_18_FPN_shapes.yaml"), "DATASETS.TRAIN", "()"]
    words = [*WORDS, "--step-ms", "100", "--gpus", "1", "16", "--network", "0.01", "50", "--json", str(path)]
    assert main([*words, *config, *TINY]) == 0
    (found,) = json.loads(path.read_text(), parse_constant=pytest.fail)["scaling"].values()
    one, many = found["fp32"]["predictions"]
    assert (one["gpus"], one["seconds"], one["bound"]) == (1, pytest.approx(0.1), "computing")
    assert many["gpus"] == 16 and many["bound"] == "network bandwidth" and many["efficiency"] < 0.5
    assert "bound by: network bandwidth" in caplog.text and "no data set" in caplog.text


@pytest.mark.parametrize(
    "words, told",
    [
        (["--gpus", "0"], "--gpus: must be 1 or more, not 0"),
        (["--network", "12.5", "--threads", "1"], "--network: expected 2 arguments"),
        (["--node", "-1", "10"], "--node: must be a number above 0, not -1"),
        (["--host-latency", "nan"], "--host-latency: must be a number above 0, not nan"),
        (["--storage", "9223372036854775808"], "--storage: must be at most 1e+15, not 9223372036854775808"),
        (["--step-ms", "90", "--ranks", "2"], "--ranks takes real steps here, --step-ms says how long they are"),
    ],
)
def test_what_cannot_be_is_refused(words, told, capsys):
    try:
        code = main([*WORDS, *words, *TINY])
    except SystemExit as end:
        code = end.code
    assert code == 2 and told in capsys.readouterr().err
