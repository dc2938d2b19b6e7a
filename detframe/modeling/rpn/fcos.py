"""FCOS: a detector that predicts a box at every location of a pyramid (arXiv:1904.01355, arXiv:2006.09214).

Legend: N images, A locations over all levels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import ByShape, DeformConv, global_normalizer
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.proposals import NMS, Proposals, box_coder, detection_nms
from detframe.modeling.rpn.anchors import from_the_coarsest
from detframe.modeling.rpn.assigner import field_sides, make_assigner
from detframe.modeling.rpn.dense import best_pairs, detections, rows_of
from detframe.modeling.rpn.fcos_head import ClassificationHead, FCOSHead, HeadOutputs, RegressionHead, make_tower
from detframe.ops import BoxCoder, Matching, grid_step, sigmoid_focal
from detframe.ops.assigning import Assigner
from detframe.ops.boxes import (
    LocationMatching,
    Locations,
    assign_locations,
    boxes_at,
    centerness,
    distance_iou,
    distances,
)
from detframe.ops.ignoring import points_in
from detframe.ops.losses import distance_iou_loss, distance_nwd_loss
from detframe.ops.ranked_reach import PriorLevel, ranked_reach
from detframe.ops.reach import LocationLevel, Objects, Reached, grid_cells, location_reach
from detframe.registry import RPN_HEADS
from detframe.structures import ImageList


@dataclass(frozen=True)
class FCOSSettings:
    """The keys of MODEL.FCOS that assignment, losses and detection need; see there for what they mean."""

    location_offset: float
    location_step: str
    norm_reg_targets: bool
    box_quality: str
    iou_loss_type: str
    iou_smoothing: float
    weight_by_centerness: bool
    sync_normalizer: bool
    loss_alpha: float
    loss_gamma: float
    inference_th: float
    thresh_with_ctr: bool
    pre_nms_top_n: int

    @classmethod
    def from_config(cls, cfg: ConfigNode) -> FCOSSettings:
        """Every field is the key of its name."""
        return cls(**{name: cfg.MODEL.FCOS[name.upper()] for name in cls.__dataclass_fields__})


@RPN_HEADS.register("FCOS")
class FCOS(nn.Module):
    """Detects on its own, or proposes to ROI heads.

    `forward(images, features, ground_truth, propose)` returns Proposals with class labels (None unless `propose`) and
    the losses `loss_fcos_cls` (focal), `loss_fcos_box` (IoU) and `loss_fcos_quality` (binary cross entropy), empty
    without ground truth.

    Args:
        sizes: the largest distance of each level but the last.
        assigner: what gives locations to objects; "iou": whatever `matching` says.
        prior_sides: for the other rules, the side of the square that stands at the locations of each level, in pixels.
        nwd_constant: of the box loss "nwd", in pixels.
    """

    def __init__(
        self,
        *,
        head: FCOSHead,
        strides: Mapping[str, int],
        sizes: Sequence[float],
        num_classes: int,
        settings: FCOSSettings,
        matching: LocationMatching,
        nms: NMS,
        coder: BoxCoder,
        assigner: Assigner,
        prior_sides: Sequence[float],
        nwd_constant: float,
    ) -> None:
        super().__init__()
        self.head = head
        self.strides = dict(strides)
        self.bounds = [0.0, *sizes, float("inf")]
        self.num_classes = num_classes
        self.settings = settings
        self.matching, self.nms, self.coder = matching, nms, coder
        self.assigner, self.prior_sides = assigner, list(prior_sides)
        self.nwd_constant = nwd_constant
        self._known_locations: ByShape[Locations] = ByShape()

    @classmethod
    def from_config(cls, cfg: ConfigNode, out_channels: int, strides: Mapping[str, int]) -> FCOS:
        """Read MODEL.FCOS; channels, levels and strides come from the extractor.

        Raises:
            ValueError: SIZES_OF_INTEREST, or receptive fields, that do not match the levels.
        """
        keys, coder = cfg.MODEL.FCOS, box_coder(cfg)
        sizes = _sizes_of_interest(cfg, strides)
        towers = [make_tower(out_channels, keys.NUM_CONVS, keys.NORM, _last(keys, out_channels)) for _ in range(2)]
        head = FCOSHead(
            ClassificationHead(towers[0], out_channels, cfg.MODEL.NUM_CLASSES, keys.PRIOR_PROB),
            RegressionHead(towers[1], out_channels),
            num_levels=len(strides) if keys.USE_SCALE else 0,
            quality_on_regression=keys.CENTERNESS_ON_REG,
            normalised=keys.NORM_REG_TARGETS,
        )
        return cls(
            head=head,
            strides=strides,
            sizes=sizes,
            num_classes=cfg.MODEL.NUM_CLASSES,
            settings=FCOSSettings.from_config(cfg),
            matching=LocationMatching(keys.CENTER_SAMPLING_RADIUS, keys.RANGE_INCLUSIVE),
            nms=detection_nms(cfg, keys.NMS_TH, coder, dense=True),
            coder=coder,
            assigner=make_assigner(cfg, Matching(0.0, 0.0)),
            prior_sides=_prior_sides(cfg, strides),
            nwd_constant=cfg.MODEL.NWD_CONSTANT,
        )

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], ground_truth: GroundTruth | None, propose: bool
    ) -> tuple[Proposals | None, dict[str, Tensor]]:
        maps = list(features.values())
        outputs = self.head(maps)
        locations = self._locations(maps, images)
        losses = {} if ground_truth is None else self._losses(locations, outputs, ground_truth)
        return (self._detect(images, locations, outputs) if propose else None), losses

    # ------------------------------------------------------------------ where
    def _locations(self, maps: Sequence[Tensor], images: ImageList) -> Locations:
        grids = [(x.shape[-2], x.shape[-1]) for x in maps]
        key = (*grids, images.padded_hw)
        return self._known_locations.get(key, maps[0], lambda: self._place(grids, images.padded_hw, maps[0].device))

    def _place(self, grids: Sequence[tuple[int, int]], padded_hw: tuple[int, int], device: torch.device) -> Locations:
        parts = []
        for i, (grid_hw, stride) in enumerate(zip(grids, self.strides.values(), strict=True)):
            step_y, step_x = grid_step(self.settings.location_step, stride, grid_hw, padded_hw)
            offset = self._offset(stride)
            y, x = torch.meshgrid(
                torch.arange(grid_hw[0], device=device) * step_y + offset,
                torch.arange(grid_hw[1], device=device) * step_x + offset,
                indexing="ij",
            )
            xy = torch.stack([x, y], -1).reshape(-1, 2).float()
            # filled there, since the host would wait for a copy
            level = [xy.new_full((len(xy), 1), v) for v in (stride, self.bounds[i], self.bounds[i + 1])]
            parts.append(torch.cat([xy, *level], 1))
        xy, stride_of, low, high = torch.split(torch.cat(parts), [2, 1, 1, 1], 1)
        return Locations(xy, stride_of[:, 0], low[:, 0], high[:, 0])

    def _offset(self, stride: int) -> int:
        """Pixels from the corner of the image to the first location of a level."""
        return int(stride * self.settings.location_offset)

    @torch.no_grad()
    def reach(self, objects: Objects) -> Reached:
        """Which objects get a location of their own; of locations that are ranked, how well the squares around them
        fit."""
        keys = self.settings
        if self.assigner.kind != "iou":
            return ranked_reach(objects, self._squares(objects), self.assigner, self.coder)
        levels = [
            LocationLevel(
                grid_cells(keys.location_step, stride, objects.padded_hw),
                stride,
                self._offset(stride),
                self.bounds[i],
                self.bounds[i + 1],
            )
            for i, stride in enumerate(self.strides.values())
        ]
        return location_reach(objects, levels, self.matching, self.coder)

    def _squares(self, objects: Objects) -> list[PriorLevel]:
        """What stands at the locations where they are ranked; it ends between pixels whatever the coder says."""
        levels = []
        for stride, side in zip(self.strides.values(), self.prior_sides, strict=True):
            centre = torch.full((1, 2), float(self._offset(stride)), device=objects.boxes.device)
            square = torch.cat([centre - side / 2, centre + side / 2], 1)
            cells = grid_cells(self.settings.location_step, stride, objects.padded_hw)
            levels.append(PriorLevel(self.coder.shrink(square), cells, 0.0))
        return levels

    # ------------------------------------------------------------------ training
    def _losses(self, locations: Locations, outputs: HeadOutputs, gt: GroundTruth) -> dict[str, Tensor]:
        keys = self.settings
        assigned = self._assign(locations, [level.shape[1] for level in outputs.logits], gt)
        found, row = assigned >= 0, assigned.clamp(min=0)
        labels, weights = torch.where(found, gt.labels.gather(1, row), 0), found.float()
        counted = self._counted(locations, assigned, gt)
        cls = sigmoid_focal(outputs.logits, labels, counted, keys.loss_alpha, keys.loss_gamma)
        positives = self._normalizer(weights.sum(), 1.0)
        wanted = distances(locations.xy, gt.boxes.gather(1, row[..., None].expand(-1, -1, 4)))
        # elsewhere it may be anything, even what is no number, which a weight of 0 would not make one
        predicted, wanted = (torch.where(found[..., None], x, 1.0) for x in (outputs.regression, wanted))
        scale = locations.stride[:, None] if keys.norm_reg_targets else 1.0
        distance = self.head.distances(predicted)
        box, quality = self._box_losses(distance, outputs.quality, wanted, scale, weights, positives)
        return {"loss_fcos_cls": cls / positives, "loss_fcos_box": box, "loss_fcos_quality": quality / positives}

    def _counted(self, locations: Locations, assigned: Tensor, gt: GroundTruth) -> Tensor:
        """Which locations count in the class loss, float32 (N, A): not background inside of an ignored region."""
        if gt.ignored is None:
            return torch.ones_like(assigned, dtype=torch.float32)
        return ((assigned >= 0) | ~points_in(locations.xy, gt.ignored)).float()

    @torch.no_grad()
    def _assign(self, locations: Locations, counts: Sequence[int], gt: GroundTruth) -> Tensor:
        """The object of each location, int64 (N, A), -1 where there is none.

        Args:
            counts: of locations of each level.
        """
        if self.assigner.kind == "iou":
            return assign_locations(gt.boxes, gt.valid, locations, self.matching, self.coder)
        levels = zip(torch.split(locations.xy, list(counts)), self.prior_sides, strict=True)
        priors = [torch.cat([xy - side / 2, xy + side / 2], 1) for xy, side in levels]
        matches = self.assigner(self.coder.extend(gt.boxes), gt.valid, priors)
        return torch.where(matches.label > 0, matches.gt_index, -1)

    def _box_losses(
        self,
        distance: Tensor,
        quality: Tensor,
        wanted: Tensor,
        scale: Tensor | float,
        weights: Tensor,
        positives: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The box loss, normalised, and the quality loss, summed, over the locations, which count by their weights
        (N, A): 1 for positive ones, 0 for the others.

        A location predicts a box that it lies in. Where it lies outside of its object, as ranking may have it, the box
        to predict is the smallest one around both, and its centerness is 0.
        """
        keys = self.settings
        target = wanted / scale
        loss = self._box_loss(distance, target.clamp(min=0), scale) * weights
        if keys.box_quality == "iou":
            wanted_quality = distance_iou(distance.detach(), target, keys.iou_smoothing)[0]
        else:
            wanted_quality = centerness(wanted)
        quality_loss = F.binary_cross_entropy_with_logits(quality, wanted_quality, weights, reduction="sum")
        if keys.weight_by_centerness and keys.box_quality == "centerness":
            centre = (wanted_quality * weights).sum()
            return (loss * wanted_quality).sum() / self._normalizer(centre, 1e-6), quality_loss
        return loss.sum() / positives, quality_loss

    def _box_loss(self, distance: Tensor, target: Tensor, scale: Tensor | float) -> Tensor:
        """Of distances (..., 4) that are pixels over `scale`: (...)."""
        keys = self.settings
        if keys.iou_loss_type == "nwd":
            return distance_nwd_loss(distance * scale, target * scale, self.nwd_constant)
        return distance_iou_loss(distance, target, keys.iou_loss_type, keys.iou_smoothing)

    def _normalizer(self, value: Tensor, least: float) -> Tensor:
        return global_normalizer(value, least, over_ranks=self.settings.sync_normalizer)

    # ------------------------------------------------------------------ detection
    @torch.no_grad()
    def _detect(self, images: ImageList, locations: Locations, outputs: HeadOutputs) -> Proposals:
        pairs = best_pairs(outputs.logits, self.settings.pre_nms_top_n, partial(self._scores, outputs.quality))
        distance = self.head.distances(rows_of(outputs.regression, pairs.row))
        if self.settings.norm_reg_targets:
            distance = distance * locations.stride[pairs.row][..., None]
        sizes = images.sizes_on(distance.device)[:, None]
        boxes = self.coder.clip(boxes_at(locations.xy[pairs.row], distance), sizes)
        return detections(pairs, boxes, self.num_classes, self.nms)

    def _scores(self, quality: Tensor, logits: Tensor, rows: Tensor | None) -> Tensor:
        """The scores of pairs, as `Scoring`; those below the threshold do not count."""
        scores = logits.float().sigmoid()
        factor = (quality if rows is None else quality.gather(1, rows)).sigmoid()
        combined = (scores * factor[..., None]).sqrt()
        gate = combined if self.settings.thresh_with_ctr else scores
        return torch.where(gate > self.settings.inference_th, combined, -1.0)


