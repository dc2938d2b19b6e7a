"""Filling a model from a checkpoint of any dialect, and saying exactly what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detframe.arrays.pixels import COLOURS
from detframe.compat.channels import inflated
from detframe.compat.class_rows import ClassRows, coco_names, count_classes, rows_by_name
from detframe.compat.files import read_weights
from detframe.compat.parts import half_filled
from detframe.compat.programs import OWN, Program, recognised
from detframe.compat.renaming import res5_where_it_stands
from detframe.compat.report import LoadReport
from detframe.compat.state import StateDict, find_state_dict, refuse_not_finite, refuse_other_numbers
from detframe.errors import InvalidValueError, listed

# Outputs whose size is a number that new data may change
_SIZED_BY = {
    "rpn.head.cls_logits.": "anchors",
    "rpn.head.bbox_pred.": "anchors",
    "bbox_reg.": "anchors",
    "cls_score.": "classes",
    "bbox_pred.": "classes",
    "cls_logits.": "classes",
    "mask_fcn_logits.": "classes",
    "coarse.prediction.": "classes",
    "point_head.": "classes",
    "kps_score_lowres.": "keypoints",
}
SMALLEST_BACKBONE_SHARE = 0.9
_REMEDY = "MODEL.ALLOW_PARTIAL_WEIGHTS True accepts it"
_HEADS = ("rpn.", "roi_heads.")


def load_weights(
    model: nn.Module,
    path_or_url: str | Path | Mapping[str, Any],
    allow_partial: bool = False,
    class_names: Sequence[str] | None = None,
    source: str = "",
) -> LoadReport:
    """Fill `model` from a checkpoint of any program that detframe knows, or its backbone from a classifier.

    Layers that depend on the number of classes keep their initial values where shapes differ; so does what the
    checkpoint lacks. With `class_names`, and where the classes of the checkpoint are known (detframe's name theirs;
    published ones have COCO's), each class gets the rows of the class of its name. The report says which; and for
    images of other channels than the checkpoint's, what became of the first convolution.

    Args:
        model: a detector built by `build_detection_model`.
        path_or_url: as for `read_weights`, or a state dict.
        allow_partial: accept a checkpoint of another architecture: less than 90 % of the backbone is filled, or the
            checkpoint's is deeper, or none of its heads has a place, or a part that both have (a mask head, say) fits
            in pieces only.
        class_names: the classes of the model, label 1 first.
        source: where a state dict comes from, for messages.

    Raises:
        ValueError: no state dict in the file, or too little of it fits (the message holds the report's table), or
            merged norms meet norms that compute statistics, or `class_names` are not as many as the model's classes, or
            what would be loaded is not finite.
    """
    if isinstance(path_or_url, Mapping):
        source, content = source or "a state dict", path_or_url
    else:
        source, content = str(path_or_url), read_weights(path_or_url)
    found, target = find_state_dict(content, source), model.state_dict()
    program, kind, cleaned = recognised(found.tensors, model)
    state = _extended_head_from_shared(res5_where_it_stands(program.read(cleaned, model), target), target)
    report = LoadReport(source, kind, notes=list(found.notes))
    preprocessor: Any = getattr(model, "preprocessor", None)
    channels = COLOURS.channels if preprocessor is None else preprocessor.form.channels
    state, widened = inflated(state, target, channels)
    report.notes += [widened] if widened else []
    rows = None if class_names is None else _class_rows(program, found, state, target, class_names)
    if rows is not None:
        report.notes.append(rows.note())
    elif class_names is not None:
        report.notes += _taken_in_order(state, target, class_names)
    fitting = _sort_out(state, target, rows, report)
    if not allow_partial:
        _refuse_another_architecture(state, target, fitting, report)
        _refuse_half_a_part(state, target, fitting, report)
    refuse_other_numbers(fitting, target, source)
    refuse_not_finite(fitting, target, source)
    model.load_state_dict(fitting, strict=False)
    return report


def _class_rows(
    program: Program,
    found: StateDict,
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    class_names: Sequence[str],
) -> ClassRows | None:
    """The class outputs by the names of their classes; None where those of the checkpoint are not known."""
    classes, others = count_classes(target), count_classes(state)
    if classes and classes != len(class_names):
        raise InvalidValueError(
            f"{len(class_names)} class names for a model of {classes} classes: {', '.join(class_names)}"
        )
    if not classes or not others:
        return None
    if program is OWN:
        return rows_by_name(state, target, found.class_names, class_names) if len(found.class_names) == others else None
    theirs = coco_names(state, by_id=program.category_ids)
    if theirs is None:
        return None
    rows = rows_by_name(state, target, theirs, class_names)
    # as many classes under other names: as likely the same data under another program as COCO
    if classes == others and rows.new:
        return None
    rows.taken_for = f"the checkpoint does not name its {others} classes, they are taken for COCO's"
    return rows


def _taken_in_order(state: Mapping[str, Tensor], target: Mapping[str, Tensor], class_names: Sequence[str]) -> list[str]:
    """A line on whose word the classes stand, where the checkpoint has as many and does not name them."""
    classes = count_classes(target)
    if classes < 2 or classes != count_classes(state):
        return []
    return [
        f"the checkpoint does not name its {classes} classes, they are taken in this order: {listed(class_names, 12)} "
        "(if theirs is another: detframe import-weights --classes writes a checkpoint that names them)"
    ]


def _extended_head_from_shared(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With a start for EFPN's head of its finest level: where a checkpoint has none, it begins as the shared head."""
    pairs = (("extended_head.", "box_head."), ("extended_predictor.", "box_predictor."))
    copies: dict[str, Tensor] = {}
    for own, shared in ((f"roi_heads.{a}", f"roi_heads.{b}") for a, b in pairs):
        wanted = [name for name in target if name.startswith(own) and name not in state]
        sources = {name: name.replace(own, shared, 1) for name in wanted}
        copies |= {name: state[source] for name, source in sources.items() if source in state}
    return {**state, **copies}


def _sort_out(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], rows: ClassRows | None, report: LoadReport
) -> dict[str, Tensor]:
    fitting: dict[str, Tensor] = {}
    counts, rows = report.counts, rows or ClassRows()
    for name, value in target.items():
        if name not in state:
            # the counter of batches means nothing for a frozen or fresh norm, and old checkpoints lack it
            if not name.endswith("num_batches_tracked"):
                report.missing.append(name)
                counts["missing"] += value.numel()
        elif name in rows.values and rows.new:
            fitting[name] = rows.values[name]
            report.reinitialised.append(f"{name}: {len(rows.new)} of {rows.total} classes are new")
            counts["loaded"] += rows.counts[name]
            counts["reinitialised"] += value.numel() - rows.counts[name]
        elif name not in rows.values and state[name].shape != value.shape:
            report.reinitialised.append(f"{name}: {tuple(state[name].shape)} -> {tuple(value.shape)}{_reason(name)}")
            counts["reinitialised"] += value.numel()
        else:
            fitting[name] = rows.values.get(name, state[name])
            report.loaded.append(name)
            counts["loaded"] += value.numel()
    for name, value in state.items():
        if name not in target and not name.endswith("num_batches_tracked"):
            report.unused.append(name)
            counts["unused"] += value.numel()
    return fitting


def _reason(name: str) -> str:
    number = next((number for layer, number in _SIZED_BY.items() if layer in name), "")
    return f" (number of {number})" if number else ""


def _refuse_another_architecture(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], fitting: Mapping[str, Tensor], report: LoadReport
) -> None:
    """Raises ValueError, with the report's table and a remedy, where what fits does so by accident."""
    share, deeper = _backbone_share(target, fitting), _unused_of_body(state, target)
    if share < SMALLEST_BACKBONE_SHARE:
        raise InvalidValueError(
            f"{report.table()}\nonly {100 * share:.0f} % of the backbone's values are in this checkpoint: it is of "
            "another architecture (compare MODEL.BACKBONE.CONV_BODY and MODEL.RESNETS), or its names are unknown here; "
            f"{_REMEDY}"
        )
    if deeper > 1 - SMALLEST_BACKBONE_SHARE:
        raise InvalidValueError(
            f"{report.table()}\nthe backbone of this checkpoint is deeper: {100 * deeper:.0f} % of its values have no "
            f"place in the model (compare MODEL.BACKBONE.CONV_BODY); {_REMEDY}"
        )
    heads = [name for name in state if name.startswith(_HEADS)]
    if heads and any(name.startswith(_HEADS) for name in target) and not any(name in fitting for name in heads):
        raise InvalidValueError(
            f"{report.table()}\nthis checkpoint is of another detector: none of its {len(heads)} tensors of heads has "
            f"a place in the model (compare MODEL.RPN.NAME and MODEL.ROI_HEADS.NAME); {_REMEDY}, and fills the backbone"
        )


