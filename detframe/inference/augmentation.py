"""Test-time augmentation: an image predicted in several views, whose detections become one (TEST.AUG).

Legend: N images, V views, M detections of an image, P keypoints, S side of a predicted mask or heatmap.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detframe.arrays.resize import resize_shape
from detframe.config import ConfigNode
from detframe.data.scaled import resize_pixels
from detframe.evaluation.alike import canvas_of
from detframe.modeling import GeneralizedRCNN
from detframe.modeling.proposals import NMS, Candidates
from detframe.ops import CONTINUOUS, BoxCoder, heatmaps_to_keypoints, weighted_boxes
from detframe.structures import BoxMasks, Prediction, rescale_prediction
from detframe.structures.transfer import move_together

SizeHW = tuple[int, int]


@dataclass(frozen=True)
class View:
    """One way to look at an image.

    Args:
        min_size: as INPUT.MIN_SIZE_TEST.
        max_size: as INPUT.MAX_SIZE_TEST.
        mirrored: the axis of (y, x) that runs backwards: -1 left to right, -2 top to bottom; None: neither does.
    """

    min_size: int
    max_size: int
    mirrored: int | None = None

    def size(self, size_hw: SizeHW) -> SizeHW:
        """The size that an image of `size_hw` has in this view."""
        return resize_shape(size_hw, self.min_size, self.max_size)

    def of(self, image: Tensor, size_hw: SizeHW | None = None) -> Tensor:
        """An image (C, H, W) as this view has it.

        Args:
            size_hw: its size, where the image was decoded small; see `detframe.data.scaled`.
        """
        size_hw = size_hw or _size_hw(image)
        image = resize_pixels(image, self.size(size_hw), size_hw)
        if self.mirrored is None:
            return image
        # not every PyTorch mirrors uint16
        return (image.float() if image.dtype == torch.uint16 else image).flip(self.mirrored)

    def mirror(self, boxes: Tensor, size_hw: SizeHW) -> Tensor:
        """Boxes (M, 4) in this view of an image of `size_hw`, mirrored as the view is; twice gives them back."""
        if self.mirrored is None:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        if self.mirrored == -1:
            return torch.stack([size_hw[1] - x2, y1, size_hw[1] - x1, y2], -1)
        return torch.stack([x1, size_hw[0] - y2, x2, size_hw[0] - y1], -1)

    def mirror_maps(self, maps: Tensor) -> Tensor:
        """What lies on the boxes, (..., S, S)."""
        return maps if self.mirrored is None else maps.flip(self.mirrored)


def views_of(cfg: ConfigNode) -> list[View]:
    """The views of TEST.AUG: first the plain one, then those of MIN_SIZES; each is followed by its mirrored ones."""
    keys = cfg.TEST.AUG
    sizes = [(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "plain")] if keys.PLAIN else []
    sizes += [(size, keys.MAX_SIZE, "sizes") for size in keys.MIN_SIZES]
    axes = [axis for axis, wanted in ((-1, keys.FLIP), (-2, keys.VERTICAL_FLIP)) if wanted]
    return [
        View(min_size, max_size, axis)
        for min_size, max_size, kind in sizes
        for axis in (None, *(axes if keys.FLIP_VIEWS in ("all", kind) else []))
    ]


class AugmentedModel(nn.Module):
    """A detector that looks at every image in the views of TEST.AUG; else as `model` in evaluation.

    Images are handed in as they are, not resized, and predictions are in their coordinates. Boxes of all views are
    merged; masks and keypoints are then read from the merged boxes in every view, as means over the views. One view is
    that view's plain prediction.

    Args:
        keypoint_flip_pairs: keypoints that a mirrored image exchanges.

    Raises:
        ValueError: a model whose predictions cannot be merged.
    """

    pixel = 0.0  # the images are never resized on the way in, so nothing is to be scaled back
    class_agnostic = False

    def __init__(
        self, model: GeneralizedRCNN, cfg: ConfigNode, keypoint_flip_pairs: Sequence[Sequence[int]] = ()
    ) -> None:
        super().__init__()
        model.check_augmented(cfg)
        self.model = model
        self.has_more = cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON
        self.views = views_of(cfg)
        self.merging, self.fusion_iou = cfg.TEST.AUG.MERGE, cfg.TEST.AUG.WBF_IOU
        self.nms_per_view = cfg.TEST.AUG.NMS_PER_VIEW
        self.flip_pairs = [(int(a), int(b)) for a, b in keypoint_flip_pairs]

    def canvas_hw(self, size_hw: SizeHW) -> tuple[Hashable, ...]:
        """To what each view of an image of this size is padded: what images must have in common to be one batch."""
        canvas = canvas_of(self.model)
        return tuple(canvas(size) for size in self.shapes_seen(size_hw))

    def shapes_seen(self, size_hw: SizeHW) -> list[SizeHW]:
        """The sizes in which the network sees an image of this size."""
        return [view.size(size_hw) for view in self.views]

    def forward(self, images: Sequence[Tensor], paste_masks: bool = True) -> list[Prediction]:
        """Predictions of images (3, H, W) of any size."""
        if len(self.views) == 1:
            merged = self._look(images, self.views[0])
        else:
            with self._in_views():
                seen = [self._look(images, view) for view in self.views]
            merged = self._merged(seen)
            if self.has_more:
                self._look_further(images, merged)
        for prediction in merged if paste_masks else ():
            masks = prediction.get("masks")
            if isinstance(masks, BoxMasks):
                prediction["masks"] = masks.paste()
        return merged

    def _look(self, images: Sequence[Tensor], view: View) -> list[Prediction]:
        """What is found in one view, in the coordinates of the images."""
        resized = [view.of(image) for image in images]
        out = []
        for image, small, prediction in zip(images, resized, self.model(resized, paste_masks=False), strict=True):
            size_hw = _size_hw(small)
            back: Prediction = {**prediction, "boxes": view.mirror(prediction["boxes"], size_hw)}
            out.append(rescale_prediction(back, size_hw, _size_hw(image), self.model.pixel))
        return out

    @contextmanager
    def _in_views(self) -> Iterator[None]:
        """The model gives boxes alone, of hard NMS or none: scores are lowered once, where the views meet."""
        chosen = self._nms()
        kind = "agnostic" if chosen.kind == "agnostic" else "class"
        everything = {} if self.nms_per_view else {"iou": 1.0, "keep": sys.maxsize}
        with self.model.boxes_alone(), self.model.with_nms(kind=kind, **everything):
            yield

    def _nms(self) -> NMS:
        """That of the model's detections, for boxes in the coordinates of the images, which end between pixels."""
        found = self.model.nms
        if found is None:  # see check_augmented
            raise TypeError("a model without NMS of its detections")
        return replace(found, coder=CONTINUOUS)

    def _merged(self, seen: Sequence[Sequence[Prediction]]) -> list[Prediction]:
        """Of V views with N predictions each, one prediction for each image."""
        per_image = list(zip(*seen, strict=True))
        counts = [sum(len(prediction["scores"]) for prediction in of_image) for of_image in per_image]
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts), output_size=sum(counts))
        (image,) = move_together([image], seen[0][0]["boxes"].device)
        boxes, scores, labels = (
            torch.cat([prediction[key] for of_image in per_image for prediction in of_image])
            for key in ("boxes", "scores", "labels")
        )
        group = image * (self.model.num_classes + 1) + labels
        found, nms = Candidates(boxes, scores, labels, image, group), self._nms()
        if self.merging == "wbf":
            found, nms = self._fused(found), NMS(1.0, nms.keep)  # which only keeps the best
        elif self.merging == "soft":
            nms = replace(nms, kind="soft")
        kept = nms(found, len(counts))
        rows = zip(kept.boxes, kept.labels, kept.scores, kept.known_counts(), strict=True)
        return [{"boxes": b[:n], "labels": label[:n], "scores": s[:n]} for b, label, s, n in rows]

    def _fused(self, found: Candidates) -> Candidates:
        boxes, scores, first = weighted_boxes(
            found.boxes.double(), found.scores.double(), found.group, iou=self.fusion_iou, models=len(self.views)
        )
        return Candidates(
            boxes.to(found.boxes), scores.to(found.scores), found.labels[first], found.image[first], found.group[first]
        )

    # ------------------------------------------------------------------ masks and keypoints
    def _look_further(self, images: Sequence[Tensor], merged: Sequence[Prediction]) -> None:
        """Masks and keypoints of merged boxes, into the predictions: means over the views."""
        sums: list[dict[str, Tensor]] = [{} for _ in images]
        for view in self.views:
            for total, maps in zip(sums, self._maps(images, view, merged), strict=True):
                for key, value in maps.items():
                    total[key] = total[key] + value if key in total else value
        coder = BoxCoder(pixel=self.model.pixel)
        for image, prediction, total in zip(images, merged, sums, strict=True):
            boxes = prediction["boxes"]
            if "masks" in total:
                prediction["masks"] = BoxMasks(total["masks"] / len(self.views), boxes, _size_hw(image))
            if "keypoints" in total:
                heatmaps = total["keypoints"] / len(self.views)
                prediction["keypoints"] = heatmaps_to_keypoints(heatmaps, coder.shrink(boxes))[0]

    def _maps(self, images: Sequence[Tensor], view: View, merged: Sequence[Prediction]) -> list[dict[str, Tensor]]:
        """What masks and keypoints of boxes are read from in a view, turned as the image has the boxes."""
        resized = [view.of(image) for image in images]
        boxes = []
        for image, small, prediction in zip(images, resized, merged, strict=True):
            only_boxes: Prediction = {"boxes": prediction["boxes"]}
            there = rescale_prediction(only_boxes, _size_hw(image), _size_hw(small), self.model.pixel)["boxes"]
            boxes.append(view.mirror(there, _size_hw(small)))
        maps = self.model.maps_of(resized, boxes, [prediction["labels"] for prediction in merged])
        return [{key: self._turned(view, key, value) for key, value in of_image.items()} for of_image in maps]

    def _turned(self, view: View, key: str, maps: Tensor) -> Tensor:
        maps = view.mirror_maps(maps)
        if key != "keypoints" or view.mirrored is None:
            return maps
        order = list(range(maps.shape[1]))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return maps[:, order]


def _size_hw(image: Tensor) -> SizeHW:
    return int(image.shape[-2]), int(image.shape[-1])
