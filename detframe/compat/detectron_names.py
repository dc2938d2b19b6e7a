"""Names of Detectron's whole detectors in detframe's. Their bodies: `caffe2_names`.

Facts: the blobs of the published checkpoints. Classes count from 1 with the background first, as ours; box deltas and
masks have rows for the background too. What the levels of a pyramid share is called after the finest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from detframe.compat.caffe2_names import caffe2_body, caffe2_merged_body
from detframe.compat.maskrcnn_names import without_background

DETECTRON = "Detectron detector"
DETECTRON_MERGED = "Detectron detector, norms merged"
_HEADS = re.compile(r"conv_rpn_|rpn_cls_logits_|retnet_|fc6_w$|cls_score_w$")
_ENDING = {"w": "weight", "b": "bias", "s": "weight"}  # s: the scale of a group norm
_RPN = {"conv_rpn": "conv.0.0", "rpn_cls_logits": "cls_logits", "rpn_bbox_pred": "bbox_pred"}
_TOWERS = {"cls": "classification_head", "bbox": "regression_head"}
_OUTPUTS = {"cls": "classification_head.cls_logits", "bbox": "regression_head.bbox_reg"}
_BLOCKS = {"inner_": "inner_blocks", "": "layer_blocks"}
_END = r"_(gn_)?([wbs])"
_RULES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"(conv_rpn|rpn_cls_logits|rpn_bbox_pred)(?:_fpn\d)?", lambda m: f"rpn.head.{_RPN[m[1]]}"),
    (r"retnet_(cls|bbox)_conv_n(\d)_fpn\d", lambda m: f"rpn.head.{_TOWERS[m[1]]}.conv.{m[2]}.0"),
    (r"retnet_(cls|bbox)_pred_fpn\d", lambda m: f"rpn.head.{_OUTPUTS[m[1]]}"),
    (r"fpn_([67])", lambda m: f"backbone.fpn.extra_blocks.p{m[1]}"),
    (r"(fc[67])", lambda m: f"roi_heads.box_head.{m[1]}"),
    (r"head_conv(\d)", lambda m: f"roi_heads.box_head.convs.{int(m[1]) - 1}.{{member}}"),
    (r"(cls_score|bbox_pred)", lambda m: f"roi_heads.box_predictor.{m[1]}"),
    (r"_\[mask\]_fcn(\d)", lambda m: f"roi_heads.mask.head.{int(m[1]) - 1}.{{member}}"),
    (r"(conv5_mask|mask_fcn_logits)", lambda m: f"roi_heads.mask.predictor.{m[1]}"),
    (r"conv_fcn(\d)", lambda m: f"roi_heads.keypoint.head.{2 * int(m[1]) - 2}"),
    (r"kps_score_lowres", lambda m: "roi_heads.keypoint.predictor.kps_score_lowres"),
)


def detectron(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A detector whose body has group norms; None where it is none of Detectron's."""
    return _detector(state, caffe2_body)


def detectron_merged(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A detector whose body has merged batch norms, see `caffe2_merged_body`; None where it is none of Detectron's."""
    return _detector(state, caffe2_merged_body)


def _detector(
    state: Mapping[str, Tensor], read_body: Callable[[Mapping[str, Tensor]], dict[str, Tensor] | None]
) -> dict[str, Tensor] | None:
    body = read_body(state) if any(_HEADS.match(key) for key in state) else None
    if body is None:
        return None
    laterals = [int(m[1]) for key in body if (m := re.match(r"fpn_inner_res(\d)_", key))]
    kept = {key: value for key, value in body.items() if not _is_no_weight(key, body)}
    return without_background({_name(key, min(laterals, default=2)): value for key, value in kept.items()})


def _is_no_weight(key: str, state: Mapping[str, Tensor]) -> bool:
    """The learning rate, and the fixed filter that enlarges keypoint maps."""
    return key == "lr" or (key in ("kps_score_w", "kps_score_b") and "kps_score_lowres_w" in state)


def _name(key: str, first_level: int) -> str:
    if match := re.fullmatch(rf"fpn_(inner_)?res(\d)_\d+_sum(?:_lateral)?{_END}", key):
        place = f"backbone.fpn.{_BLOCKS[match[1] or '']}.{int(match[2]) - first_level}"
        return f"{place}.{int(bool(match[3]))}.{_ENDING[match[4]]}"
    for pattern, build in _RULES:
        if match := re.fullmatch(rf"{pattern}{_END}", key):
            gn, ending = match.groups()[-2:]
            return f"{build(match).format(member=int(bool(gn)))}.{_ENDING[ending]}"
    return key