def _refuse_half_a_part(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], fitting: Mapping[str, Tensor], report: LoadReport
) -> None:
    """Raises ValueError, with the report's table and a remedy, where a part is on both sides and fits in pieces."""
    sized = {name for name in target if name in state and _reason(name)}
    halves = half_filled(state, target, {*fitting, *sized})
    if halves:
        listed = "\n".join(f"  {part}, {line}" for part, lines in halves.items() for line in lines)
        raise InvalidValueError(
            f"{report.table()}\nthis checkpoint holds parts of the model, but not as the model has them:\n{listed}\n"
            f"compare the config with that of its training; {_REMEDY}: what has no values then stays as it was built"
        )


def _backbone_share(target: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> float:
    # a pyramid's own layers are often new when a classifier starts a detector; the backbone is what must fit
    body = [name for name in target if name.startswith("backbone.body.")] or [
        n for n in target if n.startswith("backbone.")
    ]
    # where a plain backbone starts one with deformable convolutions, what moves the sampling points is new as well
    body = [name for name in body if name in fitting or ".conv2.offset." not in name]
    total = sum(target[name].numel() for name in body)
    return sum(target[name].numel() for name in body if name in fitting) / max(total, 1)


def _unused_of_body(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> float:
    """The share of a checkpoint's backbone that has no counterpart, counting the stages that the model has as well."""
    stages = {_stage(name) for name in target} - {""}
    body = [name for name in state if _stage(name) in stages]
    total = sum(state[name].numel() for name in body)
    return sum(state[name].numel() for name in body if name not in target) / max(total, 1)


def _stage(name: str) -> str:
    """ "layer3" of "backbone.body.layer3.0.conv1.weight"; "" of what is not in a backbone."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["backbone", "body"] and len(parts) > 3 else ""
