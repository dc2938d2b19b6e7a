"""Filling a model from a checkpoint of any dialect, and saying exactly what came of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detframe.compat.caffe2_names import MERGED, exact_affine
from detframe.compat.dense_names import TORCHVISION_DENSE, without_unused_class
from detframe.compat.files import read_weights
from detframe.compat.names import translate
from detframe.compat.timm_names import timm_body

logger = logging.getLogger(__name__)

# Layers whose size is the number of classes: another number is expected when a model is tuned to new data
CLASS_LAYERS = ("cls_score", "bbox_pred", "cls_logits", "mask_fcn_logits", "kps_score_lowres")
SMALLEST_BACKBONE_SHARE = 0.9


@dataclass
class LoadReport:
    """What `load_weights` did: parameter names by outcome."""

    source: str
    kind: str
    loaded: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)  # "name: checkpoint shape -> model shape"
    missing: list[str] = field(default_factory=list)  # in the model, not in the checkpoint
    unused: list[str] = field(default_factory=list)  # in the checkpoint, not in the model
    counts: dict[str, int] = field(default_factory=dict)  # numbers of values by outcome

    def table(self) -> str:
        """The report as text, a line an outcome, with names where something did not load."""
        total = max(sum(self.counts.get(k, 0) for k in ("loaded", "reinitialised", "missing")), 1)
        lines = [f"weights from {self.source} ({self.kind})"]
        for outcome in ("loaded", "reinitialised", "missing", "unused"):
            names, values = getattr(self, outcome), self.counts.get(outcome, 0)
            share = "" if outcome == "unused" else f"  {100 * values / total:5.1f} % of the model"
            lines.append(f"  {outcome:14s} {len(names):4d} tensors  {values:12,d} values{share}")
            if outcome != "loaded":
                lines += [f"      {name}" for name in names[:8]]
                lines += [f"      ... and {len(names) - 8} more"] if len(names) > 8 else []
        return "\n".join(lines)


def load_weights(
    model: nn.Module, path_or_url: str | Path | Mapping[str, Any], allow_partial: bool = False
) -> LoadReport:
    """Fill `model` from a checkpoint of detframe, torchvision, detectron2 or FCOS, or its body from a classifier.

    Layers that depend on the number of classes keep their initial values where shapes differ; so does what the
    checkpoint lacks. The report says which.

    Args:
        model: a detector built by `build_detection_model`.
        path_or_url: as for `read_weights`, or a state dict.
        allow_partial: accept that less than 90 % of the backbone is filled.

    Raises:
        ValueError: no state dict in the file, or too little of it fits (the message holds the report's table), or
            merged norms meet norms that compute statistics.
    """
    if isinstance(path_or_url, Mapping):
        source, content = "a state dict", path_or_url
    else:
        source, content = str(path_or_url), read_weights(path_or_url)
    raw, target = _state_dict(content, source), model.state_dict()
    timm = timm_body(raw, target)
    kind, state = translate(raw) if timm is None else ("timm classifier", timm)
    report = LoadReport(source, kind)
    if kind == TORCHVISION_DENSE:
        state = without_unused_class(state, target)
    state = _res5_where_it_stands(state, target)
    state = _extended_head_from_shared(state, target)
    if kind == MERGED:
        state = exact_affine(state, model)
    fitting = _sort_out(state, target, report)
    share = _backbone_share(target, fitting)
    if share < SMALLEST_BACKBONE_SHARE and not allow_partial:
        raise ValueError(
            f"{report.table()}\nonly {100 * share:.0f} % of the backbone's values are in this checkpoint: it is of "
            "another architecture (compare MODEL.BACKBONE.CONV_BODY and MODEL.RESNETS), or its names are unknown here; "
            "MODEL.ALLOW_PARTIAL_WEIGHTS True accepts it"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def _state_dict(content: Any, source: str) -> dict[str, Tensor]:
    for key in ("model", "state_dict", "model_state_dict", "blobs"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{source} holds a {type(content).__name__}, not a state dict")
    state = {
        str(key): torch.as_tensor(value) for key, value in content.items() if isinstance(value, (Tensor, int, float))
    }
    if not state:
        raise ValueError(f"{source} holds no tensors; its keys are {sorted(map(str, content))[:8]}")
    return state


def _res5_where_it_stands(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last stage of a body under the name that it has in a detector whose head on regions it is."""
    in_body, in_head = "backbone.body.layer4.", "roi_heads.box_head.layer4."
    if not any(name.startswith(in_head) for name in target):
        return state
    return {name.replace(in_body, in_head): value for name, value in state.items()}


def _extended_head_from_shared(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With a start for EFPN's head of its finest level: where a checkpoint has none, it begins as the shared head."""
    pairs = (("extended_head.", "box_head."), ("extended_predictor.", "box_predictor."))
    copies: dict[str, Tensor] = {}
    for own, shared in ((f"roi_heads.{a}", f"roi_heads.{b}") for a, b in pairs):
        wanted = [name for name in target if name.startswith(own) and name not in state]
        sources = {name: name.replace(own, shared, 1) for name in wanted}
        copies |= {name: state[source] for name, source in sources.items() if source in state}
    return {**state, **copies}


def _sort_out(state: Mapping[str, Tensor], target: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    fitting: dict[str, Tensor] = {}
    counts = {"loaded": 0, "reinitialised": 0, "missing": 0, "unused": 0}
    for name, value in target.items():
        if name not in state:
            # the counter of batches means nothing for a frozen or fresh norm, and old checkpoints lack it
            if not name.endswith("num_batches_tracked"):
                report.missing.append(name)
                counts["missing"] += value.numel()
        elif state[name].shape != value.shape:
            expected = " (number of classes)" if any(layer in name for layer in CLASS_LAYERS) else ""
            report.reinitialised.append(f"{name}: {tuple(state[name].shape)} -> {tuple(value.shape)}{expected}")
            counts["reinitialised"] += value.numel()
        else:
            fitting[name] = state[name]
            report.loaded.append(name)
            counts["loaded"] += value.numel()
    for name, value in state.items():
        if name not in target and not name.endswith("num_batches_tracked"):
            report.unused.append(name)
            counts["unused"] += value.numel()
    report.counts = counts
    return fitting


def _backbone_share(target: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> float:
    # a pyramid's own layers are often new when a classifier starts a detector; the body is what must fit
    body = [name for name in target if name.startswith("backbone.body.")] or [
        n for n in target if n.startswith("backbone.")
    ]
    # where a plain body starts one with deformable convolutions, what moves the sampling points is new as well
    body = [name for name in body if name in fitting or ".conv2.offset." not in name]
    total = sum(target[name].numel() for name in body)
    return sum(target[name].numel() for name in body if name in fitting) / max(total, 1)
