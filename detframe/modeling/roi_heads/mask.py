"""The mask branch of Mask R-CNN (arXiv:1703.06870, section 3).

Legend: R RoIs over all images, C channels of the pyramid, D of the head, K classes, S side of the predicted masks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import global_normalizer, init_he, init_normal
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.proposals import Regions
from detframe.modeling.roi_heads.box_head import ROIPooler, class_columns
from detframe.modeling.roi_heads.convs import RegionConvs
from detframe.registry import MASK_HEADS
from detframe.structures.mask_targets import crop_on_host


class MaskPredictor(nn.Module):
    """A transposed convolution that doubles the size, then the map of each region's class.

    `forward(x, labels)` takes (R, D, S/2, S/2) and labels 1..K, and gives logits (R, S, S), float32. The maps of other
    classes are never computed.
    """

    def __init__(self, in_channels: int, dim: int, num_maps: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, dim, 2, 2)
        self.mask_fcn_logits = nn.Conv2d(dim, num_maps, 1)
        init_he(self)
        init_normal(self.mask_fcn_logits, std=0.001)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = F.relu(self.conv5_mask(x), inplace=True)
        weight, bias = self.mask_fcn_logits.weight, self.mask_fcn_logits.bias
        # a gradient that lies in memory as its weight does, which DistributedDataParallel need not copy
        weight = (weight.permute(0, 2, 3, 1) if weight.stride(-1) > 1 else weight).flatten(1)
        column = class_columns(labels, len(weight))
        # by number, since graphs cannot guess a side where there are no regions
        cells = x.permute(0, 2, 3, 1).reshape(x.shape[0], x.shape[2] * x.shape[3], x.shape[1])  # (R, S², D)
        logits = torch.bmm(cells, weight[column][..., None].to(cells.dtype))[..., 0].float()
        if bias is not None:
            logits = logits + bias[column][:, None].float()
        return logits.reshape(x.shape[0], *x.shape[-2:])


@MASK_HEADS.register("MaskRCNN")
class MaskBranch(nn.Module):
    """Pools foreground regions, predicts a mask for each class, and compares that of the true class with the object's.

    Args:
        target_mode: how the masks of objects are cut out; see `detframe.structures.crop_masks`.
    """

    def __init__(
        self, pooler: ROIPooler, head: RegionConvs, predictor: MaskPredictor, target_mode: str, loss_weight: float
    ) -> None:
        super().__init__()
        self.pooler, self.head, self.predictor = pooler, head, predictor
        self.target_mode, self.loss_weight = target_mode, loss_weight

    @classmethod
    def from_config(cls, cfg: ConfigNode, in_channels: int, strides: Mapping[str, int]) -> MaskBranch:
        """Read MODEL.ROI_MASK_HEAD; `in_channels` are those of the regions that it gets."""
        keys = cfg.MODEL.ROI_MASK_HEAD
        head = RegionConvs(in_channels, keys.NUM_CONV, keys.CONV_DIM, keys.NORM)
        num_maps = 1 if keys.CLS_AGNOSTIC_MASK else cfg.MODEL.NUM_CLASSES
        predictor = MaskPredictor(head.out_channels, keys.CONV_DIM, num_maps)
        return cls(ROIPooler.from_config(cfg, strides, keys), head, predictor, keys.TARGET_MODE, keys.LOSS_WEIGHT)

    def losses(
        self, features: Mapping[str, Tensor], regions: Regions, gt: GroundTruth, pooled: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`loss_mask`: binary cross entropy of the true class's map, averaged over the foreground's cells.

        Args:
            regions: foreground only.
            pooled: what the head reads, where the regions have been pooled already.
        """
        logits = self._logits(features, regions.boxes, regions.labels, regions.image, pooled)
        count = global_normalizer(regions.count())
        wanted = mask_targets(gt, regions, logits.shape[-1], self.target_mode)
        weight = regions.counted()
        weight = None if weight is None else weight[:, None, None]
        loss = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="sum")
        cells = float(logits.shape[-1] ** 2)
        return {"loss_mask": self.loss_weight * loss / (count * cells)}

    def predict(
        self, features: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, image: Tensor, pooled: Tensor | None = None
    ) -> Tensor:
        """Probability of the object within each box: (R, S, S)."""
        return self._logits(features, boxes, labels, image, pooled).sigmoid()

    def _logits(
        self, features: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, image: Tensor, pooled: Tensor | None
    ) -> Tensor:
        x = self.pooler(features, boxes, image) if pooled is None else pooled
        return self.predictor(self.head(x), labels)


def mask_targets(gt: GroundTruth, regions: Regions, size: int, mode: str) -> Tensor:
    """What of its object lies in each RoI: float32 (R, size, size).

    Raises:
        ValueError: the targets have no masks.
    """
    if gt.masks is None:
        raise InvalidValueError(
            "MODEL.MASK_ON trains on masks, and the targets have none; does the data set have them?"
        )
    columns = (regions.image, regions.gt_index, regions.labels)
    boxes = regions.boxes.detach().float()
    # where the targets are computed: the one wait for an accelerator
    table = torch.cat([boxes, torch.stack(columns, 1).to(boxes)], 1).numpy(force=True)
    out = torch.zeros((len(table), size, size))
    for i, masks in enumerate(gt.masks):
        at = np.flatnonzero((table[:, 4] == i) & (table[:, 6] > 0))
        if len(at):
            cut = crop_on_host(masks, table[at, 5].astype(int), table[at, :4], size, mode)
            out[at[0] : at[-1] + 1] = cut if len(at) == at[-1] + 1 - at[0] else _spread(cut, at - at[0])
    return out.to(boxes.device, non_blocking=True)


def _spread(values: Tensor, rows: np.ndarray) -> Tensor:
    """Values (R, ...) at their rows, which rise, with zeros between them."""
    out = torch.zeros((int(rows[-1]) + 1, *values.shape[1:]))
    return out.index_copy(0, torch.from_numpy(rows), values.to(out.device))
