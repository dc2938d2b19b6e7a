"""What happens when a loss or a gradient is not finite: every rank writes a bundle that replays the step, and stops."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detframe.config import ConfigNode
from detframe.engine.checkpoint import save_file
from detframe.errors import NonFiniteError
from detframe.layers.collectives import gather_objects, rank, world_size
from detframe.structures import LazyMasks, Target, validate_target

if TYPE_CHECKING:
    from detframe.engine.trainer import Step, Trainer

logger = logging.getLogger(__name__)
FOLDER = "nonfinite"
# Learning rate per image of the global batch above which trouble is likely: twice what the linear rule gives
# (SGD: 0.02 for 16 images, Goyal et al., arXiv 1706.02677; AdamW: 1e-4 for 16 images)
_USUAL_LR = {"SGD": 0.02 / 16, "AdamW": 1e-4 / 16}


def pack_target(target: Target) -> dict[str, Any]:
    """A target in types that weights_only=True loads; masks that are not drawn yet stay so."""
    packed: dict[str, Any] = {}
    for key, value in target.items():
        if isinstance(value, LazyMasks):
            packed[key] = {"segmentations": [_plain(s) for s in value.segmentations], "size_hw": list(value.size_hw)}
        elif isinstance(value, Tensor):
            packed[key] = value.detach().cpu().as_subclass(Tensor).clone()
        else:
            packed[key] = list(value) if isinstance(value, tuple) else value
    return packed


def unpack_target(packed: dict[str, Any]) -> Target:
    """The target that `pack_target` packed."""
    target = dict(packed)
    masks = packed.get("masks")
    if isinstance(masks, dict):
        target["masks"] = LazyMasks(masks["segmentations"], tuple(masks["size_hw"]))
    if "orig_size_hw" in packed:
        target["orig_size_hw"] = tuple(packed["orig_size_hw"])
    return target  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    """A segmentation as lists, dicts and numbers."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.tolist() if hasattr(value, "tolist") else value


@dataclass
class FlightRecorder:
    """The `recorder` of a trainer.

    Args:
        folder: OUTPUT_DIR; bundles go below it.
        cfg: the effective config.
        meta: class names and so on, as in a checkpoint's "meta".
        file_name: the file of an image id, for the message; None where nobody knows.
    """

    folder: Path
    cfg: ConfigNode
    meta: dict[str, Any]
    file_name: Callable[[Any], str] | None = None

    def stop(self, trainer: Trainer, step: Step) -> None:
        """Write this rank's bundle and raise; called by every rank, before the update.

        Raises:
            FloatingPointError: says what is not finite, in which images, and how to replay the step.
        """
        iteration = trainer.iteration + 1
        path = self.folder / FOLDER / f"iter_{iteration:07d}_rank{rank()}.pth"
        written = self._write(path, trainer, step)
        reports = gather_objects(self._report(trainer, step, written))
        bad = [report for report in reports if report["bad"]] or reports
        cause = next((report["cause"] for report in bad), "")
        lines = [f"iteration {iteration} is not finite, so all ranks stopped before its update (lr {step.lr:g}):"]
        lines += [f"  rank {r['rank']}: {r['what']}; images {r['images']}" for r in bad]
        lines.append(f"  likely cause: {cause}")
        lines.append(f"  replay it: python tools/replay.py {bad[0]['path']}")
        raise NonFiniteError("\n".join(lines))

    def _write(self, path: Path, trainer: Trainer, step: Step) -> str:
        """Write the bundle; a failure to do so must not hide the failure that it is about."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(self._bundle(trainer, step), path)
        except OSError as error:
            logger.error("the bundle was not written: %s", error)
            return f"{path} (not written: {error})"
        return str(path)

    def _bundle(self, trainer: Trainer, step: Step) -> dict[str, Any]:
        images, targets = step.batch
        dtype = trainer.settings.amp_dtype
        return {
            "iteration": trainer.iteration + 1,
            "rank": rank(),
            "world_size": world_size(),
            "images": [image.detach().cpu().as_subclass(Tensor) for image in images],
            "targets": [pack_target(target) for target in targets],
            "files": [self._file(target) for target in targets],
            "model": trainer.model.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "rng": step.rng,
            "losses": {key: float(value) for key, value in step.losses.items()},
            "grad_norm": float(step.grad_norm),
            "lr": step.lr,
            "accumulate_steps": trainer.settings.accumulate_steps,
            "amp": "" if dtype is None else str(dtype).removeprefix("torch."),
            "config": self.cfg.dump(),
            "meta": self.meta,
        }

    def _report(self, trainer: Trainer, step: Step, path: str) -> dict[str, Any]:
        values = {key: float(value) for key, value in step.losses.items()}
        wrong = {key: value for key, value in values.items() if not math.isfinite(value)}
        if wrong:
            what = ", ".join(f"{key} is {value}" for key, value in wrong.items())
        else:
            what = f"the losses are finite, but the norm of the gradients is {float(step.grad_norm)}"
        return {
            "rank": rank(),
            "bad": bool(wrong),
            "what": what,
            "images": ", ".join(self._file(target) for target in step.batch[1]),
            "cause": self._cause(trainer, step),
            "path": path,
        }

    def _file(self, target: Target) -> str:
        image_id = target.get("image_id", "?")
        return f"{image_id} ({self.file_name(image_id)})" if self.file_name is not None else str(image_id)

    def _cause(self, trainer: Trainer, step: Step) -> str:
        solver = self.cfg.SOLVER
        broken = broken_weights(trainer.model)
        if broken:
            return f"the weights themselves are not finite, as {broken}; see MODEL.WEIGHTS"
        for target in step.batch[1]:
            try:
                validate_target(target, len(self.meta.get("class_names", ())) or 2**31)
            except ValueError as error:
                return f"an invalid target: {error}"
        usual = _USUAL_LR.get(solver.OPTIMIZER, math.inf) * solver.IMS_PER_BATCH
        if step.lr > 2 * usual:
            return (
                f"the learning rate: {step.lr:g} is {step.lr / usual:.3g} times what the linear rule gives for "
                f"{solver.OPTIMIZER} and batch {solver.IMS_PER_BATCH}; try SOLVER.BASE_LR {usual:g}"
            )
        if trainer.settings.amp_dtype is not None:
            return (
                "an overflow in half precision, or too high a learning rate; try SOLVER.AMP off, then a lower BASE_LR"
            )
        return (
            "the gradients grew over the last steps; try a lower SOLVER.BASE_LR, a longer warm-up or CLIP_GRAD_NORM 10"
        )


def broken_weights(model: torch.nn.Module) -> str:
    """The name of a parameter or buffer that is not finite, or ""."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return name
    return ""
