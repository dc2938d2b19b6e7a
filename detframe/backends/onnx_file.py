"""ONNX files, run by onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detframe.backends.card import KEY
from detframe.backends.session import Session, card_of, first_line, imported
from detframe.errors import InvalidValueError, MissingFileError

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SILENT = 4  # what the log would say, the errors say too
_NO_OPERATION = re.compile(
    r"No Op registered for (\S+)|Fatal error: (\S+?)\(-?\d+\) is not a registered|NOT_IMPLEMENTED"
)
_NO_DATA = re.compile(r'External data path does not exist: "?([^"]+)"?')


class OnnxSession(Session):
    """An ONNX file in onnxruntime."""

    format = "onnx"

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        """Args are those of `open_model`."""
        runtime = imported("onnxruntime", path, " (or onnxruntime-gpu, for CUDA)")
        providers = _providers(runtime, device)
        options = runtime.SessionOptions()
        options.log_severity_level = _SILENT
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its errors have no class in common but this
            raise _refused(path, error, runtime.__version__) from None
        used = self._session.get_providers()[0]
        if device.startswith("cuda") and used != _CUDA:
            raise InvalidValueError(
                f"device is {device!r}, but onnxruntime cannot compute on a GPU here: its libraries of CUDA or cuDNN "
                "are not found, or there is no GPU"
            )
        card = card_of(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        names = [output.name for output in self._session.get_outputs()]
        device_used = "cuda" if used == _CUDA else "cpu"
        super().__init__(path, card, device_used, f"onnxruntime {runtime.__version__}", names)

    def _compute(self, images: np.ndarray, sizes: np.ndarray) -> Mapping[str, np.ndarray]:
        values = self._session.run(None, {"images": images, "sizes": sizes})
        return dict(zip(self.outputs, values, strict=True))


def _providers(runtime: Any, device: str) -> list[Any]:
    """Where onnxruntime is to compute, best first.

    Raises:
        ValueError: no such device, or not in this onnxruntime.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (number and (kind != "cuda" or not number.isdigit())):
        raise InvalidValueError(f"device is {device!r}; onnxruntime takes auto, cpu, cuda or cuda:1")
    there = runtime.get_available_providers()
    if kind == "cuda" and _CUDA not in there:
        raise InvalidValueError(
            f"device is {device!r}, but this onnxruntime computes on the CPU alone; pip install onnxruntime-gpu in its "
            "place"
        )
    if kind == "cpu" or _CUDA not in there:
        return [_CPU]
    return [(_CUDA, {"device_id": int(number or 0)}), _CPU]


def _refused(path: Path, error: Exception, version: str) -> Exception:
    """An error of onnxruntime while it loads a file, in the user's words."""
    text = str(error)
    if data := _NO_DATA.search(text):
        return MissingFileError(
            f"{path} keeps its weights in {data[1]}, which does not exist: copy the two files together"
        )
    if "External" in text and "out of bounds" in text:
        return InvalidValueError(
            f"the file with the weights of {path} is truncated: copy it again ({first_line(error)})"
        )
    if lacking := _NO_OPERATION.search(text):
        named = lacking[1] or lacking[2]
        return InvalidValueError(
            f"{path} needs {f'the operation {named}' if named else 'an operation'}, which onnxruntime {version} does "
            f"not have: update onnxruntime, or export to another format ({_reason(text)})"
        )
    if type(error).__name__ == "InvalidProtobuf" or "No graph was found" in text:
        return InvalidValueError(f"{path} is no ONNX file, or a truncated one: copy or export it again")
    return InvalidValueError(f"onnxruntime {version} cannot load {path}: {_reason(text)}")


def _reason(text: str) -> str:
    """onnxruntime's message without its code and the name of the file."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", text).strip()
