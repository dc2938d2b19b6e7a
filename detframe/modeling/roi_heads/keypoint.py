"""The keypoint branch of Mask R-CNN (arXiv:1703.06870, section 5).

Legend: R RoIs over all images, C channels of the pyramid, D of the head, P keypoints, S side of the heatmaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import global_normalizer, init_he
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.proposals import Regions
from detframe.modeling.roi_heads.box_head import ROIPooler
from detframe.ops import keypoint_loss, keypoints_to_cells


class KeypointHead(nn.Sequential):
    """3x3 convolutions and ReLUs over pooled RoIs: (R, C, s, s) -> (R, D, s, s)."""

    def __init__(self, in_channels: int, dims: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for a, b in zip([in_channels, *dims], dims, strict=False):
            layers += [init_he(nn.Conv2d(a, b, 3, padding=1)), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class KeypointPredictor(nn.Module):
    """A transposed convolution, then bilinear enlargement: (R, D, s, s) -> logits (R, P, 4s, 4s), float32."""

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.kps_score_lowres = nn.ConvTranspose2d(in_channels, num_keypoints, 4, 2, padding=1)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.kps_score_lowres(x).float(), scale_factor=2.0, mode="bilinear")


class KeypointBranch(nn.Module):
    """Predicts a heatmap for each keypoint of an RoI: where in the box it is, as one class among its cells."""

    def __init__(
        self, pooler: ROIPooler, head: KeypointHead, predictor: KeypointPredictor, normalizer: float, loss_weight: float
    ) -> None:
        """Args:
        normalizer: what the sum of losses is divided by; 0 is the number of visible keypoints.
        """
        super().__init__()
        self.pooler, self.head, self.predictor = pooler, head, predictor
        self.normalizer, self.loss_weight = normalizer, loss_weight

    @classmethod
    def from_config(cls, cfg: ConfigNode, in_channels: int, strides: Mapping[str, int]) -> KeypointBranch:
        """Read MODEL.ROI_KEYPOINT_HEAD.

        Raises:
            ValueError: NUM_KEYPOINTS is 0 (training infers it from the data; here there is none).
        """
        keys = cfg.MODEL.ROI_KEYPOINT_HEAD
        if keys.NUM_KEYPOINTS < 1:
            raise InvalidValueError(
                "MODEL.KEYPOINT_ON needs MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS (training takes it from the data set)"
            )
        head = KeypointHead(in_channels, keys.CONV_DIMS)
        predictor = KeypointPredictor([in_channels, *keys.CONV_DIMS][-1], keys.NUM_KEYPOINTS)
        pooler = ROIPooler.from_config(cfg, strides, keys)
        # detectron2's static one: all keypoints of as many RoIs as may be foreground, in every image
        per_image = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION
        normalizer = 0.0 if keys.NORMALIZER == "visible" else keys.NUM_KEYPOINTS * per_image
        return cls(pooler, head, predictor, normalizer, keys.LOSS_WEIGHT)

    def losses(self, features: Mapping[str, Tensor], regions: Regions, gt: GroundTruth) -> dict[str, Tensor]:
        """`loss_keypoint`: cross entropy among the cells of each visible keypoint's heatmap. Foreground RoIs only.

        Raises:
            ValueError: the targets have no keypoints, or another number of them than the model.
        """
        if gt.keypoints is None:
            raise InvalidValueError(
                "MODEL.KEYPOINT_ON trains on keypoints, and the targets have none; does the data set?"
            )
        logits = self.heatmaps(features, regions.boxes, regions.image)
        if gt.keypoints.shape[2] != logits.shape[1]:
            raise InvalidValueError(
                f"the targets have {gt.keypoints.shape[2]} keypoints an object, the model has {logits.shape[1]}: "
                f"build it with MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {gt.keypoints.shape[2]}"
            )
        keypoints = gt.keypoints[regions.image, regions.gt_index]
        cells, valid = keypoints_to_cells(keypoints, regions.boxes, logits.shape[-1])
        if regions.padded:
            there = (regions.labels > 0)[:, None] & valid
            cells, valid = torch.where(there, cells, 0), there
        static = torch.full((), self.normalizer * len(gt.valid), device=logits.device)
        divisor = global_normalizer(static if self.normalizer else valid.sum())
        return {"loss_keypoint": self.loss_weight * keypoint_loss(logits, cells, valid, divisor)}

    def heatmaps(self, features: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Where in their boxes keypoints are: logits (R, P, S, S), which `heatmaps_to_keypoints` reads."""
        out: Tensor = self.predictor(self.head(self.pooler(features, boxes, image)))
        return out
