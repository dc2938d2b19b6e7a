"""Why something became infinite or not a number: causes tried in order, each with what speaks for it.

Every cause looks at the state before the step that failed: what that step itself spoiled, as the running statistics of
batch norm, says nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detframe.config import ConfigNode
from detframe.engine.random_numbers import rng_state, set_rng_state
from detframe.engine.step import Step, infinite_names
from detframe.engine.trainer import Trainer
from detframe.parallel.collectives import world_size
from detframe.structures import LazyMasks, Target, validate_target
from detframe.structures.forms import is_finite

logger = logging.getLogger(__name__)
_TOLERATED = 2.0  # times the usual learning rate
# Learning rate per image of the global batch by the linear rule
# (SGD: 0.02 for 16 images, Goyal et al., arXiv 1706.02677; AdamW: 1e-4 for 16 images)
_USUAL_LR = {"SGD": 0.02 / 16, "AdamW": 1e-4 / 16}
_LARGE_WEIGHT = 1e4  # no sound detector has one
_GROWTH = 100.0  # of losses or of the gradients' norm within a few steps
_LARGE = 1e3  # a loss or norm that a sound training may begin with
_KEYS = {"weight_decay": "SOLVER.WEIGHT_DECAY", "momentum": "SOLVER.MOMENTUM", "betas": "SOLVER.BETAS"}


@dataclass
class Evidence:
    """What the causes look at.

    Args:
        step: the step that failed; None where its weights were found broken after the update.
        buffers: the running buffers before the step.
        file_name: the image of a target, in words.
    """

    trainer: Trainer
    cfg: ConfigNode
    num_classes: int
    file_name: Callable[[Target], str]
    step: Step | None = None
    buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def updated(self) -> bool:
        """Whether an update of this run came before; if not, neither rate nor optimizer can be the cause."""
        return self.trainer.iteration > 0

    @property
    def rates(self) -> list[float]:
        """The learning rates of the last updates."""
        return [trace.lr for trace in self.trainer.recent]


Cause = Callable[[Evidence], str]


def cause_of_step(e: Evidence) -> str:
    """The likely cause of a loss or gradient that is not finite."""
    return _first(STEP_CAUSES, e)


def cause_of_update(e: Evidence) -> str:
    """The likely cause of weights that are not finite after an update whose loss was finite."""
    return _first(UPDATE_CAUSES, e)


def _first(causes: Sequence[Cause], e: Evidence) -> str:
    return next(text for cause in causes if (text := cause(e)))


# ---------------------------------------------------------------------------------------------- before the step
def broken_weights_before(e: Evidence) -> str:
    """Parameters that were not finite before the forward pass."""
    broken = infinite_names(e.trainer.model.named_parameters())
    if not broken:
        return ""
    if not e.trainer.recent:
        return f"the weights themselves are not finite, as {broken[0]}, before any update; see MODEL.WEIGHTS"
    return (
        f"the weights themselves are not finite, as {broken[0]}, since the update of iteration {e.trainer.iteration}: "
        f"{cause_of_update(e)}"
    )


def broken_statistics_before(e: Evidence) -> str:
    """Running statistics, and other buffers, that were not finite before the forward pass."""
    exempt = e.trainer.infinite_buffers
    broken = infinite_names((name, value) for name, value in e.buffers.items() if name not in exempt)
    if not broken:
        return ""
    if not e.trainer.recent:
        return f"the buffer {broken[0]} is not finite before the first step of this process already; see MODEL.WEIGHTS"
    return f"the buffer {broken[0]} was not finite before the step: activations of an earlier one have overflowed"


def broken_image(e: Evidence) -> str:
    """Images of floating-point numbers that are not finite."""
    if e.step is None:
        return ""
    for image, target in zip(*e.step.batch, strict=True):
        if not is_finite(image):
            return f"image {e.file_name(target)} holds pixels that are not finite; mend the file or the transform"
    return ""


def broken_pixel_constants(e: Evidence) -> str:
    """The mean or deviation with which images are normalised."""
    for name, value in e.trainer.model.named_buffers():
        if name in ("mean", "std") and not (is_finite(value) and (name == "mean" or bool((value != 0).all()))):
            return f"INPUT.PIXEL_{name.upper()} {value.flatten().tolist()} makes every image infinite"
    return ""


def broken_target(e: Evidence) -> str:
    """Targets that break their contract."""
    if e.step is None:
        return ""
    for target in e.step.batch[1]:
        try:
            validate_target(target, e.num_classes)
        except ValueError as error:
            return f"an invalid target: {error}"
        for key, value in target.items():
            if not isinstance(value, LazyMasks) and not is_finite(value):
                return f"an invalid target: {key} of image {e.file_name(target)} is not finite"
    return ""


def overflow_in_half_precision(e: Evidence) -> str:
    """The forward pass is finite in full precision. Tried with one process only: a rank must not wait for another."""
    dtype = e.trainer.settings.amp_dtype
    if e.step is None or dtype is None or world_size() > 1 or is_finite(e.step.losses):
        return ""
    try:
        finite = is_finite(_losses_in_full_precision(e))
    except torch.OutOfMemoryError as error:
        logger.warning("whether the step is finite in full precision could not be tried: %s", error)
        return ""
    name = str(dtype).removeprefix("torch.")
    return f"an overflow in {name}: in full precision the same losses are finite; set SOLVER.AMP off" if finite else ""


@torch.no_grad()
def _losses_in_full_precision(e: Evidence) -> dict[str, Tensor]:
    """The losses of the step without autocast, from the state before it; random numbers and buffers are put back."""
    trainer, step = e.trainer, e.step
    if step is None:
        return {}
    images, targets = step.batch
    now, own = rng_state(), {name: value.clone() for name, value in trainer.model.state_dict().items()}
    size = len(images) // trainer.settings.accumulate_steps
    losses: dict[str, Tensor] = {}
    try:
        set_rng_state(step.rng)
        trainer.model.load_state_dict({**own, **e.buffers})
        for start in range(0, len(images), size):
            part = trainer.model(images[start : start + size], targets[start : start + size])
            losses.update({f"{key}{start}": value for key, value in part.items()})
    finally:
        trainer.model.load_state_dict(own)
        set_rng_state(now)
    return losses


def one_loss_alone(e: Evidence) -> str:
    """Some losses are finite and others are not, and nothing had grown."""
    if e.step is None or _growth(e):
        return ""
    broken = sorted(key for key, value in e.step.losses.items() if not is_finite(value))
    if not broken or len(broken) == len(e.step.losses):
        return ""
    return (
        f"the computation of {', '.join(broken)} itself, as a logarithm, a root or a division at 0: the other losses "
        f"are finite, and nothing had grown ({_norms(e)}); the replay names the first module"
    )


def gradient_alone(e: Evidence) -> str:
    """The losses are finite, and the backward pass is not, and nothing had grown."""
    if e.step is None or not is_finite(e.step.losses) or _growth(e):
        return ""
    settings, where = e.trainer.settings, ""
    if settings.clip_norm == 0 or settings.clip_each:  # clipping all by an infinite norm spoils the others as well
        named = [(name, p.grad) for name, p in e.trainer.model.named_parameters() if p.grad is not None]
        broken = infinite_names(named)
        if not broken and settings.clip_value == 0:  # which makes infinite gradients finite
            return "gradients so large that their norm overflows; try a lower SOLVER.BASE_LR, or scale the losses down"
        where = f" in {len(broken)} of {len(named)} parameters, as {broken[0]}" if broken else ""
    return (
        f"the backward pass{where}: the losses are finite and nothing had grown ({_norms(e)}), as with the derivative "
        "of a root at 0; the replay names the operation"
    )


# ---------------------------------------------------------------------------------------------- of updates
def broken_option(e: Evidence) -> str:
    """A setting of the optimizer that is not finite."""
    for group in e.trainer.optimizer.param_groups:
        for key, value in group.items():
            if key not in ("params", "lr") and not is_finite(value):
                return f"{_KEYS.get(key, f'the setting {key} of the optimizer')} is {value}"
    return ""


def exploding_momentum(e: Evidence) -> str:
    """Momentum of 1 or more never forgets a gradient."""
    largest = max(float(group.get("momentum", 0.0)) for group in e.trainer.optimizer.param_groups)
    if not e.updated or abs(largest) < 1:
        return ""
    return f"SOLVER.MOMENTUM {largest:g}: from 1 on, gradients add up instead of fading; 0.9 is usual"


def exploding_decay(e: Evidence) -> str:
    """A weight decay that makes weights larger, at a usual rate too."""
    if not e.rates:
        return ""
    decay = max((group.get("weight_decay") or 0.0 for group in e.trainer.optimizer.param_groups), key=abs)
    factor = abs(1 - max(e.rates) * decay)
    if abs(1 - min(max(e.rates), _TOLERATED * _usual_rate(e)) * decay) <= 1:
        return ""
    return (
        f"SOLVER.WEIGHT_DECAY {decay:g} (or that of norms or biases): with the learning rate {max(e.rates):g} each "
        f"step multiplies weights by {factor:.3g}; 1e-4 is usual"
    )


def _usual_rate(e: Evidence) -> float:
    """What the linear rule gives; infinite where there is none for the optimizer."""
    return _USUAL_LR.get(e.cfg.SOLVER.OPTIMIZER, math.inf) * float(e.cfg.SOLVER.IMS_PER_BATCH)


def high_rate(e: Evidence) -> str:
    """A rate far above the linear rule, and something that grew, or weights that are not finite."""
    solver = e.cfg.SOLVER
    rates = e.rates + ([e.step.lr] if e.step is not None else [])
    usual = _usual_rate(e)
    rate = max(rates, default=0.0)
    if not e.updated or rate <= _TOLERATED * usual or (e.step is not None and not _growth(e)):
        return ""
    made_of = ""
    if solver.BASE_LR > 0 and rate > 1.001 * solver.BASE_LR:
        made_of = (
            f" (it is {rate / solver.BASE_LR:.3g} times SOLVER.BASE_LR {solver.BASE_LR:g}: see WARMUP_FACTOR, GAMMA "
            "and LR_SCHEDULE)"
        )
    return (
        f"the learning rate: {rate:g} is {rate / usual:.3g} times what the linear rule gives for {solver.OPTIMIZER} "
        f"and batch {solver.IMS_PER_BATCH}{made_of}; try SOLVER.BASE_LR {usual:g}{_because(e)}"
    )


def gradients_grew(e: Evidence) -> str:
    """Gradients or weights that grew, with a rate that is nothing special."""
    grown = _growth(e)
    remedy = f"try a lower SOLVER.BASE_LR, a longer warm-up{_or_clipping(e)}"
    return f"the training grew unstable: {grown}; {remedy}" if grown and e.updated else ""


def _or_clipping(e: Evidence) -> str:
    """The remedy where gradients are not clipped yet."""
    settings = e.trainer.settings
    return "" if settings.clip_norm or settings.clip_value else " or SOLVER.CLIP_GRAD_NORM 10"


def unknown_update(e: Evidence) -> str:
    """The last word on an update."""
    return f"the update itself ({_norms(e)}); try a lower SOLVER.BASE_LR{_or_clipping(e)}"


def unknown_step(e: Evidence) -> str:
    """The last word on a step."""
    if not e.updated:
        return "the first step already: the model or its losses on these images; the replay names the first module"
    return f"the model or its losses on these images ({_norms(e)}); the replay names the first module"


STEP_CAUSES: tuple[Cause, ...] = (
    broken_weights_before,
    broken_statistics_before,
    broken_image,
    broken_pixel_constants,
    broken_target,
    overflow_in_half_precision,
    one_loss_alone,
    gradient_alone,
    broken_option,
    exploding_momentum,
    exploding_decay,
    high_rate,
    gradients_grew,
    unknown_step,
)
UPDATE_CAUSES: tuple[Cause, ...] = (
    broken_option,
    exploding_momentum,
    exploding_decay,
    high_rate,
    gradients_grew,
    unknown_update,
)


# ---------------------------------------------------------------------------------------------- growth
def _because(e: Evidence) -> str:
    grown = _growth(e)
    return f" ({grown})" if grown else ""


def _growth(e: Evidence) -> str:
    """What grew without measure before the step, in words, or ""."""
    name, largest = _largest_weight(e.trainer)
    parts = []
    if _rose([float(trace.grad_norm) for trace in e.trainer.recent]):
        parts.append(_norms(e))
    losses = [float(trace.loss) for trace in e.trainer.recent]
    if e.step is not None:
        losses.append(sum(float(value) for value in e.step.losses.values()))
    if _rose(losses):
        parts.append(f"last losses: {', '.join(f'{value:.3g}' for value in losses)}")
    if math.isfinite(largest) and largest > _LARGE_WEIGHT:
        parts.append(f"{name} has grown to {largest:.3g}")
    return " and ".join(parts)


def _rose(values: Sequence[float]) -> bool:
    """Whether finite values rose without measure above the first of them, or above what is ever sound."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    return bool(finite) and max(finite) > _GROWTH * min(max(finite[0], 1.0), _LARGE)


def _norms(e: Evidence) -> str:
    norms = ", ".join(f"{float(trace.grad_norm):.3g}" for trace in e.trainer.recent)
    return f"norms of the last gradients: {norms}" if norms else "no step of this process before"


def _largest_weight(trainer: Trainer) -> tuple[str, float]:
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.numel()]
    if not named:
        return "", 0.0
    sizes = torch.stack([p.detach().abs().max().float().cpu() for _, p in named])
    where = int(sizes.argmax())
    return named[where][0], float(sizes[where])
