"""Which files are exported detectors, and opening them."""

from __future__ import annotations

from pathlib import Path

from detframe.backends.session import Session
from detframe.errors import FileAccessError, InvalidValueError, MissingFileError

FORMATS = {".onnx": "ONNX", ".xml": "OpenVINO", ".pt2": "torch.export"}
"""Endings of exported files, and what each is."""


def is_exported(path: str | Path) -> bool:
    """Whether a file is an exported detector, by its name."""
    return Path(path).suffix.lower() in FORMATS


def open_model(path: str | Path, device: str = "auto", threads: int | None = None) -> Session:
    """An exported detector, ready to run.

    Args:
        path: an .onnx file, the .xml of OpenVINO, beside which its .bin lies, or a .pt2. A .pt2 is a program: open
            those that you trust.
        device: "auto" is the GPU where the runtime has one of its own, else the CPU; onnxruntime and PyTorch know
            "cpu", "cuda" and "cuda:1", OpenVINO "cpu" and "gpu".
        threads: that the runtime computes with on a CPU; None: as many as it likes.

    Raises:
        FileNotFoundError: there is no such file, or not the one with its weights.
        ImportError: the runtime of that format is not installed.
        ValueError: no exported detector, a truncated file, one that needs what the runtime does not have, or a device
            that is not there.
    """
    path = Path(path).expanduser()
    _check_file(path)
    kind = path.suffix.lower()
    if kind == ".onnx":
        from detframe.backends.onnx_file import OnnxSession

        return OnnxSession(path, device, threads)
    if kind == ".xml":
        from detframe.backends.openvino_file import OpenVinoSession

        return OpenVinoSession(path, device, threads)
    from detframe.backends.program_file import ProgramSession

    return ProgramSession(path, device, threads)


def _check_file(path: Path) -> None:
    if path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        raise InvalidValueError(f"{path} holds the weights of {path.with_suffix('.xml')}: name that one")
    if not is_exported(path):
        known = ", ".join(f"{ending} ({name})" for ending, name in FORMATS.items())
        raise InvalidValueError(f"{path} is no exported model: they end in {known}")
    try:
        if not path.exists():
            raise MissingFileError(f"no such file: {path} (working folder {Path.cwd()})")
        if not path.is_file():
            raise InvalidValueError(f"{path} is a folder, a pipe or a device, not an exported model")
        if path.stat().st_size == 0:
            raise InvalidValueError(f"{path} is empty; what wrote it was probably stopped")
        with path.open("rb"):
            pass
    except OSError as error:
        if isinstance(error, MissingFileError):
            raise
        raise FileAccessError(f"{path} cannot be read: {error.strerror or error}") from None