def _last(keys: ConfigNode, channels: int) -> Callable[[], nn.Module] | None:
    """What makes the last convolution of a tower, where it is not the plain one."""
    if not keys.USE_DCN_IN_TOWER:
        return None
    return lambda: DeformConv(channels, channels, 3)


def _prior_sides(cfg: ConfigNode, strides: Mapping[str, int]) -> list[float]:
    """Sides of the squares that are ranked where locations have no anchors, in pixels."""
    if cfg.MODEL.RPN.ASSIGNER == "rfla":
        return field_sides(cfg, strides)
    return [cfg.MODEL.RPN.ASSIGNMENT.FCOS_PRIOR * stride for stride in strides.values()]


def _sizes_of_interest(cfg: ConfigNode, strides: Mapping[str, int]) -> list[float]:
    sizes = list(cfg.MODEL.FCOS.SIZES_OF_INTEREST)
    if not sizes:
        return [8.0 * stride for stride in list(strides.values())[:-1]]
    if cfg.MODEL.RPN.FINEST_LEVEL:
        sizes = from_the_coarsest(sizes, strides, len(strides) - 1, lambda size: size / 2)
    if len(sizes) != len(strides) - 1 or list(sizes) != sorted(sizes):
        raise InvalidValueError(
            f"MODEL.FCOS.SIZES_OF_INTEREST {tuple(sizes)} must be {len(strides) - 1} rising sizes, one between each "
            f"two levels of the pyramid: {', '.join(f'{name} (stride {stride})' for name, stride in strides.items())}"
        )
    return [float(size) for size in sizes]
