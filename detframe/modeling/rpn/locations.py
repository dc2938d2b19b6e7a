"""What detectors share that predict a box at every location of a pyramid: where the locations stand, which object each
of them is to find, and how what is predicted becomes detections.

Legend: N images, A locations over all levels, K classes, M candidates of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import ByShape, global_normalizer
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.losses import ClassWeights, class_weights_of
from detframe.modeling.proposals import NMS, Proposals, box_coder, detection_nms
from detframe.modeling.rpn.anchors import from_the_coarsest
from detframe.modeling.rpn.assigner import field_sides, make_assigner
from detframe.modeling.rpn.dense import Scoring, best_pairs, detections
from detframe.ops import BoxCoder, Matching, grid_step
from detframe.ops.assigning import Assigner
from detframe.ops.boxes import LocationMatching, Locations, assign_locations
from detframe.ops.ignoring import points_in
from detframe.ops.ranked_reach import PriorLevel, ranked_reach
from detframe.ops.reach import LocationLevel, Objects, Reached, grid_cells, location_reach
from detframe.structures import ImageList


@dataclass(frozen=True)
class LocationSettings:
    """The keys of MODEL.FCOS that every detector on locations needs; see there for what they mean."""

    location_offset: float
    location_step: str
    sync_normalizer: bool
    inference_th: float
    pre_nms_top_n: int

    @classmethod
    def from_config(cls, cfg: ConfigNode) -> Self:
        """Every field is the key of its name."""
        return cls(**{name: cfg.MODEL.FCOS[name.upper()] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Placing:
    """Where the locations of a pyramid stand, and which of them an object takes.

    Args:
        ranges: the smallest and the largest distance that each level takes, where `matching` decides.
        assigner: what gives locations to objects; "iou": whatever `matching` says.
        sides: for the other rules, the side of the square that stands at the locations of each level, in pixels.
    """

    strides: Mapping[str, int]
    ranges: Sequence[tuple[float, float]]
    matching: LocationMatching
    assigner: Assigner
    sides: Sequence[float]

    @classmethod
    def from_config(cls, cfg: ConfigNode, strides: Mapping[str, int]) -> Placing:
        """As MODEL.FCOS and MODEL.RPN.ASSIGNER say.

        Raises:
            ValueError: SIZES_OF_INTEREST, or receptive fields, that do not match the levels.
        """
        keys = cfg.MODEL.FCOS
        matching = LocationMatching(keys.CENTER_SAMPLING_RADIUS, keys.RANGE_INCLUSIVE)
        sizes, assigner = _sizes_of_interest(cfg, strides), make_assigner(cfg, Matching(0.0, 0.0))
        ranges = list(pairwise([0.0, *sizes, float("inf")]))
        return cls(dict(strides), ranges, matching, assigner, _prior_sides(cfg, strides))

    @classmethod
    def anywhere(cls, cfg: ConfigNode, strides: Mapping[str, int]) -> Placing:
        """The same where sizes and centres have no say: every location in an object may take it.

        Raises:
            ValueError: receptive fields that do not match the levels.
        """
        ranges, assigner = [(0.0, float("inf"))] * len(strides), make_assigner(cfg, Matching(0.0, 0.0))
        return cls(dict(strides), ranges, LocationMatching(0.0, True), assigner, _prior_sides(cfg, strides))


class LocationDetector(nn.Module):
    """Detects on its own, or proposes to ROI heads.

    `forward(images, features, ground_truth, propose)` returns Proposals with class labels (None unless `propose`) and
    the losses, empty without ground truth. Subclasses say what the losses are (`_losses`), how a pair of a location and
    a class scores (`_scoring`), and where its box lies (`_boxes`).

    Args:
        head: makes of the maps of the levels what these three take, which has `logits`, (N, A_level, K) of each level.
        class_weights: how much a location with an object of each class counts in the class loss; None: all the same.
    """

    def __init__(
        self,
        *,
        head: nn.Module,
        placing: Placing,
        num_classes: int,
        settings: LocationSettings,
        nms: NMS,
        coder: BoxCoder,
        class_weights: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.head: Any = head
        self.strides, self.ranges = dict(placing.strides), list(placing.ranges)
        self.matching, self.assigner, self.prior_sides = placing.matching, placing.assigner, list(placing.sides)
        self.num_classes = num_classes
        self.settings: Any = settings
        self.nms, self.coder = nms, coder
        self.class_weights = ClassWeights(class_weights)
        self._known_locations: ByShape[Locations] = ByShape()

    @classmethod
    def parts(cls, cfg: ConfigNode) -> dict[str, Any]:
        """The arguments that are the same for every detector on locations."""
        coder = box_coder(cfg)
        return {
            "num_classes": cfg.MODEL.NUM_CLASSES,
            "nms": detection_nms(cfg, cfg.MODEL.FCOS.NMS_TH, coder, dense=True),
            "coder": coder,
            "class_weights": class_weights_of(cfg),
        }

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], ground_truth: GroundTruth | None, propose: bool
    ) -> tuple[Proposals | None, dict[str, Tensor]]:
        maps = list(features.values())
        outputs = self.head(maps)
        locations = self._locations(maps, images)
        losses = {} if ground_truth is None else self._losses(locations, outputs, ground_truth)
        return (self._detect(images, locations, outputs) if propose else None), losses

    # ------------------------------------------------------------------ what subclasses say
    def _losses(self, locations: Locations, outputs: Any, gt: GroundTruth) -> dict[str, Tensor]:
        """The losses by name."""
        raise NotImplementedError

    def _scoring(self, outputs: Any) -> Scoring:
        """How pairs score."""
        raise NotImplementedError

    def _boxes(self, locations: Locations, outputs: Any, row: Tensor) -> Tensor:
        """The boxes of the locations `row` (N, M), in pixels: (N, M, 4)."""
        raise NotImplementedError

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
            # filled there, since the host would wait for a copy; a length that Python asks for is no symbol any more
            level = [torch.full_like(xy[:, :1], v) for v in (stride, *self.ranges[i])]
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
                grid_cells(keys.location_step, stride, objects.padded_hw), stride, self._offset(stride), low, high
            )
            for stride, (low, high) in zip(self.strides.values(), self.ranges, strict=True)
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

    def _counted(self, locations: Locations, assigned: Tensor, gt: GroundTruth) -> Tensor:
        """How much locations count in the class loss, float32 (N, A): by the weights of their classes; background
        inside of an ignored region, not at all."""
        counted = torch.ones_like(assigned, dtype=torch.float32)
        if gt.ignored is not None:
            counted = ((assigned >= 0) | ~points_in(locations.xy, gt.ignored)).float()
        labels = torch.where(assigned >= 0, gt.labels.gather(1, assigned.clamp(min=0)), 0)
        return self.class_weights(counted, labels)

    def _normalizer(self, value: Tensor, least: float) -> Tensor:
        return global_normalizer(value, least, over_ranks=self.settings.sync_normalizer)

    # ------------------------------------------------------------------ detection
    @torch.no_grad()
    def _detect(self, images: ImageList, locations: Locations, outputs: Any) -> Proposals:
        pairs = best_pairs(outputs.logits, self.settings.pre_nms_top_n, self._scoring(outputs))
        boxes = self._boxes(locations, outputs, pairs.row)
        sizes = images.sizes_on(boxes.device)[:, None]
        return detections(pairs, self.coder.clip(boxes, sizes), self.num_classes, self.nms)


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
