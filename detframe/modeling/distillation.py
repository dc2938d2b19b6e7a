"""Cross-resolution distillation: an extended pyramid learns what the pyramid sees in an image twice as large.

Source: EFPN (arXiv:2003.07021, section 3.3; IEEE TMM, DOI 10.1109/TMM.2021.3074273) and the authors' release.
Legend: N images, C channels, G objects of the fullest image, (h, w) cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import global_normalizer
from detframe.modeling.backbones.efpn import EFPN
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

    Teacher and student are this same detector: the teacher's p2 and p3 (the latter before its output convolution) are
    the targets of P2' and P3', which the student computes on an image of half the teacher's size. In training the
    losses are `loss_distill_p2` and `loss_distill_p3`, and with `detection` those of the detector on the full image;
    in evaluation this is the ordinary detector.

    Args:
        features: which of "p2" and "p3" are matched.
        enlarge_teacher: the teacher sees the image enlarged twice, the student the image; else the teacher sees the
            image and the student its 2x2 averages (the authors' release).
        positive_weight: the paper's lambda.
        detection: add the losses of detection.
        parts: the arguments of GeneralizedRCNN.
    """

    divisor_factor = 2  # the student sees half of the image, which must divide as well

    def __init__(
        self,
        *,
        features: Sequence[str],
        enlarge_teacher: bool,
        positive_weight: float,
        detection: bool,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.matched = tuple(features)
        self.enlarge_teacher, self.detection = enlarge_teacher, detection
        self.positive_weight = positive_weight

    @classmethod
    def from_config(cls, cfg: ConfigNode, **parts: Any) -> Self:
        """The detector of a config, with what MODEL.DISTILL says of its training."""
        keys = cfg.MODEL.DISTILL
        return cls(
            features=keys.FEATURES,
            enlarge_teacher=keys.TEACHER == "enlarged",
            positive_weight=keys.POSITIVE_WEIGHT,
            detection=keys.DETECTION,
            **parts,
        )

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
        if any(isinstance(module, norms) for module in backbone.modules()):
            raise InvalidValueError(
                "MODEL.DISTILL.ON runs the backbone on images of two sizes, whose statistics its batch norms would "
                "mix; freeze them (MODEL.FREEZE ['backbone.body.*', 'backbone.fpn.*']) or use GN (MODEL.RESNETS.NORM, "
                "MODEL.FPN.NORM)"
            )
        super().check(cfg)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, **how: Unpack[Pasting]) -> Any:
        if not self.training:
            return super().forward(images, targets, **how)
        with naming_images(images, targets):
            batch, ground_truth = self._batch(images, targets)
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
            wanted = dict(zip(("p3", "p2"), backbone.targets(large), strict=True))
        p3_prime, p2_prime, _ = backbone.extended(small)
        found = {"p3": p3_prime, "p2": p2_prime}
        losses = {}
        for name in self.matched:
            inside = box_mask(boxes, gt.valid, STRIDES[name], wanted[name].shape[-2:])
            losses[f"loss_distill_{name}"] = balanced_l1(found[name], wanted[name], inside, self.positive_weight)
        return losses


def balanced_l1(found: Tensor, wanted: Tensor, inside: Tensor, positive_weight: float) -> Tensor:
    """Mean absolute difference of two (N, C, h, w) maps, plus `positive_weight` times that inside of objects.

    Args:
        inside: bool (N, h, w), the cells that objects touch; where there are none, the second term is 0.
        positive_weight: the paper's lambda.

    Source: EFPN, the foreground-background-balanced loss. Both means are over all cells of the step.
    """
    difference = (found.float() - wanted.float()).abs()
    cells = torch.tensor(float(inside.numel()), device=found.device)
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
