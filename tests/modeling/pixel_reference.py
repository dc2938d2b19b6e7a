"""R-CNN and RetinaNet on boxes from pixel to pixel, box by box in plain Python, from the formulas of Detectron.

A box is a list [x1, y1, x2, y2] of the first and the last pixel, so that its width is x2 - x1 + 1. Convolutions and
fully connected layers are the model's own; everything that touches a box is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

Box = list[float]
MAX_GROWTH = 1000 / 16


@dataclass
class Found:
    """Proposals or detections of an image, best first."""

    boxes: list[Box] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def best(self, count: int) -> Found:
        """The best of them."""
        order = sorted(range(len(self.boxes)), key=lambda i: -self.scores[i])[:count]
        return Found([self.boxes[i] for i in order], [self.scores[i] for i in order], [self.labels[i] for i in order])

    def add(self, other: Found) -> None:
        """Append others."""
        self.boxes += other.boxes
        self.scores += other.scores
        self.labels += other.labels


# ---------------------------------------------------------------------- boxes
def sides(box: Box) -> tuple[float, float]:
    """Width and height."""
    return box[2] - box[0] + 1, box[3] - box[1] + 1


def iou(a: Box, b: Box) -> float:
    """Pixels in common over pixels in either."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [w * h for w, h in (sides(a), sides(b))]
    return width * height / (sum(areas) - width * height)


def encode(box: Box, reference: Box, weights: tuple[float, ...]) -> list[float]:
    """Deltas of a box against a reference."""
    (w, h), (ref_w, ref_h) = sides(box), sides(reference)
    dx = (box[0] + 0.5 * w - reference[0] - 0.5 * ref_w) / ref_w
    dy = (box[1] + 0.5 * h - reference[1] - 0.5 * ref_h) / ref_h
    deltas = (dx, dy, math.log(w / ref_w), math.log(h / ref_h))
    return [weight * delta for weight, delta in zip(weights, deltas, strict=True)]


def decode(deltas: list[float], reference: Box, weights: tuple[float, ...]) -> Box:
    """The box that deltas make of a reference."""
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, weights, strict=True))
    ref_w, ref_h = sides(reference)
    x, y = reference[0] + 0.5 * ref_w + dx * ref_w, reference[1] + 0.5 * ref_h + dy * ref_h
    w, h = min(math.exp(dw), MAX_GROWTH) * ref_w, min(math.exp(dh), MAX_GROWTH) * ref_h
    return [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w - 1, y + 0.5 * h - 1]


def clip(box: Box, size_hw: tuple[int, int]) -> Box:
    """A box with its corners on pixels of the image."""
    limits = (size_hw[1] - 1, size_hw[0] - 1) * 2
    return [min(max(side, 0.0), float(limit)) for side, limit in zip(box, limits, strict=True)]


def suppress(found: Found, threshold: float) -> Found:
    """Greedy suppression within a label."""
    order = sorted(range(len(found.boxes)), key=lambda i: -found.scores[i])
    kept: list[int] = []
    for i in order:
        rivals = [k for k in kept if found.labels[k] == found.labels[i]]
        if all(iou(found.boxes[k], found.boxes[i]) <= threshold for k in rivals):
            kept.append(i)
    return Found([found.boxes[i] for i in kept], [found.scores[i] for i in kept], [found.labels[i] for i in kept])


def cell_anchors(stride: int, sizes: tuple[float, ...], ratios: tuple[float, ...]) -> list[Box]:
    """The anchors of the first cell: the window of the stride, its ratios in whole pixels, then its sizes."""
    centre = (stride - 1) / 2
    out = []
    for ratio in ratios:
        width = round(math.sqrt(stride * stride / ratio))
        height = round(width * ratio)
        for size in sizes:
            w, h = width * (size / stride), height * (size / stride)
            corner = [centre - (w - 1) / 2, centre - (h - 1) / 2]
            out.append([*corner, centre + (w - 1) / 2, centre + (h - 1) / 2])
    return out


