"""Candidate boxes of a batch, as an RPN head hands them on, and the regions of them that a second stage trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import batched_nms

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.ops import CONTINUOUS, BoxCoder, soft_scores
from detframe.ops.exportable import is_traced, nms_in_graph
from detframe.ops.suppression import nwd_nms
from detframe.structures import BoxMasks, Prediction

# Which boxes leave each other alone, and what happens to the others (TEST.NMS)
NMS_KINDS = ("class", "agnostic", "soft", "soft_linear")
NO_NWD_IN_GRAPH = (
    "NMS by the normalised Wasserstein distance (MODEL.RPN.NMS_METRIC or TEST.NMS_METRIC 'nwd') cannot be exported: "
    "the runtimes have no operator for it; set both to 'iou', with thresholds for IoU"
)
# What Soft-NMS lowers to less than this is gone (its authors' choice)
LEAST_SOFT_SCORE = 0.001


@dataclass
class Proposals:
    """Legend: N images, P candidates of the fullest image, by falling score."""

    boxes: Tensor  # float32 (N, P, 4), padded with zeros
    scores: Tensor  # float32 (N, P), 0 to 1
    labels: Tensor  # int64 (N, P), 1..K; a class-agnostic head gives 1
    valid: Tensor  # bool (N, P), which rows are candidates
    # what else is known of detections, a row for each valid one: "masks" (R, S, S), "keypoints" (R, P, 3)
    extras: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """The image and the row of each candidate, int64 (R,) each, in the order of the images."""
        image, row = self.valid.nonzero(as_tuple=True)
        return image, row


@dataclass
class Regions:
    """Legend: R RoIs over all images, in the order of the images."""

    boxes: Tensor  # float32 (R, 4)
    labels: Tensor  # int64 (R,), 1..K; 0 is background
    image: Tensor  # int64 (R,), the image of each
    gt_boxes: Tensor  # float32 (R, 4), the matched object's; zeros in an image without objects
    gt_index: Tensor  # int64 (R,), the matched object's row among those of its image; 0 for background

    def count(self) -> Tensor:
        """R, as a float32 scalar on the regions' device."""
        return torch.tensor(float(len(self.labels)), device=self.labels.device)

    def foreground(self) -> Regions:
        """The foreground RoIs."""
        return self.where(self.labels > 0)

    def with_mask(self, has_mask: Tensor | None) -> Regions:
        """The RoIs whose objects have a mask to learn from; `has_mask` is bool (N, G), None: all have."""
        if has_mask is None:
            return self
        return self.where(has_mask[self.image, self.gt_index])

    def moved_to(self, boxes: Tensor) -> Regions:
        """The same RoIs with other boxes."""
        return replace(self, boxes=boxes)

    def where(self, keep: Tensor) -> Regions:
        """The RoIs of `keep`, bool (R,)."""
        rows = keep.nonzero().flatten()
        return Regions(self.boxes[rows], self.labels[rows], self.image[rows], self.gt_boxes[rows], self.gt_index[rows])


def box_coder(cfg: ConfigNode, weights: Sequence[float] = CONTINUOUS.weights) -> BoxCoder:
    """The coder of a config's boxes, which run from pixel to pixel with MODEL.LEGACY_BOXES."""
    return BoxCoder(tuple(weights), float(cfg.MODEL.LEGACY_BOXES))


def predictions_in_graph(detections: Proposals, sizes_hw: Sequence[tuple[int, int]], paste: bool) -> list[Prediction]:
    """What is found in each image of sizes (H, W), where the numbers of detections are not known yet."""
    image, row = detections.places
    found = {
        "boxes": detections.boxes[image, row],
        "labels": detections.labels[image, row],
        "scores": detections.scores[image, row],
        **detections.extras,
    }
    out: list[Any] = []
    for i, size_hw in enumerate(sizes_hw):
        own = (image == i).nonzero().flatten()
        prediction: dict[str, Any] = {key: value[own] for key, value in found.items()}
        if "masks" in prediction:
            masks = BoxMasks(prediction["masks"], prediction["boxes"], size_hw)
            prediction["masks"] = masks.paste() if paste else masks
        out.append(prediction)
    return out


class Candidates(NamedTuple):
    """Legend: M candidates of a batch, one after the other."""

    boxes: Tensor  # float32 (M, 4)
    scores: Tensor  # float32 (M,)
    labels: Tensor  # int64 (M,)
    image: Tensor  # int64 (M,)
    group: Tensor  # int64 (M,); boxes of different groups leave each other alone. Must differ between images


