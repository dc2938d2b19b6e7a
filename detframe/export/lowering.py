"""Exported files in half precision and in int8: by way of an ONNX file in fp32."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from detframe.backends import ModelCard
from detframe.backends.card import KEY
from detframe.export.formats import Format, convert, quiet, write_onnx
from detframe.export.precision import lower
from detframe.export.training_images import TrainingImages


def write_lowered(
    program: ExportedProgram,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    card: ModelCard,
    path: Path,
    form: Format,
    images: TrainingImages | None,
) -> dict[str, Any]:
    """Write a program in the precision that its card says.

    Args:
        form: "onnx" or "openvino". OpenVINO's files of fp16 hold the weights so; what they are computed with is the
            device's choice.
        images: what int8 is calibrated and judged on; None for fp16.

    Returns:
        What the report says of it.
    """
    with tempfile.TemporaryDirectory(prefix="detframe-export-") as name:
        source = Path(name) / "fp32.onnx"
        write_onnx(program, inputs, outputs, replace(card, precision="fp32"), source)
        if form.name == "openvino" and card.precision == "fp16":
            convert(source, card, path, half=True)
            return {"precision": "fp16"}
        target = path if form.name == "onnx" else Path(name) / "lowered.onnx"
        data: dict[str, Any] = {} if images is None else {"batches": images.batches, "score": images.score}
        with quiet():
            details = lower(source, target, card.precision, **data)
        set_card(target, card)
        if form.name == "openvino":
            convert(target, card, path)
        return details


def set_card(path: Path, card: ModelCard) -> None:
    """Give an ONNX file another card."""
    import onnx

    model = onnx.load(str(path))
    entry = next(entry for entry in model.metadata_props if entry.key == KEY)
    entry.value = card.to_json()
    onnx.save(model, str(path))