def level_anchors(cells: list[Box], stride: int, grid_hw: tuple[int, int]) -> list[Box]:
    """They in every cell."""
    places = [(x * stride, y * stride) for y in range(grid_hw[0]) for x in range(grid_hw[1])]
    return [[x1 + x, y1 + y, x2 + x, y2 + y] for x, y in places for x1, y1, x2, y2 in cells]


def match(gt: list[Box], boxes: list[Box], fg: float, bg: float, keep_best: bool) -> list[tuple[int, int]]:
    """(label, object) of each box: 1 foreground, 0 background, -1 neither."""
    if not gt:
        return [(0, 0)] * len(boxes)
    table = [[iou(g, box) for g in gt] for box in boxes]
    best_of = [max(row[g] for row in table) if table else 0.0 for g in range(len(gt))]
    out = []
    for row in table:
        value = max(row)
        label = 1 if value >= fg else 0 if value < bg else -1
        if keep_best and any(v == best > 0 for v, best in zip(row, best_of, strict=True)):
            label = 1
        out.append((label, row.index(value)))
    return out


# ---------------------------------------------------------------------- losses
def smooth_l1(found: list[float], wanted: list[float], beta: float) -> float:
    """Summed over the four deltas."""
    total = 0.0
    for a, b in zip(found, wanted, strict=True):
        difference = abs(a - b)
        total += difference - 0.5 * beta if difference >= beta else 0.5 * difference**2 / beta
    return total


def cross_entropy(logits: list[float], label: int) -> float:
    """Of a softmax."""
    highest = max(logits)
    return highest + math.log(sum(math.exp(x - highest) for x in logits)) - logits[label]


def binary_cross_entropy(logit: float, label: float) -> float:
    """Of a sigmoid."""
    return max(logit, 0) - logit * label + math.log1p(math.exp(-abs(logit)))


def focal(logit: float, positive: bool, alpha: float, gamma: float) -> float:
    """Focal loss of one class."""
    p = 1 / (1 + math.exp(-logit))
    weight = alpha * (1 - p) ** gamma if positive else (1 - alpha) * p**gamma
    return weight * binary_cross_entropy(logit, float(positive))


# ---------------------------------------------------------------------- what the model computes without boxes
@dataclass
class Outputs:
    """Of the head on the pyramid: an entry a level."""

    sizes_hw: list[tuple[int, int]]
    anchors: list[list[Box]]
    logits: list[Tensor]  # (N, A) or (N, A, K)
    deltas: list[Tensor]  # (N, A, 4)
    features: dict[str, Tensor]


@torch.no_grad()
def run_head(model: Any, images: list[Tensor], keys: Any) -> Outputs:
    """The outputs of the head of AnchorRPN or RetinaNet, and the anchors by the formula."""
    batch = model.preprocessor(images)
    features = model.backbone(batch.tensors)
    logits, deltas = model.rpn.head(list(features.values()))
    anchors = []
    for (name, feature), sizes in zip(features.items(), keys.ANCHOR_SIZES, strict=True):
        stride = model.backbone.strides[name]
        cells = cell_anchors(stride, sizes, keys.ASPECT_RATIOS)
        anchors.append(level_anchors(cells, stride, feature.shape[-2:]))
    return Outputs(batch.sizes_hw, anchors, logits, deltas, features)


def inner_boxes(target: dict[str, Tensor]) -> list[Box]:
    """The objects of a target, whose boxes end where the last pixel ends."""
    return [[x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)] for x1, y1, x2, y2 in target["boxes"].tolist()]


