"""What LOSSES holds: what a loss is given, and how the config chooses one that fits.

Legend: N images, A locations or anchors over all levels, R RoIs over all images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.modeling.ground_truth import GroundTruth
from detframe.registry import LOSSES

# What a member is a loss of, as it says by its attribute `fits`
REGIONS, DENSE, BOXES, DELTAS = "regions", "dense", "boxes", "deltas"
_MEANINGS = {
    REGIONS: "of the classes of RoIs (MODEL.ROI_BOX_HEAD.CLS_LOSS)",
    DENSE: "of the classes of locations or anchors (MODEL.FCOS.CLS_LOSS, MODEL.RETINANET.CLS_LOSS)",
    BOXES: "of boxes (BOX_LOSS_TYPE, MODEL.FCOS.IOU_LOSS_TYPE)",
    DELTAS: "of deltas to anchors or RoIs (BOX_LOSS_TYPE)",
}


class RegionTargets(NamedTuple):
    """What RoIs should say of their classes."""

    labels: Tensor  # int64 (R,), 1..K; 0 is background, -1 what is no RoI
    image: Tensor  # int64 (R,), the image of each
    ground_truth: GroundTruth  # of the images


class ClassLoss(nn.Module):
    """A loss of classes. The sum over what it is given, in float32; whoever asks divides it.

    Args:
        class_weights: float32 (K,), how much a RoI, location or anchor with an object of each class counts; None: all
            the same. Background counts once.
    """

    fits: ClassVar[str]
    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor([1.0, *class_weights])
        # part of the config, which is saved in any case
        self.register_buffer("class_weights", weights, persistent=False)

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        """The loss of a config.

        Args:
            keys: the section of MODEL of the head that asks, as MODEL.ROI_BOX_HEAD.
        """
        return cls(class_weights_of(cfg))

    def weighted(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Losses or factors (...) of rows, times the weights of their labels (...); 0 and -1 are background."""
        return losses if self.class_weights is None else losses * self.class_weights[labels.clamp(min=0)]


class RegionLoss(ClassLoss):
    """A loss of the classes of RoIs: `forward(logits, targets)`, float32 (R, 1 + K), background first, and
    RegionTargets.

    The same scalar whatever rows without a RoI (label -1) say; 0 without RoIs.
    """

    fits = REGIONS
    # the probability of each class with which training starts; None: that of the head's own first weights
    prior: ClassVar[float | None] = None
    # whether it follows something from step to step, in the first part of each (`layers.first_part`)
    follows_steps: ClassVar[bool] = False

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities (R, 1 + K) of logits, in evaluation."""
        return logits.softmax(-1)


def class_weights_of(cfg: ConfigNode) -> list[float] | None:
    """The weight of each class in order of their labels; None without MODEL.CLASS_WEIGHTS.

    Raises:
        ValueError: it says less than the weight of every class. Training completes it, since it knows their names.
    """
    weights = cfg.MODEL.CLASS_WEIGHTS
    if not weights:
        return None
    if isinstance(weights, str) or len(weights) != cfg.MODEL.NUM_CLASSES:
        said = repr(weights) if isinstance(weights, str) else f"the weights of {len(weights)} classes"
        raise InvalidValueError(
            f"MODEL.CLASS_WEIGHTS says {said}; a model needs that of each of its {cfg.MODEL.NUM_CLASSES} classes, in "
            "the order of their labels (training takes it from the names of the data set and, with 'auto', its objects)"
        )
    return [weight for _, weight in weights]


def loss_of(cfg: ConfigNode, section: str, name: str, *kinds: str) -> Any:
    """The member of LOSSES that the key MODEL.<section>.<name> chooses: `member.from_config(cfg, section)` or, of a
    function, `member(cfg, section)`.

    Args:
        kinds: what it may be a loss of; see its attribute `fits`.

    Raises:
        KeyError: there is no such member; the nearest are named.
        ValueError: it is a loss of something else.
        TypeError: it does not say of what.
    """
    keys = cfg.MODEL[section]
    member = LOSSES.get(keys[name])
    found = getattr(member, "fits", None)
    if found not in _MEANINGS:
        raise InvalidTypeError(
            f"the loss {keys[name]!r} does not say what it is a loss of: it needs an attribute `fits`, one of "
            f"{', '.join(map(repr, _MEANINGS))}"
        )
    if found not in kinds:
        others = sorted(known for known, other in LOSSES if getattr(other, "fits", None) in kinds)
        raise InvalidValueError(
            f"MODEL.{section}.{name} cannot be {keys[name]!r} (from {cfg.source(f'MODEL.{section}.{name}')}), a loss "
            f"{_MEANINGS[found]}; losses that can stand here: {', '.join(others)}"
        )
    make: Callable[..., Any] = getattr(member, "from_config", member)
    return make(cfg, keys)
