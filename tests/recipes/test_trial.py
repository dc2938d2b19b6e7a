"""A trial of the model: which batches, what it measures, what it finds, and that it leaves no trace."""

from __future__ import annotations

import math
import mmap
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.data import build_train_loader, tiled
from detframe.engine.trainer import Trainer
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.modeling.compiling import Graph, Graphs
from detframe.recipes import trial as trial_module
from detframe.recipes.memory import MemoryWatch, is_out_of_memory
from detframe.recipes.trial import Trial, try_model
from detframe.recipes.trying import Run, TriedBatch
from tests.recipes.sets import config, make_records, square

SMALL = (
    *("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.RESNETS.NORM", "GN", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 2, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.AMP", "off"),
    *("MODEL.RPN.POST_NMS_TOP_N_TRAIN", 20, "MODEL.RPN.POST_NMS_TOP_N_TEST", 20, "SOLVER.MAX_ITER", 10),
    *("DATALOADER.NUM_WORKERS", 0, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
)
ONE, MANY = [square(20, 20, 16)], [square(8 + 12 * i, 20, 10) for i in range(5)]


@pytest.fixture
def records(tmp_path):
    """Two images without objects, two with many, a tall one, a wide one."""
    sizes = ((48, 64, []), (48, 64, []), (48, 64, MANY), (48, 64, MANY), (96, 48, ONE), (48, 128, ONE), (64, 64, ONE))
    return make_records(*sizes, folder=tmp_path)


def named(trial, name):
    return [batch for batch in trial.batches if batch.name == name]


def test_all_kinds_of_batches(records):
    trial = try_model(config(*SMALL), records, records, steps=2)
    assert [batch.name for batch in trial.batches] == ["empty", *["ordinary"] * 3, "densest", "largest"]
    assert all(not batch.failure and batch.seconds > 0 and batch.num_images == 2 for batch in trial.batches)
    assert (named(trial, "empty")[0].num_objects, named(trial, "densest")[0].num_objects) == (0, 10)
    assert named(trial, "largest")[0].size_hw == (96, 128)  # padded together
    assert trial.findings() == ()
    assert 0 < trial.seconds_per_step and 0 < trial.decode_seconds and 0 < trial.eval_seconds
    assert trial.trained == trial.parameters > 10_000
    assert trial.device == "cpu" and not trial.stopped
    assert (trial.max_iter, trial.evaluations, trial.eval_images) == (10, 1, 7)


def test_a_few_batches_of_random_sizes_stand_for_the_mean(records):
    keys = (*SMALL, "MODEL.NUM_CLASSES", 2)
    cfg = config(*keys, "INPUT.MIN_SIZE_TRAIN", (32, 160), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range")
    model = build_detection_model(cfg)

    def seconds(size_hw: tuple[int, int]) -> float:
        return 1e-6 * math.prod(model.preprocessor.canvases.canvas(size_hw))

    run = Run(cfg, records, model, torch.device("cpu"), MemoryWatch(torch.device("cpu")), 0.0)
    for size_hw in ((32, 64), (40, 60), (64, 64), (100, 96)):  # of small images, as luck would have it
        run.tried.append(TriedBatch("ordinary", 2, 2, size_hw, seconds(size_hw), 0))
    canvases = [model.preprocessor(images).tensors.shape for images, _ in islice(build_train_loader(cfg, records), 400)]
    mean = 1e-6 * sum(h * w for *_, h, w in canvases) / len(canvases)
    assert run.seconds_per_step() == pytest.approx(mean, rel=0.05) and mean > 0.012
    run.cfg = config(*keys)  # images keep their sizes
    assert run.seconds_per_step() == seconds((64, 64))


def test_a_step_that_makes_graphs_is_not_the_time_of_a_step(records, monkeypatch):
    step, calls = Trainer.step, []

    def compiling(trainer):
        step(trainer)
        calls.append(trainer)
        if len(calls) == 1:
            trainer.model.graphs.made.append(Graph("training step", "training, 2x3x64x64", 1.0))
            time.sleep(1.5)

    made = trial_module.build_detection_model
    monkeypatch.setattr(trial_module, "build_detection_model", lambda cfg: with_graphs(made(cfg)))
    monkeypatch.setattr(Trainer, "step", compiling)
    trial = try_model(config(*SMALL), records, records, steps=0, seconds=0.0)  # only the first batch is tried
    (batch,) = trial.batches
    assert len(calls) == 2 and batch.graphs >= 1.5 > trial.seconds_per_step == batch.seconds
    assert any("the first steps made graphs of MODEL.COMPILE, in " in line for line in trial.lines())


def with_graphs(model):
    model.graphs = Graphs()
    return model


def test_it_leaves_no_trace(records, tmp_path, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    cfg = config(*SMALL, "SOLVER.EMA_DECAY", 0.9)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), cfg.dump())
    files = sorted(tmp_path.rglob("*"))
    try_model(cfg, records, steps=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert cfg.dump() == before[2]
    assert sorted(tmp_path.rglob("*")) == files


def test_without_images_that_have_no_object_some_lose_theirs(tmp_path):
    trial = try_model(config(*SMALL), make_records((48, 64, MANY), folder=tmp_path), steps=0)
    assert named(trial, "empty")[0].num_objects == 0
    assert named(trial, "densest")[0].num_images == 2  # the one image twice
    assert trial.evaluations == 0


def test_the_largest_size_of_the_training_is_tried(tmp_path):
    cfg = config(*SMALL, "INPUT.MIN_SIZE_TRAIN", (32, 64, 48), "INPUT.MAX_SIZE_TRAIN", 200)
    trial = try_model(cfg, make_records((40, 80, ONE), folder=tmp_path), steps=0)
    assert named(trial, "largest")[0].size_hw == (64, 128)
    jitter = ("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 80, "INPUT.LSJ.MIN_SCALE", 0.5, "INPUT.LSJ.MAX_SCALE", 2.0)
    trial = try_model(config(*SMALL, *jitter), make_records((40, 40, ONE), folder=tmp_path), steps=0)
    assert named(trial, "largest")[0].size_hw == (80, 80)


@pytest.mark.parametrize("max_empty", [0.0, 0.25])
def test_tiles_are_tried_as_they_are_trained(records, max_empty):
    keys = (
        "INPUT.TILES.SIZE",
        40,
        "INPUT.TILES.OVERLAP",
        0,
        "INPUT.TILES.MAX_EMPTY",
        max_empty,
        "SOLVER.MAX_ITER",
        "2ep",
    )
    trial = try_model(config(*SMALL, *keys), records, records, steps=1)
    assert [batch.name for batch in trial.batches] == ["empty", "ordinary", "ordinary", "densest", "largest"]
    assert all(not batch.failure and batch.size_hw <= (40, 40) for batch in trial.batches)
    assert trial.findings() == ()
    tiles = tiled(config(*keys), records)
    full = int((tiles.num_objects > 0).sum())
    assert (
        trial.eval_images == len(tiles) and trial.max_iter == 2 * (full + int(full * max_empty / (1 - max_empty))) / 2
    )


def test_the_share_of_one_of_several_processes(records):
    trial = try_model(config(*SMALL, "SOLVER.IMS_PER_BATCH", 6), records, steps=0, processes=2, extremes=False)
    assert trial.batch_size == 3
    assert [batch.name for batch in trial.batches] == ["empty", "ordinary"]


def test_epochs_and_accumulated_parts(records):
    keys = ("SOLVER.MAX_ITER", "4ep", "SOLVER.ACCUMULATE_STEPS", 2, "TEST.EVAL_PERIOD", "1ep")
    trial = try_model(config(*SMALL, *keys), records, records, steps=0, extremes=False)
    assert trial.max_iter == 14  # 7 images in batches of 2
    assert trial.evaluations == 4
    assert not trial.findings()


# ------------------------------------------------------------------ what goes wrong
@pytest.fixture
def failing(monkeypatch):
    """Make the forward pass do something else where a condition on (images, targets) holds."""
    forward = GeneralizedRCNN.forward

    def install(condition, act):
        def changed(self, images, targets=None):
            if targets is not None and condition(images, targets):
                return act(forward(self, images, targets))
            return forward(self, images, targets)

        monkeypatch.setattr(GeneralizedRCNN, "forward", changed)

    return install


def dense(images, targets):
    return sum(len(target["labels"]) for target in targets) >= 10


def wide(images, targets):
    return max(image.shape[-1] for image in images) == 128 and max(image.shape[-2] for image in images) == 96


def test_losses_that_are_not_finite(records, failing):
    failing(dense, lambda losses: {**losses, "loss_rpn_box": losses["loss_rpn_box"] * math.nan})
    trial = try_model(config(*SMALL, "SEED", 1), records, steps=0)
    assert [b.name for b in trial.batches if b.failure] == ["densest"]
    (finding,) = trial.findings()
    assert (finding.code, finding.severity, finding.count) == ("non-finite", "error", 1)
    assert finding.text.startswith(
        "batch, the densest one of 2 images of up to 48x64 with 10 objects, gives what is not"
    )
    assert finding.text.endswith("not finite: loss_rpn_box")
    assert math.isnan(named(trial, "densest")[0].seconds)
    assert not named(trial, "largest")[0].failure  # the trial goes on


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_does_not_suffice(records, failing, error):
    def refuse(losses):
        raise error

    failing(wide, refuse)
    trial = try_model(config(*SMALL), records, steps=0)
    (finding,) = trial.findings()
    assert (finding.code, finding.severity) == ("out-of-memory", "error")
    assert "the largest one of 2 images of up to 96x128" in finding.text
    assert "SOLVER.ACCUMULATE_STEPS" in finding.remedy
    assert trial.lines()[-4].endswith("out-of-memory")


def test_other_errors_are_no_findings(records, failing):
    def broken(losses):
        raise RuntimeError("a fault of the model")

    failing(dense, broken)
    with pytest.raises(RuntimeError, match="a fault of the model"):
        try_model(config(*SMALL), records, steps=0)


def test_a_batch_that_the_model_refuses(tmp_path):
    """Batch norm over a single value, of which the message says what to do."""
    records = make_records((32, 32, ONE), folder=tmp_path)
    cfg = config(*SMALL, "MODEL.RESNETS.NORM", "BN", "SOLVER.IMS_PER_BATCH", 1)
    (finding, *_) = try_model(cfg, records, steps=0).findings()
    assert finding.code == "refused"
    assert "use larger images" in finding.text


def test_images_that_cannot_be_read(records, tmp_path):
    for number in range(1, 8):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    trial = try_model(config(*SMALL), records, steps=0)
    assert trial.batches == ()
    (finding,) = trial.findings()
    assert (finding.code, finding.severity) == ("unreadable-image", "error")
    assert math.isnan(trial.training_seconds)
    assert "nan" not in "\n".join(trial.lines())


def test_weights_that_are_not_there_and_data_that_are_none(records):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        try_model(config(*SMALL, "MODEL.WEIGHTS", "nowhere.pth"), records)
    with pytest.raises(ValueError, match="no image"):
        try_model(config(*SMALL), records.select([]))
    with pytest.raises(ValueError, match="would stay random"):
        try_model(config(*SMALL, "MODEL.RESNETS.NORM", "FrozenBN"), records)
    with pytest.raises(ValueError, match=r"FREEZE_CONV_BODY_AT 0 and MODEL\.MOBILENET\.NORM BN, without"):
        try_model(config(*SMALL, "MODEL.BACKBONE.CONV_BODY", "MNV2-FPN", "MODEL.MOBILENET.NORM", "FrozenBN"), records)


def test_when_the_time_is_over_one_batch_was_tried(records):
    trial = try_model(config(*SMALL), records, seconds=0.0)
    assert [batch.name for batch in trial.batches] == ["empty"]
    assert trial.stopped
    assert trial.seconds_per_step == trial.batches[0].seconds
    assert "before all batches were tried" in trial.lines()[-1]


# ------------------------------------------------------------------ times and text, by hand
def by_hand(**values):
    batch = TriedBatch("ordinary", 4, 9, (480, 640), 0.5, 2**30)
    known = {
        "device": "cpu",
        "workers": 0,
        "parameters": 1_500_000,
        "trained": 500_000,
        "seconds_per_step": 0.5,
        "decode_seconds": 0.05,
        "eval_seconds": 0.1,
        "peak_memory": 2**30,
        "memory": 0,
        "max_iter": 100,
        "evaluations": 2,
        "eval_images": 10,
        "batches": (batch,),
    }
    return Trial(**{**known, **values})


def test_lengths_by_hand(monkeypatch):
    monkeypatch.setattr("detframe.recipes.trial.cpu_cores", lambda: 2)
    alone = by_hand()
    assert alone.step_seconds == pytest.approx(0.7)  # 4 images of 0.05 s before each step
    assert alone.training_seconds == pytest.approx(100 * 0.7 + 2 * 10 * 0.15)
    assert by_hand(workers=1).step_seconds == pytest.approx(0.6)  # two cores for both
    gpu = by_hand(device="cuda:0", workers=2)
    assert gpu.step_seconds == pytest.approx(0.5)  # read meanwhile
    assert gpu.findings() == ()
    slow = by_hand(device="cuda:0", workers=2, seconds_per_step=0.05)
    assert slow.step_seconds == pytest.approx(0.1)
    assert [finding.code for finding in slow.findings()] == ["slow-data"]
    assert by_hand(evaluations=0, eval_seconds=math.nan).training_seconds == pytest.approx(70)


def test_memory_that_is_nearly_full():
    (finding,) = by_hand(memory=2**30 + 2**20).findings()
    assert finding.code == "memory-nearly-full"
    assert "1.0 GB of 1.0 GB" in finding.text
    assert by_hand(memory=2 * 2**30).findings() == ()


def test_lines_fit_a_screen():
    failed = TriedBatch("largest", 128, 123456, (12345, 12345), math.nan, 2**37, "out-of-memory")
    trial = by_hand(batches=(*by_hand().batches, failed), memory=2**37, stopped=True, max_iter=1_000_000)
    lines = trial.lines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "model on cpu: 1.50 M parameters, 0.50 M of them trained"
    assert "  ordinary        4        9     480x640     0.50    1.0 GB" in lines
    assert replace(trial, max_iter=100, workers=0).lines()[-2] == (
        "  100 iterations with 2 evaluations of 10 images take about 0:11:33"
    )


def test_memory_is_measured():
    watch = MemoryWatch(torch.device("cpu"))
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is known on Linux only")
    with watch.measuring() as measured:
        fresh_pages(2**20).close()
    assert measured.bytes <= watch.peak
    assert watch.total > 2**28
    with watch.measuring() as measured:
        kept = fresh_pages(64 * 2**20)
    assert 56 * 2**20 < measured.bytes == watch.peak
    assert len(kept) and not is_out_of_memory(RuntimeError("something else"))


def fresh_pages(size: int) -> mmap.mmap:
    """Memory that the process did not hold; an allocator may give what earlier tests have left it."""
    pages = mmap.mmap(-1, size)
    for start in range(0, size, mmap.PAGESIZE):
        pages[start] = 1
    return pages


def test_memory_that_others_give_back_is_not_taken_for_free(monkeypatch):
    held = iter([100, 40, 40, 70])  # when the watch is made, when work begins (twice), when it has ended
    monkeypatch.setattr(MemoryWatch, "_held", lambda self: next(held))
    monkeypatch.setattr(MemoryWatch, "_look", lambda self, done, highest: None)
    watch = MemoryWatch(torch.device("cpu"))
    with watch.measuring() as measured:
        pass
    assert measured.bytes == watch.peak == 30
