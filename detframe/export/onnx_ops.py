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
    """The peak of each heatmap (R, P, S, S), enlarged bicubically to the pixels of its box (R, 4), one by one."""
    regions = op.Shape(logits, start=0, end=1)
    number = op.Shape(logits, start=1, end=2)
    one = op.Constant(value_ints=[1])
    points = op.ConstantOfShape(op.Concat(op.Constant(value_ints=[0]), number, op.Constant(value_ints=[3]), axis=0))
    for i in range(op.Squeeze(regions)):
        box = op.Gather(boxes, i, axis=0)
        start = op.Slice(box, [0], [2])
        sides = op.Max(op.Sub(op.Slice(box, [2], [4]), start), 1.0)
        pixels = op.Ceil(sides)
        width_height = op.Cast(pixels, to=7)
        width = op.Slice(width_height, [0], [1])
        height = op.Slice(width_height, [1], [2])
        heat = op.Resize(
            op.Unsqueeze(op.Gather(logits, i, axis=0), [0]),
            None,
            None,
            op.Concat(one, number, height, width, axis=0),
            mode="cubic",
            cubic_coeff_a=-0.75,
            coordinate_transformation_mode="half_pixel",
        )
        best = op.ArgMax(op.Reshape(heat, op.Concat(number, [-1], axis=0)), axis=1, keepdims=0)
        column = op.Unsqueeze(op.Mod(best, width), [1])
        row = op.Unsqueeze(op.Div(best, width), [1])
        place = op.Cast(op.Concat(column, row, axis=1), to=1)
        place = op.Add(op.Mul(op.Add(place, 0.5), op.Div(sides, pixels)), start)
        seen = op.Expand(op.Constant(value_floats=[1.0]), op.Concat(number, one, axis=0))
        points = op.Concat(points, op.Unsqueeze(op.Concat(place, seen, axis=1), [0]), axis=0)
    return points
