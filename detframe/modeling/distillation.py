"""Cross-resolution distillation: an extended pyramid learns what the pyramid sees in an image twice as large.

Source: EFPN (arXiv:2003.07021, section 3.3; IEEE TMM, DOI 10.1109/TMM.2021.3074273) and the authors' release.
Legend: N images, C channels, G objects of the fullest image, (h, w) cells of a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import global_normalizer
from detframe.modeling.backbones.efpn import EFPN
from detframe.modeling.backbones.fpn import FPN, PyramidBackbone
from detframe.modeling.detector import GeneralizedRCNN, naming_images
from detframe.modeling.ground_truth import GroundTruth
from detframe.ops import BoxCoder
from detframe.ops.touching import touched_cells
from detframe.registry import META_ARCHITECTURES
from detframe.structures import Pasting, Target

STRIDES = {"p2": 4, "p3": 8}  # of the targets, on the image that the teacher sees


@META_ARCHITECTURES.register
class DistilledRCNN(GeneralizedRCNN):
    """A detector on EFPN whose extension is trained to give, on a smaller image, the maps of a larger one.

    Teacher and student are this same detector, unless `teach` gives it another teacher: the teacher's p2 and p3 (the
    latter before its output convolution) are the targets of P2' and P3', which the student computes on an image of half
    the teacher's size. In training the losses are `loss_distill_p2` and `loss_distill_p3`, and with `detection` those
    of the detector on the full image; in evaluation this is the ordinary detector.

    With `running_norms` batch norms take statistics of the images of the detection alone: in the distillation they
    normalise by their running ones.

    Args:
        features: which of "p2" and "p3" are matched.
        enlarge_teacher: the teacher sees the image enlarged twice, the student the image; else the teacher sees the
            image and the student its 2x2 averages (the authors' release).
        positive_weight: the paper's lambda.
        detection: add the losses of detection.
        loss_weight: of the losses of distillation.
        awaits_teacher: train only after `teach`.
        parts: the arguments of GeneralizedRCNN.
    """

    trains_in_one_pass = False
    divisor_factor = 2  # the student sees half of the image, which must divide as well

    def __init__(
        self,
        *,
        features: Sequence[str],
        enlarge_teacher: bool,
        positive_weight: float,
        detection: bool,
        running_norms: bool = False,
        loss_weight: float = 1.0,
        awaits_teacher: bool = False,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.matched = tuple(features)
        self.enlarge_teacher, self.detection = enlarge_teacher, detection
        self.positive_weight, self.loss_weight = positive_weight, loss_weight
        self.running_norms, self.awaits_teacher = running_norms, awaits_teacher
        # in a tuple, so that it is no part of this detector: not trained, averaged or saved with it
        self.teacher: tuple[GeneralizedRCNN, ...] = ()

    @classmethod
    def from_config(cls, cfg: ConfigNode, **parts: Any) -> Self:
        """The detector of a config, with what MODEL.DISTILL says of its training."""
        keys = cfg.MODEL.DISTILL
        return cls(
            features=keys.FEATURES,
            enlarge_teacher=keys.TEACHER == "enlarged",
            positive_weight=keys.POSITIVE_WEIGHT,
            detection=keys.DETECTION,
            running_norms=keys.RUNNING_NORMS,
            loss_weight=keys.LOSS_WEIGHT,
            awaits_teacher=bool(keys.TEACHER_WEIGHTS),
            **parts,
        )

    def teach(self, teacher: GeneralizedRCNN, source: str) -> None:
        """Learn from another detector, on the device of this one, in place of itself.

        Args:
            source: what the teacher is called in messages.

        Raises:
            ValueError: it has no p2 and p3 like those of this detector, or sees images in another form.
        """
        backbone, name = teacher.backbone, f"the teacher {source} (MODEL.DISTILL.TEACHER_WEIGHTS)"
        pyramid = isinstance(backbone, EFPN) or (
            isinstance(backbone, PyramidBackbone) and isinstance(backbone.fpn, FPN)
        )
        strides: Any = getattr(backbone, "strides", {})
        if not pyramid or strides.get("p2") != STRIDES["p2"] or strides.get("p3") != STRIDES["p3"]:
            raise InvalidValueError(f"{name} needs an FPN with the levels p2 and p3, but has {dict(strides)}")
        if backbone.out_channels != self.backbone.out_channels:
            raise InvalidValueError(
                f"{name} has {backbone.out_channels} channels in its pyramid, but this detector "
                f"{self.backbone.out_channels}: MODEL.FPN.OUT_CHANNELS must be the same for both"
            )
        ours, theirs = self.preprocessor, teacher.preprocessor
        if (ours.mean != theirs.mean).any() or (ours.std != theirs.std).any() or ours.bgr != theirs.bgr:
            raise InvalidValueError(
                f"{name} normalises images in another way than this detector: INPUT.PIXEL_MEAN, PIXEL_STD and FORMAT "
                "must be the same for both"
            )
        teacher.eval()
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
        self.teacher = (teacher,)

    def check(self, cfg: ConfigNode) -> None:
        """What is to be distilled must be there, and what teaches must stand still.

        Raises:
            ValueError: the extractor has no extension; parts would train without a loss of their own; or a norm
                computes statistics, which two image sizes would mix.
        """
        name, backbone = cfg.MODEL.BACKBONE.CONV_BODY, self.backbone
        if not isinstance(backbone, EFPN):
            raise InvalidValueError(
                f"MODEL.DISTILL.ON needs an extended pyramid, a CONV_BODY such as 'R-50-EFPN', not {name!r}"
            )
        if "p3" in self.matched and backbone.extension.transfer is None:
            raise InvalidValueError(
                "MODEL.DISTILL.FEATURES names 'p3', but with MODEL.EFPN.TRANSFER 'plain' there is no P3' that could "
                "learn it; set MODEL.DISTILL.FEATURES ['p2']"
            )
        teacher = [("backbone.body", backbone.body), ("backbone.fpn", backbone.fpn)]
        idle = [] if self.detection else [*teacher, ("rpn", self.rpn), ("roi_heads", self.roi_heads)]
        learning = [part for part, module in idle if module is not None and _learns(module)]
        if learning:
            raise InvalidValueError(
                "MODEL.DISTILL.ON without MODEL.DISTILL.DETECTION trains the extension alone, but these would train "
                f"too: {', '.join(learning)}; add '<part>.*' of each to MODEL.FREEZE"
            )
        norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
        if not self.running_norms and any(isinstance(module, norms) for module in backbone.modules()):
            raise InvalidValueError(
                "MODEL.DISTILL.ON runs the backbone on images of two sizes, whose statistics its batch norms would "
                "mix; freeze them (MODEL.FREEZE ['backbone.body.*', 'backbone.fpn.*']), or use GN (MODEL.RESNETS.NORM, "
                "MODEL.FPN.NORM) or FrozenBN, or, with MODEL.DISTILL.DETECTION, set MODEL.DISTILL.RUNNING_NORMS True"
            )
        super().check(cfg)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | GroundTruth | None = None,
        **how: Unpack[Pasting],
    ) -> Any:
        if not self.training:
            return super().forward(images, targets, **how)
        if self.awaits_teacher and not self.teacher:
            raise InvalidValueError(
                "MODEL.DISTILL.TEACHER_WEIGHTS names a teacher, but the model has none; model.teach(teacher, name) "
                "gives it one, as detframe's training does"
            )
        with naming_images(images, targets):
            batch, ground_truth = self._batch(images, targets)
            with running_statistics(self.backbone):
                losses = self._distill(batch.tensors, ground_truth)
            return {**losses, **self._run(batch, ground_truth)} if self.detection else losses

    def _distill(self, image: Tensor, gt: GroundTruth) -> dict[str, Tensor]:
        backbone: Any = self.backbone
        boxes = BoxCoder(pixel=self.pixel).extend(gt.boxes) * (2 if self.enlarge_teacher else 1)
        if self.enlarge_teacher:
            large, small = F.interpolate(image, scale_factor=2, mode="bilinear"), image
        else:
            large, small = image, F.avg_pool2d(image, 2)
        with torch.no_grad():
            teacher: Any = self.teacher[0].backbone if self.teacher else backbone
            wanted = dict(zip(("p3", "p2"), teacher.targets(large), strict=True))
        p3_prime, p2_prime, _ = backbone.extended(small)
        found = {"p3": p3_prime, "p2": p2_prime}
        losses = {}
        for name in self.matched:
            inside = box_mask(boxes, gt.valid, STRIDES[name], wanted[name].shape[-2:])
            loss = balanced_l1(found[name], wanted[name], inside, self.positive_weight)
            losses[f"loss_distill_{name}"] = self.loss_weight * loss
        return losses


@contextmanager
def running_statistics(module: nn.Module) -> Iterator[None]:
    """While it lasts, batch norms normalise by their running statistics, and leave them as they are."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm) and m.training]
    try:
        for norm in norms:
            norm.eval()
        yield
    finally:
        for norm in norms:
            norm.train()


def balanced_l1(found: Tensor, wanted: Tensor, inside: Tensor, positive_weight: float) -> Tensor:
    """Mean absolute difference of two (N, C, h, w) maps, plus `positive_weight` times that inside of objects.

    Args:
        inside: bool (N, h, w), the cells that objects touch; where there are none, the second term is 0.
        positive_weight: the paper's lambda.

    Source: EFPN, the foreground-background-balanced loss. Both means are over all cells of the step.
    """
    difference = (found.float() - wanted.float()).abs()
    cells = torch.full((), float(inside.numel()), device=found.device)
    everywhere = difference.sum() / (global_normalizer(cells) * found.shape[1])
    objects = (difference * inside[:, None]).sum() / (global_normalizer(inside.sum()) * found.shape[1])
    return everywhere + positive_weight * objects


def box_mask(boxes: Tensor, valid: Tensor, stride: int, size_hw: Sequence[int]) -> Tensor:
    """Which cells of a map objects touch: bool (N, h, w).

    Args:
        boxes: (N, G, 4) in pixels of the image that the map belongs to; they grow outwards to whole cells.
        valid: bool (N, G), which rows are objects.
        stride: pixels per cell.
        size_hw: (h, w).
    """
    image = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(valid)
    return touched_cells(boxes, image, valid, stride, len(boxes), size_hw)


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
