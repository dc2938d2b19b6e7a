"""Parts of a detector: where a checkpoint holds one that the model has too, it holds it whole.

A part that only one side has is no mistake: a backbone starts a detector, and a mask head is left out of a detector
without masks. A part of which some parameters fit and others do not is one: its names have changed, or its layers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from detframe.compat.report import training_only
from detframe.errors import listed

# parts of our models, by the beginnings of names; also of names of other programs that no rule translated
_PARTS = (
    ("the RPN or dense head", r"rpn\.|proposal_generator\.|head\.(classification_|regression_|cls_|bbox_)"),
    ("the stages of a cascade", r"roi_heads\.box_(head|predictor)\.\d\."),
    ("the box head", r"roi_heads\.(box_head|box\.feature_extractor)\."),
    ("the box predictor", r"roi_heads\.box(_|\.)predictor\."),
    ("the head of the extended level", r"roi_heads\.extended_head\."),
    ("the predictor of the extended level", r"roi_heads\.extended_predictor\."),
    ("the mask head", r"roi_heads\.mask(\.|_)"),
    ("the keypoint head", r"roi_heads\.keypoint(\.|_)"),
    ("the backbone", r"backbone\.body\."),
)
_PYRAMID = re.compile(r"backbone\.(?!body\.)\w+\.\w+")
_BODY = "the backbone"
_SHOWN = 4


def half_filled(state: Iterable[str], target: Collection[str], filled: Collection[str]) -> dict[str, list[str]]:
    """What is wrong with each part that is on both sides and does not fit as a whole.

    Args:
        state: names in the checkpoint, in ours.
        target: those of the model.
        filled: those of the model that got values, or whose size may differ, as with the number of classes.
    """
    theirs = _by_part(state)
    out: dict[str, list[str]] = {}
    for part, names in _by_part(target).items():
        others = theirs.get(part, [])
        empty = [name for name in names if name not in filled] if others else []
        homeless = [name for name in others if name not in target] if others else []
        if part == _BODY:
            empty, homeless = _of_common_layers(empty, names, others), []
        lines = [*_finding("without values in it", empty), *_finding("without a place in the model", homeless)]
        if lines:
            out[part] = lines
    return out


def _by_part(names: Iterable[str]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for name in names:
        part = _part(name)
        if part and not name.endswith("num_batches_tracked") and not training_only(name):
            out.setdefault(part, []).append(name)
    return out


def _part(name: str) -> str:
    for part, beginning in _PARTS:
        if re.match(beginning, name):
            return part
    match = _PYRAMID.match(name)
    return match[0] if match else ""


def _of_common_layers(empty: list[str], names: list[str], others: list[str]) -> list[str]:
    """Those whose layer the checkpoint has: of backbones, stages and whole layers may be missing on either side."""
    layers = {_layer(name) for name in others}
    return [name for name in empty if _layer(name) in layers]


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _finding(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {listed(names, _SHOWN)}"] if names else []
