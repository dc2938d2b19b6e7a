"""What the operators of `detframe.ops.exportable` are in ONNX, version 18 of its operators.

Legend: N images, M candidates, G groups, R RoIs, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import FLOAT, opset18, script

op: Any = opset18  # whose annotations are narrower than its functions
_NOTHING = -1.0  # the score of what does not count; scores are 0 or more


def translations() -> dict[Any, Callable[..., Any]]:
    """For the `custom_translation_table` of torch.onnx.export."""
    return {
        torch.ops.detframe.nms.default: _nms,
        torch.ops.detframe.roi_align.default: _roi_align,
        torch.ops.detframe.keypoints.default: _keypoints,
    }


def _ints(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _number(value: Any) -> Any:
    """A whole number, known or computed in the graph, as a tensor (1,)."""
    return _ints(value) if isinstance(value, int) else op.Reshape(value, _ints(1))


def _nms(boxes: Any, scores: Any, group: Any, image: Any, num_images: Any, iou: float, keep: int) -> tuple[Any, Any]:
    """NonMaxSuppression on the scores (1, G, M) of each group alone, then TopK of each image."""
    images = _number(num_images)
    last = op.ReduceMax(op.Concat(group, _ints(0), axis=0), keepdims=1)
    nothing = op.Constant(value_float=_NOTHING)
    of_group = op.Equal(op.Unsqueeze(group, _ints(0)), op.Unsqueeze(_range(op.Add(last, _ints(1))), _ints(1)))
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, _ints(0)),
        op.Unsqueeze(op.Where(of_group, op.Unsqueeze(scores, _ints(0)), nothing), _ints(0)),
        _ints(keep),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[_NOTHING / 2]),
    )
    rows = op.Gather(kept, op.Constant(value_int=2), axis=1)
    none = op.Expand(nothing, op.Shape(scores))
    left = op.ScatterElements(none, rows, op.Gather(scores, rows), axis=0)
    of_image = op.Equal(op.Unsqueeze(image, _ints(0)), op.Unsqueeze(_range(images), _ints(1)))
    left = op.Where(of_image, op.Unsqueeze(left, _ints(0)), nothing)
    # as many more as are kept, so that there are always enough
    more = op.Expand(nothing, op.Concat(images, _ints(keep), axis=0))
    best, chosen = op.TopK(op.Concat(left, more, axis=1), _ints(keep))
    valid = op.Greater(best, op.Constant(value_float=_NOTHING / 2))
    return op.Where(valid, chosen, op.Constant(value_int=0)), valid


def _range(end: Any) -> Any:
    """0 to end - 1, of a tensor (1,)."""
    return op.Range(op.Constant(value_int=0), op.Squeeze(end, _ints(0)), op.Constant(value_int=1))


def _roi_align(
    features: Sequence[Any],
    strides: Sequence[int],
    boxes: Any,
    image: Any,
    level: Any,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Any:
    """RoiAlign of the RoIs of each level, put back into their order."""
    pooled, rows = [], []
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        own = op.Reshape(op.NonZero(op.Equal(level, op.Constant(value_int=i))), _ints(-1))
        rows.append(own)
        pooled.append(
            op.RoiAlign(
                feature,
                op.Gather(boxes, own),
                op.Gather(image, own),
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                mode="avg",
                output_height=output_size,
                output_width=output_size,
                sampling_ratio=sampling_ratio,
                spatial_scale=1.0 / stride,
            )
        )
    if len(pooled) == 1:
        return pooled[0]
    order = op.Concat(*rows, axis=0)
    # where each row has gone: the inverse of the permutation
    back = op.ScatterElements(order, order, _range(op.Shape(order)), axis=0)
    return op.Gather(op.Concat(*pooled, axis=0), back)


@script(default_opset=opset18)
def _keypoints(logits: FLOAT, boxes: FLOAT) -> FLOAT:
    """The peak of each heatmap (R, P, S, S), enlarged bicubically to the pixels of its box (R, 4), box by box.

    Two matrix products enlarge the heatmaps of a box, of which two cells more around them repeat the border; Resize
    takes far longer. Rows of the matrices hold the cubic convolution of -0.75: at the distance x, with
    t = max(2 - x, 0) and u = max(1 - x, 0), it is 0.75 (t - 1) t² - 2 u³.
    """
    regions = op.Shape(logits, start=0, end=1)
    number = op.Shape(logits, start=1, end=2)
    side = op.Shape(logits, start=3, end=4)
    start = op.Slice(boxes, [0], [2], [1])
    sides = op.Max(op.Sub(op.Slice(boxes, [2], [4], [1]), start), 1.0)
    pixels = op.Ceil(sides)
    lengths = op.Cast(pixels, to=7)
    steps = op.Div(op.Cast(side, to=1), pixels)
    maps = op.Pad(logits, [2, 2, 2, 2], None, [2, 3], mode="edge")
    cells = op.Cast(op.Range(-2, op.Add(op.Squeeze(side), 2), 1), to=1)
    # none yet; of an Expand, OpenVINO would not know that it has two dimensions
    peaks = op.Cast(op.ConstantOfShape(op.Concat([0], number, axis=0)), to=7)
    for i in range(op.Squeeze(regions)):
        length = op.Gather(lengths, i, axis=0)
        step = op.Gather(steps, i, axis=0)
        width = op.Gather(length, 0, axis=0)
        across = op.Mul(op.Add(op.Cast(op.Range(0, width, 1), to=1), 0.5), op.Gather(step, 0, axis=0))
        height = op.Gather(length, 1, axis=0)
        down = op.Mul(op.Add(op.Cast(op.Range(0, height, 1), to=1), 0.5), op.Gather(step, 1, axis=0))
        centres = op.Sub(op.Unsqueeze(op.Concat(across, down, axis=0), [1]), 0.5)
        away = op.Abs(op.Sub(centres, cells))
        t = op.Relu(op.Sub(2.0, away))
        far = op.Sub(t, 1.0)
        u = op.Relu(far)
        far = op.Mul(op.Mul(op.Mul(t, t), far), 0.75)
        weights = op.Sub(far, op.Mul(op.Mul(op.Mul(u, u), u), 2.0))
        across, down = op.Split(weights, length, axis=0)
        heat = op.MatMul(down, op.MatMul(op.Gather(maps, i, axis=0), op.Transpose(across, perm=[1, 0])))
        best = op.ArgMax(op.Reshape(heat, op.Concat(number, [-1], axis=0)), axis=1, keepdims=0)
        peaks = op.Concat(peaks, op.Unsqueeze(best, [0]), axis=0)
    widths = op.Slice(lengths, [0], [1], [1])
    place = op.Concat(op.Unsqueeze(op.Mod(peaks, widths), [2]), op.Unsqueeze(op.Div(peaks, widths), [2]), axis=2)
    place = op.Mul(op.Add(op.Cast(place, to=1), 0.5), op.Unsqueeze(op.Div(sides, pixels), [1]))
    place = op.Add(place, op.Unsqueeze(start, [1]))
    seen = op.Expand(op.Constant(value_floats=[1.0]), op.Concat(regions, number, [1], axis=0))
    return op.Concat(place, seen, axis=2)
