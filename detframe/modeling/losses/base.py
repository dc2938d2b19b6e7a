"""What LOSSES holds: what a loss is given, and how the config chooses one that fits.

Legend: N images, A locations or anchors over all levels, R RoIs over all images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses.class_weights import ClassWeights, class_weights_of
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


class DenseTargets(NamedTuple):
    """What locations or anchors should say of their classes."""

    labels: Tensor  # int64 (N, A), 1..K; 0 is background
    weights: Tensor  # float32 (N, A), factors of the rows, those of MODEL.CLASS_WEIGHTS among them; 0 leaves a row out
    # float32 (N, A), without gradient: IoU of the predicted box with the object; where there is none, any number
    fit: Callable[[], Tensor]


class DenseLoss(nn.Module):
    """A loss of the classes of locations or anchors: `forward(logits, targets)` of the logits of each level,
    (N, A_level, K), and DenseTargets gives the sum over all rows and classes, a float32 scalar.

    Whoever asks divides it. The score of a class is the sigmoid of its logit.
    """

    fits: ClassVar[str] = DENSE

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        """The loss of a config.

        Args:
            keys: the section of the head that asks, MODEL.FCOS or MODEL.RETINANET.
        """
        return cls()


class RegionLoss(nn.Module):
    """A loss of the classes of RoIs: `forward(logits, targets)` of float32 (R, 1 + K), background first, and
    RegionTargets gives the sum over the RoIs, a float32 scalar; whoever asks divides it.

    Rows that are no RoI (label -1) have no part in it, whatever their logits are. Without RoIs it is 0.

    Args:
        class_weights: of each class, which `self.class_weights(losses, labels)` multiplies with; None: all the same.
    """

    fits: ClassVar[str] = REGIONS
    # the probability of each class with which training starts; None: that of the head's own first weights
    prior: ClassVar[float | None] = None
    # whether it follows something from step to step, in the first part of each (`layers.first_part`)
    follows_steps: ClassVar[bool] = False

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.class_weights = ClassWeights(class_weights)

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        """The loss of a config.

        Args:
            keys: the section of the head that asks, MODEL.ROI_BOX_HEAD.
        """
        return cls(class_weights_of(cfg))

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities (R, 1 + K) of logits, in evaluation."""
        return logits.softmax(-1)


def loss_of(cfg: ConfigNode, section: str, name: str, *kinds: str) -> Any:
    """The member of LOSSES that the key MODEL.SECTION.NAME chooses: `member.from_config(cfg, section)` or, of a
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
