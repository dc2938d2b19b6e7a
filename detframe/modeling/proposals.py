"""Candidate boxes of a batch, as an RPN head hands them on, and the regions of them that a second stage trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.ops import CONTINUOUS, BoxCoder, soft_scores
from detframe.ops.boxes import widened
from detframe.ops.compacting import Rows, drops_padding, keep_rows
from detframe.ops.exportable import is_traced
from detframe.ops.nms import best_of_images, counted_nms, nms, nms_in_graph
from detframe.ops.suppression import nwd_nms
from detframe.structures import BoxMasks, Prediction
from detframe.structures.transfer import move_together

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
    """Legend: N images, P rows of each: as many candidates as may stay, by falling score, then padding."""

    boxes: Tensor  # float32 (N, P, 4), padded with zeros
    scores: Tensor  # float32 (N, P), 0 to 1
    labels: Tensor  # int64 (N, P), 1..K; a class-agnostic head gives 1
    valid: Tensor  # bool (N, P), which rows are candidates
    # what else is known of detections, padded with zeros: "masks" (N, P, S, S), "keypoints" (N, P, K, 3)
    extras: dict[str, Tensor] = field(default_factory=dict)
    counts: Sequence[int] | None = None  # candidates of each image, the first rows, where the host knows their number

    def rows(self) -> Rows:
        """The candidates one behind another, in the order of the images, or all rows with a mask."""
        if self.counts is None:
            return keep_rows(self.valid)
        image = np.repeat(np.arange(len(self.counts)), self.counts)
        column = np.concatenate([np.arange(count) for count in self.counts])
        on_device = move_together([torch.from_numpy(image), torch.from_numpy(column)], self.valid.device)
        number, length = self.valid.shape
        return Rows((number, length), on_device[0], None, on_device[1])

    def known_counts(self) -> Sequence[int]:
        """How many candidates each image has; unless the host knows, it waits for an accelerator."""
        counts: list[int] = self.valid.sum(1).numpy(force=True).tolist() if self.counts is None else [*self.counts]
        return counts


@dataclass
class Regions:
    """Legend: R RoIs over all images, in the order of the images.

    Args:
        padded: some rows may be no RoI, and are so many of each image that no value decides it.
        foremost: where `padded`, so many rows of each image may be foreground, the first ones.
    """

    boxes: Tensor  # float32 (R, 4)
    labels: Tensor  # int64 (R,), 1..K; 0 is background, -1 what is no RoI
    image: Tensor  # int64 (R,), the image of each
    gt_boxes: Tensor  # float32 (R, 4), the matched object's; zeros in an image without objects
    gt_index: Tensor  # int64 (R,), the matched object's row among those of its image; 0 for background
    padded: bool = False
    foremost: int = 0

    def count(self) -> Tensor:
        """How many RoIs there are, as a float32 scalar on the regions' device."""
        if self.padded:
            return (self.labels >= 0).sum().float()
        return torch.full((), float(len(self.labels)), device=self.labels.device)

    def counted(self) -> Tensor | None:
        """Which rows are RoIs, float32 (R,); None: all."""
        return (self.labels >= 0).float() if self.padded else None

    def foreground(self, num_images: int) -> Regions:
        """The foreground RoIs."""
        if not self.padded:
            return self.where(self.labels > 0)
        first = self._each(lambda rows: rows.reshape(num_images, -1, *rows.shape[1:])[:, : self.foremost].flatten(0, 1))
        return first.where(first.labels > 0)

    def with_mask(self, has_mask: Tensor | None) -> Regions:
        """The RoIs whose objects have a mask to learn from; `has_mask` is bool (N, G), None: all have."""
        if has_mask is None:
            return self
        return self.where(has_mask[self.image, self.gt_index])

    def changed(self, **values: Any) -> Regions:
        """The regions with other values, as `dataclasses.replace` gives them, of which older PyTorch makes no graph."""
        return Regions(**{**{name: getattr(self, name) for name in _OF_REGIONS}, **values})

    def moved_to(self, boxes: Tensor) -> Regions:
        """The same RoIs with other boxes."""
        return self.changed(boxes=boxes)

    def where(self, keep: Tensor) -> Regions:
        """The RoIs of `keep`, bool (R,); the others are left out, or are no RoIs any more, as suits the device."""
        if self.padded or not drops_padding(keep.device):
            return self.changed(labels=torch.where(keep, self.labels, -1), padded=True)
        rows = keep.nonzero().flatten()
        return self._each(lambda values: values[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Regions:
        """The regions whose tensors are changed alike."""
        return self.changed(
            boxes=change(self.boxes),
            labels=change(self.labels),
            image=change(self.image),
            gt_boxes=change(self.gt_boxes),
            gt_index=change(self.gt_index),
        )


_OF_REGIONS = tuple(field.name for field in fields(Regions))


def box_coder(cfg: ConfigNode, weights: Sequence[float] = CONTINUOUS.weights) -> BoxCoder:
    """The coder of a config's boxes, which run from pixel to pixel with MODEL.LEGACY_BOXES."""
    return BoxCoder(tuple(weights), float(cfg.MODEL.LEGACY_BOXES))


def predictions_in_graph(detections: Proposals, sizes_hw: Sequence[tuple[int, int]], paste: bool) -> list[Prediction]:
    """What is found in each image of sizes (H, W), where the numbers of detections are not known yet."""
    image, row = detections.valid.nonzero(as_tuple=True)
    padded = {"boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores, **detections.extras}
    found = {key: value[image, row] for key, value in padded.items()}
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
    valid: Tensor | None = None  # bool (M,), which of them there are; None: all


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
        counts: the host, which waits for an accelerator in every NMS, then also knows how many stay of each image.

    Raises:
        ValueError: no such kind, or Soft-NMS by NWD.
    """

    iou: float
    keep: int
    coder: BoxCoder = CONTINUOUS
    kind: str = "class"
    sigma: float = 0.5
    nwd_constant: float = 0.0
    counts: bool = False

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
        if not len(found.scores):
            found = _one_of_nothing(found)
        if self.nwd_constant or self.kind.startswith("soft"):
            scores = self._lowered(found)
            return _chosen(found, scores, *best_of_images(scores, found.image, num_images, self._rows(found)))
        asked = (*self._asked(found), num_images, self.iou, self._rows(found))
        if not self.counts or drops_padding(found.boxes.device) or torch.compiler.is_compiling():
            return _chosen(found, found.scores, *nms(*asked))
        rows, valid, counts = counted_nms(*asked)
        return replace(_chosen(found, found.scores, rows, valid), counts=counts)

    def _rows(self, found: Candidates) -> int:
        """Rows of each image: as many as may stay, but no more than there are candidates."""
        return min(self.keep, len(found.scores))

    def _asked(self, found: Candidates) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes, scores, groups and images as `detframe.ops.nms` takes them; what is no candidate scores below 0."""
        scores = found.scores if found.valid is None else torch.where(found.valid, found.scores, -1.0)
        group = found.image if self.kind == "agnostic" else found.group
        return self.coder.extend(found.boxes).detach(), scores.detach(), group, found.image

    def _in_graph(self, found: Candidates, num_images: int) -> Proposals:
        """The same with `keep` rows for every image, whatever is found.

        Raises:
            ValueError: no runtime has NMS by another measure than IoU.
        """
        if self.nwd_constant:
            raise InvalidValueError(NO_NWD_IN_GRAPH)
        rows, valid = nms_in_graph(*self._asked(found), num_images, self.iou, self.keep)
        # a row of zeros at the end, for images without any
        boxes, scores, labels = (
            torch.cat([x, x.new_zeros((1, *x.shape[1:]))])[rows] for x in (found.boxes, found.scores, found.labels)
        )
        return Proposals(boxes * valid[..., None], scores * valid, labels * valid, valid)

    def _lowered(self, found: Candidates) -> Tensor:
        """The scores of all, lowered where NMS is soft; below 0 what goes."""
        boxes, scores, group, _ = self._asked(found)
        if self.nwd_constant:
            kept = nwd_nms(boxes, scores, group, self.iou, self.nwd_constant)
            return torch.where(kept, scores, -1.0)
        soft = soft_scores(
            widened(boxes),
            widened(scores),
            group,
            sigma=self.sigma,
            linear_from=self.iou if self.kind == "soft_linear" else None,
            most=self.keep,
        )
        return torch.where(soft >= LEAST_SOFT_SCORE, soft, -1.0).to(scores)


def _one_of_nothing(found: Candidates) -> Candidates:
    """A candidate that does not count, where there is none."""
    none = found.image.new_zeros(1)
    scores, labels = found.scores.new_zeros(1), found.labels.new_zeros(1)
    return Candidates(found.boxes.new_zeros((1, 4)), scores, labels, none, none, none > 0)


def _chosen(found: Candidates, scores: Tensor, rows: Tensor, valid: Tensor) -> Proposals:
    """Rows (N, P) of the candidates, with other scores."""
    none = ~valid  # where numbers of another row stand, which may not be finite
    boxes = found.boxes[rows].masked_fill(none[..., None], 0.0)
    return Proposals(boxes, scores[rows].masked_fill(none, 0.0), found.labels[rows].masked_fill(none, 0), valid)


def detection_nms(cfg: ConfigNode, iou: float, coder: BoxCoder, dense: bool = False) -> NMS:
    """The NMS of a config's detections, of the kind that TEST.NMS says, with the IoU threshold of their head.

    Args:
        dense: it is a dense detector's. Before ROI heads that proposes, and proposals have hard NMS, always.
    """
    proposes = dense and cfg.MODEL.ROI_HEADS.NAME
    kind = "class" if proposes else cfg.TEST.NMS
    constant = cfg.MODEL.NWD_CONSTANT if cfg.TEST.NMS_METRIC == "nwd" and not proposes else 0.0
    keep, sigma = cfg.TEST.DETECTIONS_PER_IMG, cfg.TEST.SOFT_NMS_SIGMA
    return NMS(iou, keep, coder, kind, sigma, constant, counts=not proposes)
