"""What an exported file says of itself, from the model, its config and its checkpoint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from detframe import __version__
from detframe.backends import InputCard, ModelCard
from detframe.config import ConfigNode
from detframe.config.paths import expanded
from detframe.modeling import GeneralizedRCNN
from detframe.storage.folders import address_with_slashes, is_store, local_file
from detframe.structures import ANY_CLASS

_CHUNK = 2**20
# What the card has in a place of its own
_ELSEWHERE = ("config", "class_names", "category_ids", "keypoint_names", "checksum", "iteration")


def make_card(
    model: GeneralizedRCNN,
    cfg: ConfigNode,
    meta: Mapping[str, Any],
    input_card: InputCard,
    detections: int,
    precision: str,
    provenance: Mapping[str, Any],
) -> ModelCard:
    """The card of an exported model; the arguments are the entries of ModelCard."""
    agnostic = model.class_agnostic
    return ModelCard(
        class_names=(ANY_CLASS,) if agnostic else tuple(meta["class_names"]),
        category_ids=(1,) if agnostic else tuple(int(i) for i in meta["category_ids"]),
        input=input_card,
        precision=precision,
        detections=detections,
        thresholds=thresholds(model, cfg),
        config=cfg.dump(),
        keypoint_names=tuple(meta.get("keypoint_names", ())) if cfg.MODEL.KEYPOINT_ON else (),
        class_agnostic=agnostic,
        pixel=model.pixel,
        provenance=provenance,
        meta={key: value for key, value in meta.items() if key not in _ELSEWHERE and _is_json(value)},
    )


def thresholds(model: GeneralizedRCNN, cfg: ConfigNode) -> dict[str, float]:
    """Which scores are detections ("score"), and what overlaps too much ("nms"), as far as the model has such."""
    out = {} if model.nms is None else {"nms": float(model.nms.iou)}
    if cfg.MODEL.ROI_HEADS.NAME:
        out["score"] = float(cfg.MODEL.ROI_HEADS.SCORE_THRESH)
    else:
        section = getattr(cfg.MODEL, cfg.MODEL.RPN.NAME.upper(), None)
        if section is not None and hasattr(section, "INFERENCE_TH"):
            out["score"] = float(section.INFERENCE_TH)
    return out


def provenance(weights: str | Path | None, meta: Mapping[str, Any], modules: tuple[str, ...]) -> dict[str, Any]:
    """Where an exported file comes from: weights, date, versions, command.

    Args:
        weights: the checkpoint's file; None: the model was not read from one.
        modules: the packages that wrote the file.
    """
    out: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"detframe": __version__, **{name: _version(name) for name in ("torch", "torchvision", *modules)}},
        "command": shlex.join(sys.argv),
    }
    if weights is not None:
        copy = expanded(local_file(weights))
        name = address_with_slashes(weights) if is_store(weights) else str(copy)
        out["weights"] = {"file": name, "sha256": sha256(copy)}
    if "iteration" in meta:
        out["iteration"] = int(meta["iteration"])
    return out


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # of a variant, as onnxruntime-gpu
        return str(getattr(sys.modules.get(package), "__version__", "?"))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