# ---------------------------------------------------------------------- RPN
def rpn_losses(out: Outputs, targets: list[dict[str, Tensor]], keys: Any) -> tuple[float, float]:
    """Both losses, where all anchors are drawn that may be."""
    anchors = [box for level in out.anchors for box in level]
    cls = box = count = 0.0
    for i, (target, (height, width)) in enumerate(zip(targets, out.sizes_hw, strict=True)):
        gt = inner_boxes(target)
        logits, deltas = (torch.cat([level[i] for level in x]).tolist() for x in (out.logits, out.deltas))
        matches = match(gt, anchors, keys.FG_IOU_THRESHOLD, keys.BG_IOU_THRESHOLD, True)
        for row, (label, g) in enumerate(matches):
            x1, y1, x2, y2 = anchors[row]
            reach = keys.BOUNDARY_THRESH
            outside = x1 < -reach or y1 < -reach or x2 >= width + reach or y2 >= height + reach
            if label < 0 or (reach >= 0 and outside):
                continue
            count += 1
            cls += binary_cross_entropy(logits[row], float(label))
            if label:
                wanted = encode(gt[g], anchors[row], keys.BBOX_REG_WEIGHTS)
                box += smooth_l1(deltas[row], wanted, keys.SMOOTH_L1_BETA)
    weight = keys.LOSS_WEIGHT
    return weight * cls / count, weight * keys.BBOX_REG_LOSS_WEIGHT * box / count


def rpn_proposals(out: Outputs, keys: Any, phase: str) -> list[Found]:
    """The proposals of each image, in training or in evaluation."""
    images = []
    for i, size_hw in enumerate(out.sizes_hw):
        found = Found()
        for anchors, logits, deltas in zip(out.anchors, out.logits, out.deltas, strict=True):
            scores, moves = logits[i].sigmoid().tolist(), deltas[i].tolist()
            order = sorted(range(len(anchors)), key=lambda row: -scores[row])[: keys[f"PRE_NMS_TOP_N_{phase}"]]
            level = Found()
            for row in order:
                box = clip(decode(moves[row], anchors[row], keys.BBOX_REG_WEIGHTS), size_hw)
                if min(sides(box)) >= keys.MIN_SIZE:
                    level.add(Found([box], [scores[row]], [1]))
            found.add(suppress(level, keys.NMS_THRESH).best(keys[f"POST_NMS_TOP_N_{phase}"]))
        images.append(found)
    keep = keys[f"FPN_POST_NMS_TOP_N_{phase}"]
    if phase == "TEST" or not keys.FPN_POST_NMS_PER_BATCH:
        return [found.best(keep) for found in images]
    scores = sorted((score for found in images for score in found.scores), reverse=True)[:keep]
    return [found.best(sum(score >= scores[-1] for score in found.scores)) for found in images]


# ---------------------------------------------------------------------- box head
@torch.no_grad()
def box_outputs(model: Any, features: dict[str, Tensor], boxes: list[Box], image: int, keys: Any) -> Any:
    """Class logits and deltas (K, 4) of each region of an image, pooled from the level of its size."""
    rows = []
    for box in boxes:
        w, h = sides(box)
        level = math.floor(keys.POOLER_CANONICAL_LEVEL + math.log2(math.sqrt(w * h) / keys.POOLER_CANONICAL_SIZE))
        level = min(max(level, 2), 5)
        roi = torch.tensor([[0.0, *box]])
        feature = features[f"p{level}"][image : image + 1]
        pooled = roi_align(feature, roi, keys.POOLER_RESOLUTION, 1 / 2**level, keys.POOLER_SAMPLING_RATIO, False)
        rows.append(model.roi_heads.box_predictor(model.roi_heads.box_head(pooled)))
    return [logits[0].tolist() for logits, _ in rows], [deltas[0].tolist() for _, deltas in rows]


