"""TEST.LOSS: the losses of training on the images that are evaluated."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.data import Records
from detframe.data.samplers import mix
from detframe.data.transforms import Transform, build_test_transforms
from detframe.engine.step import check_scalars, unchanged
from detframe.errors import InvalidValueError
from detframe.layers import measuring
from detframe.parallel.collectives import gather_objects
from detframe.structures import Prediction, Target

logger = logging.getLogger(__name__)
_PURPOSE = 7  # of the seeds of images, beside those of the training's samples


class ValidationLosses:
    """Means, over the images (or tiles of images) of all ranks, of the losses that training computes on one alone.

    Image by image, so that neither ranks nor batches matter. What a head draws for an image depends on the image alone,
    so that it is the same in every evaluation and every run.

    Args:
        model: as it is evaluated.
        images_per_step: of the training, over all ranks.
        file_name: the file of an image id, for what is said of losses that are not finite.
        transforms: of the images that come, which are resized already where there are none.
    """

    def __init__(
        self,
        model: nn.Module,
        images_per_step: int,
        file_name: Callable[[Any], str],
        transforms: Transform | None = None,
    ) -> None:
        self.model, self.images_per_step, self.file_name = model, images_per_step, file_name
        self.transforms = transforms
        self._sums: dict[str, float] = {}
        self._count = 0
        self._infinite: list[str] = []

    @classmethod
    def of(cls, cfg: ConfigNode, model: nn.Module, file_name: Callable[[Any], str]) -> ValidationLosses:
        """Those of a config; where TEST.AUG resizes each view, the images come as they are in their files."""
        transforms = build_test_transforms(cfg) if cfg.TEST.AUG.ENABLED else None
        return cls(model, cfg.SOLVER.IMS_PER_BATCH, file_name, transforms)

    def on_batch(self, images: Sequence[Tensor], targets: Sequence[Target], predictions: list[Prediction]) -> None:
        """Add the images of a batch; `run_evaluation` calls it without gradients, in its precision."""
        found = []
        with unchanged(self.model), losing(self.model), measuring(self.images_per_step):
            for image, target in zip(images, targets, strict=True):
                tile = (target["tile_index"],) if "tile_index" in target else ()
                seed = mix(int(target["image_id"]), _PURPOSE, *tile) % 2**31
                torch.manual_seed(seed)
                if self.transforms is not None:
                    image, target = self.transforms(image, target, torch.Generator())
                losses = self.model([image], [{**target, "seed": seed}])
                check_scalars(losses)
                found.append((list(losses), torch.stack([value.detach().float() for value in losses.values()])))
        # one look at the device for all of them
        for (keys, values), target in zip(found, targets, strict=True):
            self._add(dict(zip(keys, values.tolist(), strict=True)), target)

    def _add(self, losses: dict[str, float], target: Target) -> None:
        if self._count and losses.keys() != self._sums.keys():
            raise InvalidValueError(
                f"TEST.LOSS: the model gives the losses {sorted(losses)} for an image, and {sorted(self._sums)} for "
                "others; they must be the same for all"
            )
        self._count += 1
        for key, value in losses.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        if not all(map(math.isfinite, losses.values())):
            self._infinite.append(self.file_name(target["image_id"]))

    def compute(self) -> dict[str, float]:
        """`val/loss`, and `val/loss_*` that it is the sum of; called by every rank. Empty where there was no image."""
        ranks = gather_objects((self._sums, self._count, self._infinite))
        count = sum(of_rank for _, of_rank, _ in ranks)
        if not count:
            return {}
        infinite = [name for _, _, names in ranks for name in names]
        if infinite:
            logger.warning(
                "the validation losses of %d of %d images are not finite, so neither is their mean; the first is %s",
                len(infinite),
                count,
                infinite[0],
            )
        keys = dict.fromkeys(key for sums, _, _ in ranks for key in sums)
        means = {key: sum(sums.get(key, 0.0) for sums, _, _ in ranks) / count for key in keys}
        return {"val/loss": sum(means.values()), **{f"val/{key}": value for key, value in means.items()}}


def line(metrics: dict[str, float]) -> str:
    """The validation losses among the metrics, as in the line of a training's progress."""
    parts = [f"{key.removeprefix('val/loss_')} {value:.4f}" for key, value in metrics.items() if key != "val/loss"]
    return f"loss {metrics['val/loss']:.4f} ({' '.join(parts)})"


@contextmanager
def losing(model: nn.Module) -> Iterator[None]:
    """Inside the `with`, the model gives losses, from running statistics as they stand and without dropout.

    In training mode are the model and those of its modules that are made of others, which is where losses are computed;
    not its `backbone`, nor what has no parts, as norms and dropout.
    """
    modes = [(module, module.training) for module in model.modules()]
    backbone = getattr(model, "backbone", None)
    features = set(backbone.modules()) if isinstance(backbone, nn.Module) else set()
    try:
        for module, _ in modes:
            whole = any(True for _ in module.children()) and not isinstance(module, nn.MultiheadAttention)
            module.training = module is model or (whole and module not in features)
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_can_measure(cfg: ConfigNode, records: Records) -> None:
    """Losses need all that is learned from in the data that are evaluated too.

    Raises:
        ValueError: TEST.LOSS asks for losses of what the data set does not have.
    """
    name, model = records.metadata.name, cfg.MODEL
    remedy = "name data that have them in DATASETS.TEST, or set TEST.LOSS False"
    if model.MASK_ON and not records.has_masks:
        raise InvalidValueError(
            f"TEST.LOSS needs masks for the losses of MODEL.MASK_ON, but no object of the data set {name} has one; "
            f"{remedy}"
        )
    wanted, found = model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, len(records.metadata.keypoint_names)
    if model.KEYPOINT_ON and found != wanted:
        raise InvalidValueError(
            f"TEST.LOSS needs the {wanted} keypoints of MODEL.ROI_KEYPOINT_HEAD, but the data set {name} has {found}; "
            f"{remedy}"
        )
