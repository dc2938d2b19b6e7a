"""A few steps of a training that leave no trace: does the model stand its data, in what memory and in what time?

And the pace of a whole training that follows from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from detframe.compat import load_weights
from detframe.config import ConfigNode, import_modules, resolve_durations
from detframe.data.findings import ERROR, WARNING, Finding
from detframe.data.records import Records
from detframe.data.repeats import images_per_epoch
from detframe.data.resources import num_workers
from detframe.data.tiles import tiled
from detframe.engine.build import refuse_frozen_noise
from detframe.engine.inputs import effective_config
from detframe.engine.random_numbers import reproducible
from detframe.engine.surroundings import alone_in_process
from detframe.errors import InvalidValueError
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.parallel.device import resolve_device
from detframe.parallel.environment import cpu_cores
from detframe.recipes.budget import Pace
from detframe.recipes.memory import MemoryWatch
from detframe.recipes.trying import Run, TriedBatch
from detframe.solver import resolve_base_lr
from detframe.texts import counted, format_seconds

NEARLY_FULL = 0.9  # of the memory, from which on there is little room for what a trial has not met
STEPS = 8  # ordinary ones, whose median a burst of other work does not move
SCORING = 0.004  # seconds an image, for matching detections with objects once all are there
FULL_MODEL = 1.3  # a trained model finds more than one at its beginning
CLOSING = 6.0  # seconds for the last checkpoints and pictures


@dataclass(frozen=True)
class Trial:
    """What `try_model` found. Times are seconds, NaN where nothing could be measured; memory is bytes.

    Attributes:
        device: name of the device.
        workers: processes that read images in the training.
        parameters, trained: numbers of weights.
        seconds_per_step: one process's share of a batch, forward, backward and update, its images being there.
        decode_seconds: reading and transforming one training image in one process.
        eval_seconds: one image, the largest, through the model.
        peak_memory: the largest of all batches; of the GPU, or what the process grew by on the CPU.
        memory: what the device has.
        max_iter, evaluations, eval_images: of the training that the config describes.
        batches: in the order in which they were tried.
        unread: why images could not be read.
        stopped: the time was over before all batches were tried.
    """

    device: str
    workers: int
    parameters: int
    trained: int
    seconds_per_step: float
    decode_seconds: float
    eval_seconds: float
    peak_memory: int
    memory: int
    max_iter: int
    evaluations: int
    eval_images: int
    batches: tuple[TriedBatch, ...]
    unread: tuple[str, ...] = ()
    stopped: bool = False

    @property
    def batch_size(self) -> int:
        """Images of one process in a step."""
        return max((batch.num_images for batch in self.batches), default=0)

    @property
    def step_seconds(self) -> float:
        """A step with the reading of its images: beside a GPU it goes on meanwhile, on the CPU it takes from it."""
        return self._beside(self.seconds_per_step, self.decode_seconds * self.batch_size)

    @property
    def evaluation_seconds(self) -> float:
        """One evaluation of all test images."""
        return self.eval_images * self._beside(self.eval_seconds, self.decode_seconds)

    @property
    def training_seconds(self) -> float:
        """The whole training with its evaluations, as the config says; NaN where no step could be made."""
        evaluated = self.evaluations * self.evaluation_seconds if self.evaluations and self.eval_images else 0.0
        return self.max_iter * self.step_seconds + evaluated

    def _beside(self, computing: float, reading: float) -> float:
        if self.device.startswith("cpu"):
            return computing + reading / (cpu_cores() if self.workers else 1)
        return max(computing, reading / self.workers) if self.workers else computing + reading

    def findings(self) -> tuple[Finding, ...]:
        """What would spoil the training, and what nearly does."""
        return (*map(_failure, (b for b in self.batches if b.failure)), *self._unread(), *self._tight(), *self._slow())

    def _unread(self) -> Iterator[Finding]:
        if self.unread:
            yield Finding("unreadable-image", ERROR, len(self.unread), "batches could not be read", self.unread)

    def _tight(self) -> Iterator[Finding]:
        if self.memory and self.peak_memory > NEARLY_FULL * self.memory:
            text = f"batch takes {_bytes(self.peak_memory)} of {_bytes(self.memory)}: a larger one may not fit"
            yield Finding("memory-nearly-full", WARNING, 1, text, (), _LESS_MEMORY)

    def _slow(self) -> Iterator[Finding]:
        if not self.device.startswith("cpu") and self.step_seconds > 1.5 * self.seconds_per_step:
            text = (
                f"step waits {self.step_seconds:.2f} s for its images and computes {self.seconds_per_step:.2f} s with "
                f"{self.workers} processes reading"
            )
            yield Finding("slow-data", WARNING, 1, text, (), "more DATALOADER.NUM_WORKERS, or smaller image files")

    def lines(self) -> list[str]:
        """All of it for a screen of 80 columns."""
        sizes = f"{self.parameters / 1e6:.2f} M parameters, {self.trained / 1e6:.2f} M of them trained"
        out = [f"model on {self.device}: {sizes}"]
        out.append(f"  {'batch':<10}{'images':>7}{'objects':>9}{'size':>12}{'seconds':>9}{'memory':>10}")
        out += [_batch_line(batch) for batch in self.batches]
        out.append(
            f"  a step takes {_seconds(self.seconds_per_step)}, reading an image {_seconds(self.decode_seconds)}, "
            f"predicting {_seconds(self.eval_seconds)}"
        )
        making = sum(batch.graphs for batch in self.batches)
        if making:
            out.append(f"  the first steps made graphs of MODEL.COMPILE, in {_seconds(making)} more")
        out.append(f"  memory: at most {_bytes(self.peak_memory)}" + (f" of {_bytes(self.memory)}" * bool(self.memory)))
        if math.isfinite(self.training_seconds):
            length = format_seconds(self.training_seconds)
            out.append(f"  {counted(self.max_iter, 'iteration')} with {_evaluations(self)} take about {length}")
        if self.stopped:
            out.append("  the time for this trial was over before all batches were tried")
        return out


_LESS_MEMORY = "SOLVER.ACCUMULATE_STEPS (2, 4, ...), or a smaller SOLVER.IMS_PER_BATCH or INPUT.MIN_SIZE_TRAIN"


def _failure(batch: TriedBatch) -> Finding:
    what = f"{batch.num_images} images of up to {batch.size_hw[0]}x{batch.size_hw[1]} with {batch.num_objects} objects"
    if batch.failure == "out-of-memory":
        text = f"batch, the {batch.name} one of {what}, does not fit into memory"
        return Finding("out-of-memory", ERROR, 1, text, (), _LESS_MEMORY)
    if batch.failure == "refused":
        return Finding("refused", ERROR, 1, f"batch, the {batch.name} one of {what}, is refused: {batch.why}")
    text = f"batch, the {batch.name} one of {what}, gives what is not finite: {batch.why}"
    remedy = "SOLVER.AMP off, MODEL.WEIGHTS that fit the config, or a smaller SOLVER.BASE_LR"
    return Finding("non-finite", ERROR, 1, text, (), remedy)


def try_model(
    cfg: ConfigNode,
    records: Records,
    test_records: Records | None = None,
    steps: int = 3,
    seconds: float = 60.0,
    processes: int = 1,
    extremes: bool = True,
) -> Trial:
    """Build what a config trains, and make a few steps: with images without objects, ordinary ones, those with most
    objects, and the largest. Then predict. The learning rate is 0; files and random numbers stay as they are.

    Args:
        records: the training data; NUM_CLASSES 0 and durations in epochs are taken from them.
        test_records: what the training evaluates, for its length; None where it evaluates nothing.
        steps: ordinary ones that are timed.
        seconds: after this time nothing more is tried.
        processes: that the training will have; this one tries the share of one of them.
        extremes: try the densest and the largest batch too.

    Raises:
        ValueError, KeyError, FileNotFoundError: the config describes no model, or its weights do not fit.
    """
    if len(records) == 0:
        raise InvalidValueError(f"the data set {records.metadata.name} holds no image to try the model with")
    import_modules(cfg)
    records, test_records = tiled(cfg, records), tiled(cfg, test_records) if test_records else None
    cfg = resolve_base_lr(resolve_durations(cfg, images_per_epoch(cfg, records)))
    cfg = _one_process(effective_config(cfg, records.metadata, records=records), processes)
    device = resolve_device(cfg.MODEL.DEVICE)
    watch = MemoryWatch(device)
    with alone_in_process(), reproducible(cfg):
        model = _model(cfg, records)
        run = Run(cfg, records, model, device, watch, time.perf_counter() + seconds)
        run.train(steps, extremes)
        eval_seconds = run.predict(test_records if test_records else records)
    period, images = cfg.TEST.EVAL_PERIOD, len(test_records) if test_records else 0
    return Trial(
        device=str(device),
        workers=num_workers(cfg, processes),
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds_per_step=run.seconds_per_step(),
        decode_seconds=run.reading / run.images_read if run.images_read else math.nan,
        eval_seconds=eval_seconds,
        peak_memory=watch.peak,
        memory=watch.total,
        max_iter=cfg.SOLVER.MAX_ITER,
        evaluations=(1 + ((cfg.SOLVER.MAX_ITER - 1) // period if period else 0)) if images else 0,
        eval_images=images,
        batches=tuple(run.tried),
        unread=tuple(run.unread),
        stopped=run.stopped,
    )


def _one_process(cfg: ConfigNode, processes: int) -> ConfigNode:
    """The config of one process of the training, which reads its images itself."""
    batch = max(cfg.SOLVER.ACCUMULATE_STEPS, cfg.SOLVER.IMS_PER_BATCH // processes)
    keys = [("SOLVER.IMS_PER_BATCH", batch), ("DATALOADER.ON_ERROR", "skip"), ("SEED", max(0, cfg.SEED))]
    return cfg.changed(keys)


def _model(cfg: ConfigNode, records: Records) -> GeneralizedRCNN:
    """The model with its first weights, as a training has it."""
    model = build_detection_model(cfg)
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, cfg.MODEL.ALLOW_PARTIAL_WEIGHTS, records.metadata.class_names)
    else:
        refuse_frozen_noise(cfg, model)
    return model


# ---------------------------------------------------------------------------------------------- text
def _batch_line(batch: TriedBatch) -> str:
    size = f"{batch.size_hw[0]}x{batch.size_hw[1]}"
    spent = f"{batch.seconds:.2f}" if not batch.failure else "-"
    start = (
        f"  {batch.name:<10}{batch.num_images:>7}{batch.num_objects:>9}{size:>12}{spent:>9}{_bytes(batch.memory):>10}"
    )
    return f"{start}  {batch.failure}".rstrip()


def _evaluations(trial: Trial) -> str:
    count = trial.evaluations
    return f"{counted(count, 'evaluation')} of {counted(trial.eval_images, 'image')}" if count else "no evaluation"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "an unknown time"
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.0f} ms"


def _bytes(value: int) -> str:
    if not value:
        return "-"
    return f"{value / 2**30:.1f} GB" if value >= 2**30 else f"{value / 2**20:.0f} MB"


class DoesNotFit(Exception):  # noqa: N818 - it asks for a smaller batch
    """A batch that takes more memory than there is."""


def measure(cfg: ConfigNode, train: Records, val: Records, seconds: float, ranks: int = 1) -> Pace:
    """Try the model that a config describes.

    Args:
        train, val: records.
        seconds: after this time no further step is made.
        ranks: processes that will share the batch and the evaluation.

    Raises:
        DoesNotFit: a batch takes more memory than there is.
        ValueError: weights that do not fit the model.
    """
    on_gpu = resolve_device(cfg.MODEL.DEVICE).type != "cpu"  # where memory that runs out is an error to avoid
    begun = time.perf_counter()
    trial = try_model(cfg, train, val, STEPS, seconds, ranks, extremes=on_gpu)
    return pace_of(trial, time.perf_counter() - begun, ranks)


def pace_of(trial: Trial, seconds: float, ranks: int = 1) -> Pace:
    """The pace that a trial shows; `seconds` is how long all of it took. Errors as of `measure`."""
    if any(batch.failure == "out-of-memory" for batch in trial.batches):
        raise DoesNotFit
    stepping = [batch.seconds for batch in trial.batches if not math.isnan(batch.seconds)]
    step = trial.step_seconds if not math.isnan(trial.step_seconds) else max(stepping, default=0.0)
    image = trial.evaluation_seconds / max(trial.eval_images, 1)
    predicting = 0.0 if math.isnan(image) else FULL_MODEL * image
    building = max(0.0, seconds - sum(stepping))
    return Pace(max(step, 1e-3), (predicting + SCORING) / ranks, building + CLOSING)


Measure = Callable[[ConfigNode, Records, Records, float, int], Pace]
