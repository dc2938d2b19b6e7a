"""Losses of the classes of RoIs.

Legend: N images, G objects of the fullest image, R RoIs over all images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import first_part, global_normalizer, passes_per_step
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses.base import RegionLoss, RegionTargets
from detframe.modeling.losses.class_weights import class_weights_of
from detframe.ops import random_keys
from detframe.ops.losses_regions import draw_classes, seesaw, softmax_focal
from detframe.registry import LOSSES

_SEED = 3  # so that what is drawn here has nothing to do with what is sampled of the same image


@LOSSES.register("cross_entropy")
class CrossEntropy(RegionLoss):
    """The cross entropy of the softmax over background and classes.

    Args:
        smoothing: the share of the target that is spread over background and all classes (arXiv:1512.00567, section 7).
    """

    def __init__(self, smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(class_weights)
        self.smoothing = smoothing

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        return cls(cfg.MODEL.LABEL_SMOOTHING, class_weights_of(cfg))

    def forward(self, logits: Tensor, targets: RegionTargets) -> Tensor:
        how = "sum" if self.class_weights.table is None else "none"
        loss = F.cross_entropy(logits, targets.labels, ignore_index=-1, reduction=how, label_smoothing=self.smoothing)
        return self.class_weights(loss, targets.labels).sum()


@LOSSES.register("softmax_focal")
class SoftmaxFocal(RegionLoss):
    """The focal loss of the softmax over background and classes: rows that are nearly right count less."""

    def __init__(self, gamma: float, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(class_weights)
        self.gamma = gamma

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        return cls(keys.FOCAL_GAMMA, class_weights_of(cfg))

    def forward(self, logits: Tensor, targets: RegionTargets) -> Tensor:
        return self.class_weights(softmax_focal(logits, targets.labels, self.gamma), targets.labels).sum()


@LOSSES.register("federated")
class Federated(RegionLoss):
    """Binary cross entropy of each class, of few classes in each image: for data of so many classes that not all of
    them were looked for in every image (LVIS, arXiv:1908.03195).

    Where the ground truth says which classes were (`GroundTruth.judged`), it is these: the classes of the objects and
    those known to be absent, but of those whose objects are not all annotated only the objects. In other images it is
    the classes of the objects and others drawn at random (`ops.losses_regions.draw_classes`), by the image, so that
    ranks and parts of a batch change nothing.

    Args:
        frequencies: of each class, in how many images it is; () are all the same.
        number: of classes in an image that does not say which were looked for.
        power: classes are drawn by their frequency to this power.
    """

    prior = 0.01
    chances: Tensor

    def __init__(
        self,
        num_classes: int,
        frequencies: Sequence[float],
        number: int,
        power: float,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(class_weights)
        self.number = number
        images = torch.tensor(list(frequencies) or [1.0] * num_classes, dtype=torch.float32)
        # a class that no image shows is in no image to be told from others
        self.register_buffer("chances", torch.where(images > 0, images.pow(power), 0.0), persistent=False)

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        number, power = keys.FEDERATED_CLASSES, keys.FEDERATED_POWER
        return cls(cfg.MODEL.NUM_CLASSES, keys.CLASS_FREQUENCIES, number, power, class_weights_of(cfg))

    def forward(self, logits: Tensor, targets: RegionTargets) -> Tensor:
        labels = targets.labels[:, None]
        wanted = labels == torch.arange(1, logits.shape[1], device=labels.device)
        counted = (self._classes(targets.ground_truth)[targets.image] | wanted) & (labels >= 0)
        loss = F.binary_cross_entropy_with_logits(logits[:, 1:], wanted.float(), counted.float(), reduction="none")
        return self.class_weights(loss.sum(1), targets.labels).sum()

    def scores(self, logits: Tensor) -> Tensor:
        """Each class by itself; there is no probability of background."""
        return torch.cat([torch.zeros_like(logits[:, :1]), logits[:, 1:].sigmoid()], 1)

    def _classes(self, gt: GroundTruth) -> Tensor:
        """The classes of each image whose absence at a RoI says something: bool (N, K)."""
        number, classes = len(gt.valid), len(self.chances)
        shown = torch.zeros((number, 1 + classes), dtype=torch.bool, device=gt.labels.device)
        present = shown.scatter(1, torch.where(gt.valid, gt.labels, 0), True)[:, 1:]
        uniform = random_keys(gt.seeds + _SEED, classes)
        drawn = draw_classes(present, self.chances, uniform, self.number)
        return drawn if gt.judged is None else torch.where(gt.judged < 0, drawn, gt.judged > 0)


@LOSSES.register("seesaw")
class Seesaw(RegionLoss):
    """The Seesaw loss (arXiv:2008.10032): rare classes are punished less by the objects of frequent ones.

    Background has a logit of its own, as the paper's objectness has: it is decided first whether there is
    an object, and then of which class. How often each class was seen is counted from step to step, over all ranks and
    accumulated parts, the step in work included; the paper's normalised linear layer is left out.

    Args:
        p: exponent of the mitigation.
        q: exponent of the compensation.
    """

    follows_steps = True
    counts: Tensor

    def __init__(self, num_classes: int, p: float, q: float, class_weights: Sequence[float] | None = None) -> None:
        super().__init__(class_weights)
        self.p, self.q = p, q
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg: ConfigNode, keys: ConfigNode) -> Self:
        return cls(cfg.MODEL.NUM_CLASSES, keys.SEESAW_P, keys.SEESAW_Q, class_weights_of(cfg))

    def forward(self, logits: Tensor, targets: RegionTargets) -> Tensor:
        labels = targets.labels
        self._count(labels)
        background = F.binary_cross_entropy_with_logits(logits[:, 0], (labels == 0).float(), reduction="none")
        classes = seesaw(logits[:, 1:], (labels - 1).clamp(min=0), self.counts, self.p, self.q)
        loss = torch.where(labels >= 0, background, 0.0) + torch.where(labels > 0, classes, 0.0)
        return self.class_weights(loss, labels).sum()

    def scores(self, logits: Tensor) -> Tensor:
        background = logits[:, :1].sigmoid()
        return torch.cat([background, (1 - background) * logits[:, 1:].softmax(-1)], 1)

    @torch.no_grad()
    def _count(self, labels: Tensor) -> None:
        """Add what a whole step holds of each class, once a step."""
        column = torch.zeros(1 + len(self.counts), device=labels.device)
        own = column.scatter_add(0, labels.clamp(min=0), (labels > 0).float())[1:]
        of_step = global_normalizer(own, least=0.0) * passes_per_step()
        if self.training and first_part():
            self.counts.add_(of_step.round().long())