@dataclass(frozen=True)
class NMS:
    """Non-maximum suppression of a whole batch in one call, then the best of each image.

    What is kept of an image does not depend on the other images; of equal scores, the first row comes first.

    Args:
        iou: what overlaps a better box of its group more than this goes.
        keep: how many stay of an image.
        coder: says where boxes end.
        kind: "class": boxes of different groups leave each other alone; "agnostic": only those of different images do;
            "soft" and "soft_linear": Soft-NMS, which lowers the scores of boxes that overlap a better one of their
            group, by exp(-IoU² / sigma) or, above `iou`, by 1 - IoU.
        sigma: of "soft", which knows no `iou`.
        nwd_constant: above 0, `iou` is a threshold of the normalised Wasserstein distance with this constant, in
            pixels, in place of IoU; for hard NMS.

    Raises:
        ValueError: no such kind, or Soft-NMS by NWD.
    """

    iou: float
    keep: int
    coder: BoxCoder = CONTINUOUS
    kind: str = "class"
    sigma: float = 0.5
    nwd_constant: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in NMS_KINDS:
            raise InvalidValueError(f"NMS must be one of {', '.join(map(repr, NMS_KINDS))}, not {self.kind!r}")
        if self.nwd_constant and self.kind.startswith("soft"):
            raise InvalidValueError(
                f"NMS {self.kind!r} lowers scores by IoU and knows no TEST.NMS_METRIC 'nwd'; use 'class' or 'agnostic'"
            )

    def __call__(self, found: Candidates, num_images: int) -> Proposals:
        """What is left of the candidates of so many images."""
        if is_traced():
            return self._in_graph(found, num_images)
        boxes, scores, labels, image, _ = found
        kept, scores = self._soften(found) if self.kind.startswith("soft") else self._suppress(found)
        kept = kept[scores[kept].sort(descending=True, stable=True).indices]
        per_image = [kept[image[kept] == i][: self.keep] for i in range(num_images)]
        counts = torch.tensor([len(rows) for rows in per_image], device=boxes.device)
        rows = pad_sequence(per_image, batch_first=True)
        valid = torch.arange(rows.shape[1], device=boxes.device) < counts[:, None]
        return Proposals(boxes[rows] * valid[..., None], scores[rows] * valid, labels[rows] * valid, valid)

    def _in_graph(self, found: Candidates, num_images: int) -> Proposals:
        """The same with `keep` rows for every image, whatever is found.

        Raises:
            ValueError: no runtime has NMS by another measure than IoU.
        """
        if self.nwd_constant:
            raise InvalidValueError(NO_NWD_IN_GRAPH)
        group = found.image if self.kind == "agnostic" else found.group
        rows, valid = nms_in_graph(
            self.coder.extend(found.boxes), found.scores, group, found.image, num_images, self.iou, self.keep
        )
        # a row of zeros at the end, for images without any
        boxes, scores, labels = (
            torch.cat([x, x.new_zeros((1, *x.shape[1:]))])[rows] for x in (found.boxes, found.scores, found.labels)
        )
        return Proposals(boxes * valid[..., None], scores * valid, labels * valid, valid)

    def _suppress(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """The rows that stay, rising, and the scores of all."""
        # in double precision, since batched_nms moves the boxes of each group to a place of their own: far out, float32
        # has too few digits left for their overlaps, which would then depend on how many images and boxes come along
        group = found.image if self.kind == "agnostic" else found.group
        if self.nwd_constant:
            kept = nwd_nms(found.boxes, found.scores, group, self.iou, self.nwd_constant)
            return kept, found.scores
        kept = batched_nms(self.coder.extend(found.boxes).double(), found.scores.double(), group, self.iou)
        return kept.sort().values, found.scores

    def _soften(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """The rows that stay, rising, and the scores of all, lowered."""
        scores = soft_scores(
            self.coder.extend(found.boxes).double(),
            found.scores.double(),
            found.group,
            sigma=self.sigma,
            linear_from=self.iou if self.kind == "soft_linear" else None,
            most=self.keep,
        )
        return (scores >= LEAST_SOFT_SCORE).nonzero().flatten(), scores.to(found.scores)


def detection_nms(cfg: ConfigNode, iou: float, coder: BoxCoder, dense: bool = False) -> NMS:
    """The NMS of a config's detections, of the kind that TEST.NMS says, with the IoU threshold of their head.

    Args:
        dense: it is a dense detector's. Before ROI heads that proposes, and proposals have hard NMS, always.
    """
    proposes = dense and cfg.MODEL.ROI_HEADS.NAME
    kind = "class" if proposes else cfg.TEST.NMS
    constant = cfg.MODEL.NWD_CONSTANT if cfg.TEST.NMS_METRIC == "nwd" and not proposes else 0.0
    return NMS(iou, cfg.TEST.DETECTIONS_PER_IMG, coder, kind, cfg.TEST.SOFT_NMS_SIGMA, constant)
