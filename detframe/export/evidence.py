"""The proof of an exported file: what it finds, run from the disk in its own runtime, beside what PyTorch finds.

Legend: N images, H, W sides of the plane that they lie in, D rows of detections an image.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

from detframe.backends import Session
from detframe.backends.session import first_line
from detframe.config import ConfigNode
from detframe.data import Records, build_test_loader
from detframe.errors import EvidenceError, UserError
from detframe.evaluation import build_evaluator
from detframe.evaluation.exported import fit, in_files, on_plane, predictions
from detframe.evaluation.tiled import as_loaded
from detframe.export.comparing import Tally, pair
from detframe.export.explaining import Limits, differences
from detframe.export.reference import Reference, noise_images
from detframe.modeling import GeneralizedRCNN
from detframe.structures import Prediction

logger = logging.getLogger(__name__)
_LOG_SECONDS = 10.0
_ENOUGH = 5  # images with faults after which no more are looked at
_NOT_PROVED = "sizes are fixed"


@dataclass
class Evidence:
    """What running a file gave.

    Args:
        checks: one tally for each.
        metrics: name -> (of PyTorch, of the file), 0 to 100, nan: not applicable.
        seconds: medians per image, of PyTorch and of the file.
        faults: what the file breaks of its contract, whatever PyTorch finds.
    """

    checks: list[Tally] = field(default_factory=list)
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: tuple[float, float] | None = None
    faults: list[str] = field(default_factory=list)

    @property
    def is_beyond(self) -> bool:
        """Whether something speaks against the file already."""
        return bool(self.faults) or any(check.counted for check in self.checks)


class Prover:
    """Runs a file and PyTorch on the same images.

    Args:
        model: in evaluation mode, on the CPU.
        session: the file, opened from the disk.
        near: tolerance of pixels and scores; None: differences are measured, and none is too large.
    """

    def __init__(self, model: GeneralizedRCNN, session: Session, near: float | None) -> None:
        self.reference, self.session, self.near = Reference(model), session, near
        self.evidence = Evidence()
        self._times: list[tuple[float, float]] = []

    def prove(self, cfg: ConfigNode, records: Records | None) -> Evidence:
        """All checks; they end early where the file is wrong.

        Args:
            records: validation images; None: images that are made here.
        """
        self.on_shapes()
        if self.evidence.is_beyond:
            return self.evidence
        self._times.clear()  # the first runs warm up, and are of small images
        if records is not None:
            self.on_records(cfg, records)
        else:
            fixed = self.session.card.input.static_hw
            made = self._made(_SYNTHETIC if fixed is None else [fixed] * len(_SYNTHETIC), 7)
            self._compare("images that the exporter made", [made[i : i + 2] for i in range(0, len(made), 2)])
        if self._times:
            pytorch, file = zip(*self._times, strict=True)
            self.evidence.seconds = (median(pytorch), median(file))
        return self.evidence

    # ------------------------------------------------------------------ checks
    def on_shapes(self) -> None:
        """Other batches and sizes than were traced, blank images, and small images on a large plane."""
        card = self.session.card.input
        hw = card.static_hw
        strides: Any = self.reference.model.backbone.strides
        cell = max(strides.values())
        usual = hw or (4 * cell + 3, 5 * cell + 10)
        number = 3 if card.batch is None else card.batch + 1
        self._compare("another batch", [self._made([usual] * number, 1), self._made([usual], 2)])
        if hw is None:
            sizes = [(3 * cell + 5, 7 * cell + 1), (6 * cell + 7, 2 * cell + 9)]
            self._compare("another size", [self._made([size], 3) for size in sizes])
        else:
            self.evidence.checks.append(Tally("another size", skipped=f"{_NOT_PROVED}: {hw[0]}x{hw[1]}"))
        self._compare("a blank image", [[image * 0 for image in self._made([usual], 4)]])
        small = (usual[0] // 2 + 1, usual[1] * 2 // 3)
        self._compare("images smaller than their plane", [self._made([usual, small], 5)], plane=usual)

    def on_records(self, cfg: ConfigNode, records: Records) -> None:
        """Validation images, with the scores of both."""
        card = self.session.card
        evaluators = [as_loaded(cfg, build_evaluator(cfg, records)) for _ in range(2)]
        names = {int(image_id): records.file_name(i) for i, image_id in enumerate(records.image_ids.tolist())}
        loader = build_test_loader(_for_loading(cfg, card.input.static_hw is not None, card.input.batch), records)
        parts = f", cut into {loader.total} tiles" if loader.total > len(records) else ""
        tally = Tally(f"{len(records)} images of {records.metadata.name}{parts}")
        self.evidence.checks.append(tally)
        shown = time.perf_counter()
        for images, targets in loader:
            fitted = [fit(image, card.input) for image in images]
            called = [names.get(int(target["image_id"]), str(target["image_id"])) for target in targets]
            for evaluator, found in zip(evaluators, self._both(tally, fitted, called), strict=True):
                sizes_hw = [image.shape[-2:] for image in fitted]
                evaluator.update(targets, in_files(found, sizes_hw, targets, card.pixel))
            if len({one.image for one in tally.counted}) >= _ENOUGH:
                return
            if time.perf_counter() - shown > _LOG_SECONDS:
                shown = time.perf_counter()
                what = "tiles" if parts else "images"
                logger.info("compared %d of %d %s", tally.images, loader.total, what, extra={"progress": True})
        scores = [evaluator.compute() for evaluator in evaluators]
        self.evidence.metrics = {key: (scores[0][key], scores[1].get(key, float("nan"))) for key in scores[0]}

    # ------------------------------------------------------------------ inside
    def _made(self, sizes_hw: Sequence[tuple[int, int]], seed: int) -> list[Tensor]:
        return noise_images(sizes_hw, seed, self.reference.model.preprocessor)

    def _compare(self, name: str, batches: Sequence[list[Tensor]], plane: tuple[int, int] | None = None) -> None:
        tally = Tally(name)
        self.evidence.checks.append(tally)
        for images in batches:
            self._both(tally, images, [_by(image.shape[-2:]) for image in images], plane)

    def _both(
        self, tally: Tally, images: list[Tensor], names: Sequence[str], plane: tuple[int, int] | None = None
    ) -> tuple[list[Prediction], list[Prediction]]:
        """The predictions of PyTorch and of the file, compared."""
        planes, sizes = on_plane(images, self.session.card.input, plane)
        plane_hw = (planes.shape[2], planes.shape[3])
        start = time.perf_counter()
        pytorch = self.reference.predict(images, plane_hw)
        middle = time.perf_counter()
        arrays = self._run(tally.name, names[0], planes, sizes)
        end = time.perf_counter()
        self._times.append(((middle - start) / len(images), (end - middle) / len(images)))
        self._check_contract(tally.name, arrays)
        file = predictions(arrays, sizes)
        for image, name, first, second in zip(images, names, pytorch, file, strict=True):
            self._count(tally, name, image, plane_hw, (first, second))
        return pytorch, file

    def _run(self, check: str, image: str, planes: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        """What the file gives. Raises EvidenceError where its runtime fails."""
        try:
            return self.session.run(planes, sizes)
        except UserError:
            raise
        except Exception as error:  # runtimes have errors of any class
            raise EvidenceError(f"{check}: it fails on {image}: {first_line(error)}") from error

    def _count(
        self, tally: Tally, name: str, image: Tensor, plane_hw: tuple[int, int], found: tuple[Prediction, Prediction]
    ) -> None:
        pairs = pair(*found)
        tally.add(name, (len(found[0]["scores"]), len(found[1]["scores"])), pairs)
        if self.near is None:
            return
        card = self.session.card
        limits = Limits(self.near, card.thresholds.get("score"), card.detections)

        @cache
        def rounded() -> list[Prediction]:
            return [one[0] for one in self.reference.rounded_otherwise([image], plane_hw)]

        tally.differences += differences(name, *found, pairs, limits, rounded)

    def _check_contract(self, check: str, found: dict[str, np.ndarray]) -> None:
        """Rows and their order, whatever is found."""
        rows, count = self.session.card.detections, found["count"]
        beyond = np.arange(rows) >= count[:, None]
        if any(values.shape[1] != rows for name, values in found.items() if name != "count"):
            self.evidence.faults.append(f"{check}: not every output has {rows} rows an image")
        elif any(values[beyond].any() for name, values in found.items() if name != "count"):
            self.evidence.faults.append(f"{check}: rows beyond the count are not zero")
        elif (np.diff(found["scores"], axis=1) > 0).any():
            self.evidence.faults.append(f"{check}: the scores do not fall")


# of the images that stand in for validation data, each in a batch with the next
_SYNTHETIC = tuple((h, w) for h in (384, 480, 512) for w in (384, 512, 640))


def _for_loading(cfg: ConfigNode, fixed: bool, batch: int | None) -> ConfigNode:
    """The config for reading the images: in this process, and not resized for a file that has a size of its own."""
    settings: list[tuple[str, Any]] = [("DATALOADER.NUM_WORKERS", 0), ("TEST.IMS_PER_BATCH", batch or 2)]
    if fixed:
        settings += [("INPUT.MIN_SIZE_TEST", 0), ("INPUT.MAX_SIZE_TEST", 0)]
    return cfg.changed(settings)


def _by(size_hw: Sequence[int]) -> str:
    return f"an image of {size_hw[0]}x{size_hw[1]}"
