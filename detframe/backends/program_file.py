"""Programs of torch.export, .pt2 files. They need torch, which is imported when one is opened."""

from __future__ import annotations

import io
import logging
import pickle
import threading
import typing
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from detframe.backends.card import KEY
from detframe.backends.session import NEEDED, Session, card_of, first_line, imported
from detframe.errors import InvalidValueError

CARD_FILE = f"{KEY}.json"  # among the extra files of the archive
_FINDING = threading.Lock()  # one load at a time finds type hints in its own way


class ProgramSession(Session):
    """A .pt2 file in PyTorch."""

    format = "torch"

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        """Args are those of `open_model`; the number of threads is PyTorch's own business."""
        torch = imported("torch", path)

        import detframe.ops.exportable
        import detframe.ops.nms  # noqa: F401

        self._device = _device(torch, device)
        _check_archive(path, torch)
        extra = {CARD_FILE: ""}
        try:
            with _quiet(), _hints_kept():
                program = torch.export.load(str(path), extra_files=extra)
        except Exception as error:  # the readers of the parts let through whatever they run into
            raise _refused(path, error, torch.__version__) from None
        card = card_of(extra[CARD_FILE] or None, path)
        with _quiet():
            self._module = _on(program, self._device).module()
        self._least = _least_plane(program)
        self._lock = threading.Lock()
        super().__init__(path, card, str(self._device), f"torch {torch.__version__}", output_names(program))

    def _compute(self, images: np.ndarray, sizes: np.ndarray) -> Mapping[str, np.ndarray]:
        import torch

        missing = [max(0, least - side) for least, side in zip(self._least, images.shape[2:], strict=True)]
        if any(missing):  # what lies beyond an image does not count
            images = np.pad(images, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
        with torch.no_grad(), self._lock:
            values = self._module(*(torch.from_numpy(value).to(self._device) for value in (images, sizes)))
        return {name: value.cpu().numpy() for name, value in zip(self.outputs, values, strict=True)}


def _device(torch: Any, device: str) -> Any:
    """PyTorch's device; "auto" is the GPU where CUDA works.

    Raises:
        ValueError: there is none of that name.
    """
    name = device
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidValueError(
            f"device is {device!r}, on which this PyTorch cannot compute here ({first_line(error)}); use auto, cpu or "
            "cuda"
        ) from None


def _check_archive(path: Path, torch: Any) -> None:
    """An archive of torch.export, whose parts hold tensors and plain values only: nothing in them is unpickled else.

    Raises:
        ValueError: it is none, it is truncated, or holds other objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_parts(archive, path, torch)
    except zipfile.BadZipFile:
        raise InvalidValueError(f"{path} is no program of torch.export, or a truncated one: copy it again") from None
    except InvalidValueError:
        raise
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise InvalidValueError(f"{path} is damaged, or cannot be read safely ({first_line(error)})") from None


def _check_parts(archive: zipfile.ZipFile, path: Path, torch: Any) -> None:
    names = archive.namelist()
    inner = {name.partition("/")[2] or name for name in names}
    if not {"archive_format", "serialized_exported_program.json"} & inner:
        raise InvalidValueError(f"{path} is no program of torch.export: it holds {', '.join(sorted(inner)[:3])}, ...")
    for name in names:
        with archive.open(name) as file:
            is_pickle = file.read(2) in (b"PK", b"\x80\x02")
        if is_pickle:
            torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)


def _refused(path: Path, error: Exception, version: str) -> InvalidValueError:
    """An error of torch.export while it loads a file, in the user's words."""
    reason: BaseException = error
    while reason.__context__ is not None:  # the last one only says that there was one
        reason = reason.__context__
    return InvalidValueError(
        f"torch {version} cannot load {path} ({first_line(reason)}): it is damaged, or needs operators or a version of "
        "torch other than this one"
    )


def _on(program: Any, device: Any) -> Any:
    """The program on a device; it is written on the CPU."""
    if device.type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks that torch.export logs of what it then raises again, and its warnings of own graphs."""
    log = logging.getLogger("torch.export")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


@contextmanager
def _hints_kept() -> Iterator[None]:
    """Type hints of a class are found once: torch.export asks for them anew for each of the values in a program."""
    known: dict[Any, tuple[dict[str, Any], Any]] = {}

    def hints(thing: Any, *args: Any, **named: Any) -> dict[str, Any]:
        key = (thing, *map(id, args), *((name, id(value)) for name, value in named.items()))
        if key not in known:
            known[key] = find(thing, *args, **named), (args, named)  # held, so that their ids stay theirs
        return dict(known[key][0])

    with _FINDING:
        find = typing.get_type_hints
        typing.get_type_hints = hints  # type: ignore[assignment]
        try:
            yield
        finally:
            typing.get_type_hints = find


def _least_plane(program: Any) -> tuple[int, int]:
    """The smallest height and width that a program was traced for."""
    values = next(
        node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == "images"
    )
    return tuple(_least(side, program.range_constraints) for side in values.shape[2:])  # type: ignore[return-value]


def _least(side: Any, ranges: Mapping[Any, Any]) -> int:
    if isinstance(side, int):
        return side
    known = ranges.get(side.node.expr)
    return 1 if known is None else int(known.lower)


def output_names(program: Any) -> list[str]:
    """Names of what a program gives: the first four by their place, masks (N, D, S, S) and keypoints (N, D, P, 3) by
    their shape."""
    values = [node.meta["val"] for node in program.graph.output_node().args[0]]
    names = list(NEEDED[: len(values)])
    return names + ["keypoints" if value.shape[-1] == 3 else "masks" for value in values[len(NEEDED) :]]
