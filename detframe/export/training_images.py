"""Images of the training set, as an exported file takes them: what int8 is calibrated and judged on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detframe.backends import InputCard, open_model
from detframe.config import ConfigNode
from detframe.data import Records, build_test_loader, check_same_names, load_records
from detframe.data.tiles import Tiling
from detframe.errors import InvalidValueError, UserError
from detframe.evaluation import build_evaluator
from detframe.evaluation.exported import fit, in_files, on_plane, predictions
from detframe.evaluation.tiled import as_loaded
from detframe.export.calibration import Batch
from detframe.structures import Target

NUM_IMAGES = 100
_SEED = 0  # of the choice of images
_METRICS = ("bbox/AP", "segm/AP", "keypoints/AP", "proposals/AR")


def training_images(
    cfg: ConfigNode, class_names: Sequence[str] | None, limits: InputCard, number: int = NUM_IMAGES
) -> TrainingImages:
    """So many images of the training set, chosen at random but always the same.

    Args:
        cfg: of the training.
        class_names: of the model; None: it does not tell classes apart.
        limits: how the file takes images.

    Raises:
        ValueError: there are none on this machine; int8 cannot be had then.
    """
    names = list(cfg.DATASETS.TRAIN)
    remedy = "calibrate where the training data is, or export with the precision fp16, which needs none"
    if not names:
        raise InvalidValueError(f"int8 is calibrated on the training set, and DATASETS.TRAIN is empty: {remedy}")
    try:
        records = load_records(names, cfg.DATASETS.CATALOG, on_missing="skip")
        if class_names is not None:
            check_same_names("class", ("the model", class_names), (", ".join(names), records.metadata.class_names))
    except (UserError, OSError) as error:
        raise InvalidValueError(
            f"int8 is calibrated on the training set, and DATASETS.TRAIN {', '.join(names)} cannot be read here "
            f"({error}): {remedy}"
        ) from error
    return TrainingImages(cfg, records.select(_chosen(cfg, records, max(number, limits.batch or 1))), limits)


def _chosen(cfg: ConfigNode, records: Records, number: int) -> np.ndarray:
    """So many images; where they are cut (INPUT.TILES), those that have no more tiles together, but one at least."""
    order = np.random.default_rng(_SEED).permutation(len(records))
    tiling = Tiling.of(cfg)
    if tiling is not None:
        sizes_hw = records.sizes_hw[order[:number]].tolist()
        tiles = np.cumsum([len(tiling.grid((height, width))) for height, width in sizes_hw])
        number = max(1, int((tiles <= number).sum()))
    return np.sort(order[:number])


class TrainingImages:
    """Images of a data set, prepared for a file.

    Args:
        cfg: of the training.
        records: the images.
        limits: how the file takes images.
    """

    def __init__(self, cfg: ConfigNode, records: Records, limits: InputCard) -> None:
        settings: list[tuple[str, Any]] = [("DATALOADER.NUM_WORKERS", 0), ("TEST.IMS_PER_BATCH", limits.batch or 1)]
        if limits.static_hw is not None:
            settings += [("INPUT.MIN_SIZE_TEST", 0), ("INPUT.MAX_SIZE_TEST", 0)]
        self._cfg, self._records = cfg, records
        loader = build_test_loader(cfg.changed(settings), records)
        self._targets: list[Sequence[Target]] = []
        self.batches: list[Batch] = []
        for images, targets in loader:
            if limits.batch is not None and len(images) < limits.batch:
                continue  # a file of a fixed batch takes no fewer
            self._add([fit(image, limits) for image in images], targets, limits)

    def score(self, path: Path) -> float:
        """AP of a file on these images, 0 to 100: the mean of its kinds (boxes, masks, keypoints)."""
        session = open_model(path, "cpu")
        evaluator = as_loaded(self._cfg, build_evaluator(self._cfg, self._records))
        for (images, sizes), targets in zip(self.batches, self._targets, strict=True):
            found = predictions(session.run(images, sizes), sizes)
            evaluator.update(targets, in_files(found, sizes, targets, session.card.pixel))
        metrics = evaluator.compute()
        return float(np.mean([metrics[name] for name in _METRICS if name in metrics] or list(metrics.values())))

    def _add(self, images: list[Tensor], targets: Sequence[Target], limits: InputCard) -> None:
        self.batches.append(on_plane(images, limits))
        self._targets.append(targets)
