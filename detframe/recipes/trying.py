"""The batches of a trial and the steps that they make; see `detframe.recipes.trial`."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from detframe.config import ConfigNode
from detframe.data import IMAGE_FAULTS, build_test_loader, build_train_loader
from detframe.data.records import Records
from detframe.data.transforms import build_train_transforms
from detframe.engine.build import step_settings
from detframe.engine.fit import View, eval_view, training_views
from detframe.engine.step import Batch, Step
from detframe.engine.trainer import Trainer
from detframe.errors import NonFiniteError, UserError
from detframe.modeling import GeneralizedRCNN
from detframe.parallel.device import resolve_amp
from detframe.recipes.batch_shapes import mean_pixels
from detframe.recipes.memory import MemoryWatch, is_out_of_memory
from detframe.solver import build_average, build_optimizer
from detframe.structures import select

HERE = (("DATALOADER.NUM_WORKERS", 0), ("DATALOADER.CACHE_RAM", 0.0))  # images are read by this process, once
EACH_ONCE = (  # in one batch
    ("DATALOADER.ASPECT_RATIO_GROUPING", False),
    ("DATALOADER.SAMPLER", "uniform"),
    ("DATALOADER.EMPTY_SHARE", -1.0),
    ("DATASETS.TRAIN_WEIGHTS", ()),
    ("DATALOADER.EMPTY", "keep"),
    ("INPUT.TILES.MAX_EMPTY", 1.0),
)


@dataclass(frozen=True)
class TriedBatch:
    """One batch that went forward and backward, or did not."""

    name: str  # "empty", "ordinary", "densest" or "largest"
    num_images: int
    num_objects: int
    size_hw: tuple[int, int]  # of the largest sides among its images
    seconds: float  # of the step; NaN where it failed
    memory: int  # bytes at most, above what the process held before the trial; 0 unknown
    failure: str = ""  # "out-of-memory", "non-finite" or "refused"
    why: str = ""  # the losses that are not finite, or the message of what was refused
    graphs: float = 0.0  # seconds of a step before it, which made graphs (MODEL.COMPILE)


class _Feed:
    """An iterator over the one batch that it is given."""

    def __init__(self) -> None:
        self.batch: Batch | None = None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> Batch:
        if self.batch is None:
            raise StopIteration
        return self.batch


class _Refusal:
    """The guard of a trainer that writes nothing: a step that is not finite is an error with its losses."""

    def not_finite(self, trainer: Trainer, step: Step) -> None:
        wrong = sorted(name for name, value in step.losses.items() if not bool(torch.isfinite(value).all()))
        raise NonFiniteError(", ".join(wrong) or "the gradient")

    def check_rates(self, trainer: Trainer) -> None:
        """Nothing to check: the rate is 0."""

    def check_weights(self, trainer: Trainer) -> None:
        """Nothing is saved."""


@dataclass
class Run:
    """The trial in work."""

    cfg: ConfigNode
    records: Records
    model: GeneralizedRCNN
    device: torch.device
    watch: MemoryWatch
    deadline: float
    tried: list[TriedBatch] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    reading: float = 0.0  # seconds
    images_read: int = 0
    stopped: bool = False

    def train(self, steps: int, extremes: bool) -> None:
        """All batches, as long as there is time; one at least."""
        feed = _Feed()
        trainer = Trainer(
            model=self.model,
            optimizer=build_optimizer(self.cfg, self.model),
            data=feed,
            schedule=lambda iteration: 0.0,
            settings=step_settings(self.cfg, self.device),
            max_iter=2**31,
            device=self.device,
            guard=_Refusal(),
            ema=build_average(self.cfg, self.model),
        )
        ordinary = build_train_loader(self.cfg.changed(HERE), self.records)
        plan: list[tuple[str, Callable[[], Batch]]] = [("empty", self._empty)]
        plan += [("ordinary", lambda: next(ordinary))] * (steps + 1)
        plan += [("densest", self._densest), ("largest", self._largest)] if extremes else []
        for name, read in plan:
            if self.tried and time.perf_counter() > self.deadline:
                self.stopped = True
                return
            batch = self._read(read)
            if batch is not None:
                self.tried.append(self._step(trainer, feed, name, batch))
                feed.batch = None

    def _read(self, read: Callable[[], Batch]) -> Batch | None:
        start = time.perf_counter()
        try:
            batch = read()
        except IMAGE_FAULTS as error:
            self.unread.append(str(error))
            return None
        self.reading += time.perf_counter() - start
        self.images_read += len(batch[0])
        return batch

    def _step(self, trainer: Trainer, feed: _Feed, name: str, batch: Batch) -> TriedBatch:
        images, targets = batch
        size_hw = (max(image.shape[-2] for image in images), max(image.shape[-1] for image in images))
        known = (name, len(images), sum(len(target["labels"]) for target in targets), size_hw)
        feed.batch = batch
        start, failure, why, making = self._now(), "", "", 0.0
        with self.watch.measuring() as measured:
            try:
                before = self._graphs()
                trainer.step()
                if self._graphs() > before:  # a training makes each of them once
                    making, start = self._now() - start, self._now()
                    trainer.step()
            except NonFiniteError as error:
                failure, why = "non-finite", str(error)
            except UserError as error:
                failure, why = "refused", str(error)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = "out-of-memory"
        if failure:
            trainer.optimizer.zero_grad(set_to_none=True)
        spent = math.nan if failure else self._now() - start
        return TriedBatch(*known, spent, measured.bytes, failure, why, making)

    def _graphs(self) -> int:
        """How many graphs of MODEL.COMPILE have been made."""
        graphs: Any = getattr(self.model, "graphs", None)
        return 0 if graphs is None else len(graphs.made)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds_per_step(self) -> float:
        """The median of the ordinary steps but the first; of what there is where none of these was made. Where images
        are resized at random, the few that were tried stand for a batch of the mean size."""
        made = [b for b in self.tried if not b.failure]
        ordinary = [b for b in made if b.name == "ordinary"]
        tried = ordinary[1:] or ordinary or made
        if not tried:
            return math.nan
        transforms = build_train_transforms(self.cfg)
        if not transforms.resizes_at_random or transforms.unsized:
            return statistics.median(b.seconds for b in tried)
        canvases = self.model.preprocessor.canvases
        per_pixel = statistics.median(b.seconds / math.prod(canvases.canvas(b.size_hw)) for b in tried)
        return per_pixel * mean_pixels(self.cfg, canvases, self.records)

    # ------------------------------------------------------------------ batches
    def _batch_of(self, indices: Sequence[int], cfg: ConfigNode | None = None) -> Batch:
        """These images as one batch; too few of them are taken again."""
        alone = (cfg or self.cfg).changed((*HERE, *EACH_ONCE))
        count = min(len(indices), alone.SOLVER.IMS_PER_BATCH)
        return next(build_train_loader(alone, self.records.select(np.asarray(indices[:count]))))

    def _empty(self) -> Batch:
        """Images without objects; where there are none, others whose objects are taken away."""
        without = np.flatnonzero(self.records.num_objects == 0)
        images, targets = self._batch_of(without.tolist() or list(range(min(len(self.records), 64))))
        return images, [select(t, torch.zeros(len(t["labels"]), dtype=torch.bool)) for t in targets]

    def _densest(self) -> Batch:
        return self._batch_of(np.argsort(-self.records.num_objects, kind="stable").tolist())

    def _largest(self) -> Batch:
        """The tallest and the widest image and then the largest ones, at the largest size of the training."""
        view = training_views(self.cfg)[-1]
        return self._batch_of(_largest_first(self.records, view), _at_most(self.cfg))

    # ------------------------------------------------------------------ prediction
    def predict(self, records: Records) -> float:
        """Seconds for the largest image, the better of two times; NaN where it did not work."""
        alone = self.cfg.changed((*HERE, ("TEST.IMS_PER_BATCH", 1)))
        largest = _largest_first(records, eval_view(self.cfg))[-1:]
        batches = list(build_test_loader(alone, records.select(np.asarray(largest))))
        if not batches:
            return math.nan
        dtype, times = resolve_amp(self.cfg.SOLVER.AMP, self.device), []
        self.model.eval()
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            for _ in range(2):
                start = self._now()
                self.model(batches[0][0])
                times.append(self._now() - start)
        return min(times)


def _largest_first(records: Records, view: View) -> list[int]:
    """All images: the tallest, the widest, and then by falling area."""
    sizes = view.sizes_hw(records)
    order = np.argsort(-sizes.prod(1), kind="stable").tolist()
    return list(dict.fromkeys([int(sizes[:, 0].argmax()), int(sizes[:, 1].argmax()), *order]))


def _at_most(cfg: ConfigNode) -> ConfigNode:
    """Every image at the largest size of the training."""
    if cfg.INPUT.LSJ.ON:
        return cfg.changed([("INPUT.LSJ.MIN_SCALE", cfg.INPUT.LSJ.MAX_SCALE)])
    largest = (max(cfg.INPUT.MIN_SIZE_TRAIN),)
    return cfg.changed([("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice"), ("INPUT.MIN_SIZE_TRAIN", largest)])
