"""What happens when a loss or a gradient is not finite: every rank writes a bundle that replays the step, and stops.

With SOLVER.SKIP_NONFINITE a bounded number of such steps go by without their update instead.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from detframe.checkpoint import Meta
from detframe.config import ConfigNode
from detframe.engine.causes import Evidence, cause_of_step, cause_of_update
from detframe.engine.checkpoint import last_checkpoint
from detframe.engine.commands import full_disk_remedy, program_name
from detframe.engine.step import Step, all_finite, infinite_names
from detframe.engine.trainer import Hook, Trainer, is_due
from detframe.errors import NonFiniteError, listed
from detframe.parallel.collectives import any_rank, gather_objects, rank, world_size
from detframe.solver.schedules import describe_rate, is_usable
from detframe.structures import LazyMasks, Target
from detframe.torch_files import write_torch_file

logger = logging.getLogger(__name__)
FOLDER = "nonfinite"
_SHOWN = 3  # names in a message
_LEAST_SCALE = 2.0**-20  # of the losses in fp16: it is halved at each overflow, and 1 is low already


def pack_target(target: Target) -> dict[str, Any]:
    """A target in types that weights_only=True loads; masks that are not decoded yet stay so."""
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


def held_tensors(trainer: Trainer, saved: bool) -> Iterator[tuple[str, Tensor]]:
    """What must stay finite in a training, by name: parameters, and with `saved` all else that a checkpoint takes over:
    running statistics, the average of the weights, the states of the optimizer."""
    named = dict(trainer.model.named_parameters())
    yield from named.items()
    if not saved:
        return
    exempt = trainer.infinite_buffers
    for name, value in trainer.model.state_dict().items():
        if name not in named and name not in exempt:
            yield name, value
    if trainer.ema is not None:
        yield from ((f"{n} (average)", v) for n, v in trainer.ema.average.items() if n not in exempt)
    names = {id(parameter): name for name, parameter in named.items()}
    for parameter, entries in trainer.optimizer.state.items():
        owner = names.get(id(parameter), "a parameter")
        yield from ((f"{owner} (optimizer's {key})", v) for key, v in entries.items() if isinstance(v, Tensor))


@dataclass
class FiniteGuard:
    """The `guard` of a trainer that writes bundles.

    Args:
        folder: OUTPUT_DIR; bundles go below it.
        cfg: the effective config.
        meta: class names and so on, as in a checkpoint's "meta".
        file_name: the file of an image id, for the message; None where nobody knows.
    """

    folder: Path
    cfg: ConfigNode
    meta: Meta
    file_name: Callable[[Any], str] | None = None
    _has_skipped: bool = field(default=False, init=False)

    def not_finite(self, trainer: Trainer, step: Step) -> None:
        """Write this rank's bundle and raise; called by every rank, before the update.

        Of the steps that SOLVER.SKIP_NONFINITE lets go by, only the first of this process leaves a bundle, for it is as
        large as a checkpoint.

        Raises:
            FloatingPointError: says what is not finite, in which images, and how to replay the step.
        """
        iteration, allowed = trainer.iteration + 1, self.cfg.SOLVER.SKIP_NONFINITE
        skips = trainer.skipped < allowed
        path = self.folder / FOLDER / f"iter_{iteration:07d}_rank{rank()}.pth"
        written = "" if skips and self._has_skipped else self._write(path, trainer, step)
        reports = gather_objects(self._report(trainer, step, written))
        bad = [report for report in reports if report["bad"]] or reports
        cause = next((report["cause"] for report in bad), "")
        done = "its update is skipped" if skips else "all ranks stopped before its update"
        lines = [f"iteration {iteration} is not finite, so {done} (lr {step.lr:g}):"]
        lines += [f"  rank {r['rank']}: {r['what']}; images {r['images']}" for r in bad]
        lines.append(f"  likely cause: {cause}")
        if written:
            allow = " --allow-custom-imports" if self.cfg.CUSTOM_IMPORTS else ""
            lines.append(f"  replay it: {program_name('replay', 'replay.py')} {bad[0]['path']}{allow}")
        if skips:
            self._has_skipped = True
            lines.append(f"  skipped so far: {trainer.skipped + 1} of SOLVER.SKIP_NONFINITE {allowed}")
            logger.warning("%s", "\n".join(lines))
            return
        if allowed:
            lines.append(f"  skipped before: {trainer.skipped}, as many as SOLVER.SKIP_NONFINITE {allowed} lets go by")
        lines.append(f"  {self._good()}")
        raise NonFiniteError("\n".join(lines))

    def _write(self, path: Path, trainer: Trainer, step: Step) -> str:
        """Write the bundle; a failure to do so must not hide the failure that it is about."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_torch_file(self._bundle(trainer, step), path, full_disk_remedy(self.folder))
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
            "model": {**trainer.model.state_dict(), **trainer.running.named(step.buffers)},  # before the step
            "infinite_buffers": sorted(trainer.infinite_buffers),
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
            "cause": cause_of_step(self._evidence(trainer, step)),
            "path": path,
        }

    def _file(self, target: Target) -> str:
        image_id = target.get("image_id", "?")
        return f"{image_id} ({self.file_name(image_id)})" if self.file_name is not None else str(image_id)

    # ------------------------------------------------------------------ before and after an update
    def check_rates(self, trainer: Trainer) -> None:
        """Before a step; every rank has the same rates.

        Raises:
            FloatingPointError: one is not finite; names the keys that make it.
        """
        for group in trainer.optimizer.param_groups:
            if not is_usable(group["lr"]):
                text = describe_rate(self.cfg, group["lr"], trainer.iteration)
                raise NonFiniteError(
                    f"{text}. The weights are those after iteration {trainer.iteration}; {self._good()}"
                )

    def check_weights(self, trainer: Trainer) -> None:
        """Called by every rank, after an update; running statistics count on rank 0, whose own are saved.

        Raises:
            FloatingPointError: what a checkpoint would hold is not finite, or fp16 has overflowed for long; names the
                first weights, the likely cause, and the checkpoint to go on from.
        """
        self._check_scale(trainer)
        saved = rank() == 0
        broken = not all_finite(value for _, value in held_tensors(trainer, saved))
        if not any_rank(broken, trainer.device):
            return
        names = infinite_names(held_tensors(trainer, saved))
        cause = cause_of_update(self._evidence(trainer)) if names else ""
        reports = [report for report in gather_objects((names, cause)) if report[0]]
        names, cause = reports[0] if reports else (["an unknown one"], "unknown")
        raise NonFiniteError(
            f"after the update of iteration {trainer.iteration} the weights are not finite, so they are not saved: "
            f"{listed(names, _SHOWN)}\n  likely cause: {cause}\n  {self._good()}"
        )

    def _check_scale(self, trainer: Trainer) -> None:
        if trainer.scaler.is_enabled() and trainer.scaler.get_scale() < _LEAST_SCALE:
            raise NonFiniteError(
                f"up to iteration {trainer.iteration} the gradients in fp16 were not finite, whatever the loss scale "
                f"({trainer.scaler.get_scale():g} now), so the weights have not changed for many steps; set SOLVER.AMP "
                f"bf16 or off. {self._good()}"
            )

    def _evidence(self, trainer: Trainer, step: Step | None = None) -> Evidence:
        buffers = trainer.running.named(step.buffers) if step is not None else {}
        num_classes = len(self.meta.get("class_names", ())) or 2**31
        return Evidence(trainer, self.cfg, num_classes, self._file, step, buffers)

    def _good(self) -> str:
        """The checkpoint to go on from."""
        last = last_checkpoint(self.folder)
        if last is None:
            return "no checkpoint has been saved yet: mend the cause and start again"
        return f"the last good checkpoint is {last}: mend the cause, then go on from it with --resume"


class FiniteHook(Hook):
    """Asks whether the weights are finite every so many steps, and after the last one; it comes before other hooks."""

    name = "finite"

    def __init__(self, *periods: int) -> None:
        self.periods = periods

    def after_step(self, trainer: Trainer) -> None:
        """Raises FloatingPointError as `FiniteGuard.check_weights`."""
        now = trainer.iteration
        if now == trainer.max_iter or any(is_due(now, period) for period in self.periods):
            trainer.guard.check_weights(trainer)