def box_losses(
    model: Any, out: Outputs, proposals: list[Found], targets: list[dict[str, Tensor]], cfg: Any
) -> tuple[float, float]:
    """Both losses of the box head, where all regions are drawn that may be."""
    keys, head = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    cls = box = count = 0.0
    for i, (found, target) in enumerate(zip(proposals, targets, strict=True)):
        gt, labels = inner_boxes(target), target["labels"].tolist()
        boxes = found.boxes + gt
        logits, deltas = box_outputs(model, out.features, boxes, i, head)
        matches = match(gt, boxes, keys.FG_IOU_THRESHOLD, keys.BG_IOU_THRESHOLD, False)
        for row, (foreground, g) in enumerate(matches):
            if foreground < 0:
                continue
            count += 1
            label = labels[g] if foreground else 0
            cls += cross_entropy(logits[row], label)
            if label:
                wanted = encode(gt[g], boxes[row], keys.BBOX_REG_WEIGHTS)
                box += smooth_l1(deltas[row][label - 1], wanted, head.SMOOTH_L1_BETA)
    return cls / count, head.BBOX_REG_LOSS_WEIGHT * box / count


def box_detections(model: Any, out: Outputs, proposals: list[Found], cfg: Any) -> list[Found]:
    """The detections of each image."""
    keys = cfg.MODEL.ROI_HEADS
    images = []
    for i, (regions, size_hw) in enumerate(zip(proposals, out.sizes_hw, strict=True)):
        logits, deltas = box_outputs(model, out.features, regions.boxes, i, cfg.MODEL.ROI_BOX_HEAD)
        found = Found()
        for region, row, moves in zip(regions.boxes, logits, deltas, strict=True):
            for label in range(1, len(row)):
                score = math.exp(-cross_entropy(row, label))
                box = clip(decode(moves[label - 1], region, keys.BBOX_REG_WEIGHTS), size_hw)
                if score > keys.SCORE_THRESH and min(sides(box)) >= keys.MIN_SIZE:
                    found.add(Found([box], [score], [label]))
        images.append(suppress(found, keys.NMS).best(cfg.TEST.DETECTIONS_PER_IMG))
    return images


# ---------------------------------------------------------------------- RetinaNet
def retinanet_losses(out: Outputs, targets: list[dict[str, Tensor]], keys: Any) -> tuple[float, float]:
    """Both losses, over the positive anchors of the batch."""
    anchors = [box for level in out.anchors for box in level]
    cls = box = positives = 0.0
    for i, target in enumerate(targets):
        gt, labels = inner_boxes(target), target["labels"].tolist()
        logits, deltas = (torch.cat([level[i] for level in x]).tolist() for x in (out.logits, out.deltas))
        matches = match(gt, anchors, keys.FG_IOU_THRESHOLD, keys.BG_IOU_THRESHOLD, True)
        for row, (foreground, g) in enumerate(matches):
            if foreground < 0:
                continue
            label = labels[g] if foreground else 0
            for k, logit in enumerate(logits[row], 1):
                cls += focal(logit, k == label, keys.LOSS_ALPHA, keys.LOSS_GAMMA)
            if label:
                positives += 1
                wanted = encode(gt[g], anchors[row], keys.BBOX_REG_WEIGHTS)
                box += smooth_l1(deltas[row], wanted, keys.SMOOTH_L1_BETA)
    return cls / max(1, positives), box / max(1, positives)


def retinanet_detections(out: Outputs, cfg: Any) -> list[Found]:
    """The detections of each image."""
    keys = cfg.MODEL.RETINANET
    images = []
    for i, size_hw in enumerate(out.sizes_hw):
        found = Found()
        for anchors, logits, deltas in zip(out.anchors, out.logits, out.deltas, strict=True):
            scores, moves = logits[i].sigmoid().tolist(), deltas[i].tolist()
            pairs = [(s, row, k) for row, scored in enumerate(scores) for k, s in enumerate(scored, 1)]
            pairs = sorted((p for p in pairs if p[0] > keys.INFERENCE_TH), reverse=True)[: keys.PRE_NMS_TOP_N]
            for score, row, label in pairs:
                box = clip(decode(moves[row], anchors[row], keys.BBOX_REG_WEIGHTS), size_hw)
                found.add(Found([box], [score], [label]))
        images.append(suppress(found, keys.NMS_TH).best(cfg.TEST.DETECTIONS_PER_IMG))
    return images
