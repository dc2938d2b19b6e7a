"""PointRend (arXiv:1912.08193): a coarse mask, refined at the points where it is least certain.

Legend: R RoIs over all images, C channels of the pyramid, K classes, P points, S side of a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm, global_normalizer, init_he, init_normal
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.proposals import Regions
from detframe.modeling.roi_heads.box_head import class_rows
from detframe.modeling.roi_heads.mask import mask_targets
from detframe.ops import random_keys
from detframe.ops.points import level_sampler, regular_grid, sample_regions, to_image
from detframe.ops.ragged import places
from detframe.registry import MASK_HEADS
from detframe.structures.mask_targets import sample_on_host


class CoarseHead(nn.Module):
    """A grid of features to a small mask a class: (R, C, 2S, 2S) -> (R, K, S, S), float32."""

    def __init__(self, channels: int, num_fc: int, dim: int, side: int, num_maps: int) -> None:
        super().__init__()
        self.num_maps, self.side = num_maps, side
        self.reduce = ConvNorm(channels, channels, 2, stride=2, relu=True)
        init_he(self.reduce)
        sizes = [channels * side**2, *[dim] * num_fc]
        self.fcs = nn.ModuleList(init_he(nn.Linear(a, b)) for a, b in pairwise(sizes))
        self.prediction = init_normal(nn.Linear(sizes[-1], num_maps * side**2), std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x).flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        return self.prediction(x).float().reshape(-1, self.num_maps, self.side, self.side)


class PointHead(nn.Module):
    """The same layers at every point: fine features (R, C, P) and coarse logits (R, K, P) -> logits (R, K, P), float32.

    The coarse logits join the input of every layer.
    """

    def __init__(self, channels: int, num_fc: int, dim: int, num_maps: int) -> None:
        super().__init__()
        sizes = [channels, *[dim] * num_fc]
        self.fcs = nn.ModuleList(init_he(nn.Conv1d(a + num_maps, b, 1)) for a, b in pairwise(sizes))
        self.predictor = init_normal(nn.Conv1d(sizes[-1] + num_maps, num_maps, 1), std=0.001)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = fine
        for fc in self.fcs:
            x = F.relu(fc(torch.cat([x, coarse.to(x.dtype)], 1)))
        return self.predictor(torch.cat([x, coarse.to(x.dtype)], 1)).float()


@MASK_HEADS.register("PointRend")
class PointRendBranch(nn.Module):
    """A mask branch as MaskBranch is one; masks come in S = side * 2^steps of the coarse ones.

    Args:
        feature: the level of the pyramid that points are looked up in.
        stride: of that level, in pixels.
        num_points: points per RoI in training, of which the fraction `importance` is chosen among
            `oversample * num_points` random ones for their uncertainty.
        steps: how often the mask is doubled in inference.
        step_points: points that are predicted anew in each step.
    """

    def __init__(
        self,
        coarse: CoarseHead,
        point_head: PointHead,
        feature: str,
        stride: int,
        target_mode: str,
        loss_weight: float,
        num_points: int,
        oversample: int,
        importance: float,
        steps: int,
        step_points: int,
    ) -> None:
        super().__init__()
        self.coarse, self.point_head = coarse, point_head
        self.feature, self.stride = feature, stride
        self.target_mode, self.loss_weight = target_mode, loss_weight
        self.num_points, self.oversample, self.importance = num_points, oversample, importance
        self.steps, self.step_points = steps, step_points

    @classmethod
    def from_config(cls, cfg: ConfigNode, in_channels: int, strides: Mapping[str, int]) -> PointRendBranch:
        """Read MODEL.POINT_HEAD.

        Raises:
            ValueError: IN_FEATURE names a map that RoIs are not pooled from.
        """
        keys, mask = cfg.MODEL.POINT_HEAD, cfg.MODEL.ROI_MASK_HEAD
        if keys.IN_FEATURE not in strides:
            raise InvalidValueError(
                f"MODEL.POINT_HEAD.IN_FEATURE is {keys.IN_FEATURE!r}, but RoIs are pooled from {list(strides)}"
            )
        maps = 1 if mask.CLS_AGNOSTIC_MASK else cfg.MODEL.NUM_CLASSES
        return cls(
            CoarseHead(in_channels, keys.COARSE_NUM_FC, keys.COARSE_FC_DIM, keys.COARSE_SIDE, maps),
            PointHead(in_channels, keys.NUM_FC, keys.FC_DIM, maps),
            keys.IN_FEATURE,
            strides[keys.IN_FEATURE],
            mask.TARGET_MODE,
            mask.LOSS_WEIGHT,
            keys.NUM_POINTS,
            keys.OVERSAMPLE,
            keys.IMPORTANCE,
            keys.SUBDIVISION_STEPS,
            keys.SUBDIVISION_POINTS,
        )

    def losses(
        self, features: Mapping[str, Tensor], regions: Regions, gt: GroundTruth, pooled: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`loss_mask` of the coarse masks, `loss_mask_point` at sampled points. Foreground RoIs only."""
        fine = level_sampler(features[self.feature], self.stride, regions.image)
        maps = self._coarse(fine, regions.boxes)
        coarse = class_rows(maps, regions.labels)
        count = global_normalizer(regions.count())
        wanted = mask_targets(gt, regions, coarse.shape[-1], self.target_mode)
        weight = regions.counted()
        weights = (None, None) if weight is None else (weight[:, None, None], weight[:, None])
        mask = F.binary_cross_entropy_with_logits(coarse, wanted, weights[0], reduction="sum")
        mask = mask / (count * coarse.shape[-1] ** 2)
        points = self._training_points(coarse.detach(), regions, gt)
        logits = class_rows(self._at(fine, maps, points, regions.boxes), regions.labels)
        truth = self._truth(gt, regions, to_image(points, regions.boxes))
        point = F.binary_cross_entropy_with_logits(logits, truth, weights[1], reduction="sum")
        point = point / (count * self.num_points)
        return {"loss_mask": self.loss_weight * mask, "loss_mask_point": self.loss_weight * point}

    def predict(
        self, features: Mapping[str, Tensor], boxes: Tensor, labels: Tensor, image: Tensor, pooled: Tensor | None = None
    ) -> Tensor:
        """Probability of the object within each box: (R, S, S)."""
        fine = level_sampler(features[self.feature], self.stride, image)
        maps = self._coarse(fine, boxes)
        side, steps = maps.shape[-1], self.steps
        while steps and 4 * side**2 <= self.step_points:  # all cells would be predicted anew: begin there
            side, steps = 2 * side, steps - 1
        points = regular_grid(boxes.shape[0], side, boxes.device)
        logits = class_rows(self._at(fine, maps, points, boxes), labels).reshape(-1, 1, side, side)
        for _ in range(steps):
            logits = F.interpolate(logits, scale_factor=2.0, mode="bilinear")
            side *= 2
            flat = logits.flatten(1)
            cells = flat.abs().topk(min(self.step_points, side**2), 1, largest=False, sorted=False).indices
            points = (torch.stack([cells % side, cells // side], -1) + 0.5) / side
            anew = class_rows(self._at(fine, maps, points, boxes), labels)
            logits = flat.scatter(1, cells, anew).reshape(-1, 1, side, side)
        return logits[:, 0].sigmoid()

    def _coarse(self, fine: Callable[[Tensor], Tensor], boxes: Tensor) -> Tensor:
        side = 2 * self.coarse.side
        points = to_image(regular_grid(boxes.shape[0], side, boxes.device), boxes)
        sampled = fine(points)
        return self.coarse(sampled.reshape(boxes.shape[0], sampled.shape[1], side, side))

    def _at(self, fine: Callable[[Tensor], Tensor], maps: Tensor, points: Tensor, boxes: Tensor) -> Tensor:
        """Logits of the point head at points (R, P, 2) of the boxes: (R, K, P)."""
        logits: Tensor = self.point_head(fine(to_image(points, boxes)), sample_regions(maps, points))
        return logits

    @torch.no_grad()
    def _training_points(self, coarse: Tensor, regions: Regions, gt: GroundTruth) -> Tensor:
        """Where the coarse masks (R, S, S) are least certain, and some anywhere: (R, P, 2)."""
        sampled, chosen = self.oversample * self.num_points, int(self.importance * self.num_points)
        # each RoI of an image has numbers of its own, whatever other images there are
        seeds = (gt.seeds[regions.image] + 2) * 1_000_003 + _numbers(regions, len(gt.seeds))
        count = sampled + self.num_points - chosen
        keys = random_keys(seeds, 2 * count).reshape(len(seeds), count, 2)
        candidates, anywhere = keys[:, :sampled], keys[:, sampled:]
        certainty = sample_regions(coarse[:, None], candidates)[:, 0].abs()
        best = certainty.topk(chosen, 1, largest=False).indices
        return torch.cat([candidates.gather(1, best[..., None].expand(-1, -1, 2)), anywhere], 1)

    def _truth(self, gt: GroundTruth, regions: Regions, points: Tensor) -> Tensor:
        """The objects' masks at points (R, P, 2) in image pixels: (R, P)."""
        columns = torch.stack([regions.image, regions.gt_index, regions.labels], 1)
        # one wait for an accelerator
        table = torch.cat([points.detach().flatten(1), columns.to(points)], 1).numpy(force=True)
        place, (image, row, label) = table[:, :-3].reshape(points.shape), table[:, -3:].astype(int).T
        out = torch.zeros(points.shape[:2])
        for i, of_image in enumerate(gt.masks or []):
            at = np.flatnonzero((image == i) & (label > 0))
            out[torch.from_numpy(at)] = sample_on_host(of_image, row[at], place[at])
        return out.to(points.device, non_blocking=True)


def _numbers(regions: Regions, num_images: int) -> Tensor:
    """Which one of its image each RoI is: int64 (R,)."""
    if not regions.padded:
        return places(regions.image, num_images)
    there = (regions.labels > 0).reshape(num_images, -1)
    return (there.cumsum(1) - 1).clamp(min=0).flatten()
