"""OpenVINO's intermediate representation, an .xml file with its .bin."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from detframe.backends.card import KEY
from detframe.backends.session import Session, card_of, first_line, imported
from detframe.errors import InvalidValueError, MissingFileError

_NO_OPERATION = re.compile(r"doesn't contain the operation with type: (\w+)|(?:Unsupported|not supported).*operation")
_BEGINNING = 2048  # bytes in which <net stands


class OpenVinoSession(Session):
    """An .xml file in OpenVINO's runtime."""

    format = "openvino"

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        """Args are those of `open_model`."""
        openvino = imported("openvino", path)
        core = shared_core()
        name = _device(core, device)
        _check_files(path)
        try:
            model = core.read_model(str(path))
            card = card_of(model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else None, path)
            self._compiled = core.compile_model(model, name, _settings(card.precision, name, threads))
        except RuntimeError as error:
            raise _refused(path, error, openvino.__version__) from None
        outputs = [sorted(output.names)[0] for output in self._compiled.outputs]
        version = openvino.__version__.partition("-")[0]
        super().__init__(path, card, name.lower(), f"openvino {version}", outputs)

    def _compute(self, images: np.ndarray, sizes: np.ndarray) -> Mapping[str, np.ndarray]:
        request = self._compiled.create_infer_request()
        found = request.infer({"images": images, "sizes": sizes})
        # copies: the arrays are memory of the request
        return {name: np.array(found[index]) for index, name in enumerate(self.outputs)}


def shared_core() -> Any:
    """The one openvino.Core of this process, which lives as long as it does.

    A Core's CPU plugin gives its thread a stack for signal handlers, and at its end puts back the one that it found. Of
    two that live at once, the second may so put back that of the first, which is gone: the next signal that is handled,
    as of Ctrl-C, would end the process by SIGSEGV.
    """
    return _core_of(os.getpid())


@cache
def _core_of(process: int) -> Any:
    """Each process has its own: a fork has none of the threads of its parent."""
    import openvino

    return openvino.Core()


def _device(core: Any, device: str) -> str:
    """OpenVINO's name of a device.

    Raises:
        ValueError: it has none of that name here.
    """
    name = "CPU" if device == "auto" else device.upper().replace(":", ".")
    there = core.available_devices
    if name not in there and f"{name}.0" not in there:
        raise InvalidValueError(
            f"device is {device!r}; OpenVINO takes auto or, on this machine, {', '.join(there).lower()} (it has no "
            "CUDA)"
        )
    return name


def _settings(precision: str, device: str, threads: int | None) -> dict[str, Any]:
    """Of the runtime: quick answers, and no less precision than the file promises.

    Where a CPU computes in bfloat16 OpenVINO takes that for float32 too, unless it is told not to.
    """
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision != "fp16":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    if threads is not None and device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _check_files(path: Path) -> None:
    """What OpenVINO would take for a file of another program, or say without names."""
    with path.open("rb") as file:
        start = file.read(_BEGINNING)
    if b"<net" not in start:
        raise InvalidValueError(f"{path} is no model of OpenVINO, whose .xml begins with <net ...>")
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise MissingFileError(
            f"{path} keeps its weights in {weights}, which does not exist: copy the two files together"
        )


def _refused(path: Path, error: RuntimeError, version: str) -> InvalidValueError:
    """An error of OpenVINO while it loads a file, in the user's words."""
    text = str(error)
    if "Incorrect weights in bin file" in text:
        return InvalidValueError(f"{path.with_suffix('.bin')} is truncated, or not that of {path}: copy both again")
    if lacking := _NO_OPERATION.search(text):
        named = f"the operation {lacking[1]}" if lacking[1] else "an operation"
        return InvalidValueError(
            f"{path} needs {named}, which OpenVINO {version} does not have: update openvino, or export to another "
            f"format ({first_line(error)})"
        )
    if "Error parsing element" in text or "pugi::status_ok" in text:
        return InvalidValueError(f"{path} is truncated or damaged: copy or export it again ({first_line(error)})")
    return InvalidValueError(f"OpenVINO {version} cannot load {path}: {first_line(error)}")
