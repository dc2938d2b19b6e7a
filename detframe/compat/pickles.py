"""Reading the `.pkl` checkpoints of Caffe2, Detectron and detectron2: pickles of NumPy arrays, of which nothing is run.

A pickle can name any function and have it called. Here it can name the few with which NumPy rebuilds its arrays.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detframe.errors import InvalidValueError
from detframe.torch_files import DAMAGE, check_content, check_pickle

_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU]\d+)")


class RefusedGlobalError(pickle.UnpicklingError):
    """A pickle names something that checkpoints do not need."""


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as pickles of protocol 2 hold them; other codecs may be anything, a decompressor for example."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedGlobalError(f"it asks for the codec {encoding!r}")
    return text.encode("latin1")


def _dtype(spec: Any, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    """A type of numbers or text; arrays of objects and of records are no weights."""
    if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
        raise RefusedGlobalError(f"it asks for arrays of type {spec!r}")
    return np.dtype(spec, copy=True)


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    # NumPy keeps these functions in private modules and moved them in 2.0; its own arrays say which they are
    rebuild: Any = np.zeros(1).__reduce__()[0]
    scalar: Any = np.float32(1).__reduce__()[0]
    from_buffer: Any = np.zeros(1).__reduce_ex__(5)[0]
    out: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): _dtype,
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for package in ("numpy.core", "numpy._core"):
        out[f"{package}.multiarray", "_reconstruct"] = rebuild
        out[f"{package}.multiarray", "scalar"] = scalar
        out[f"{package}.numeric", "_frombuffer"] = from_buffer
    return out


class _ArrayUnpickler(pickle.Unpickler):
    """Finds what NumPy arrays and plain containers are made of, and nothing else."""

    allowed = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        found = self.allowed.get((module, name))
        if found is None:
            raise RefusedGlobalError(f"it asks for {module}.{name}")
        return found


def read_pickle(path: str | Path) -> Any:
    """The content of a `.pkl` checkpoint, with tensors in place of its arrays of numbers.

    Raises:
        ValueError: the file asks for anything but arrays and plain values (the message names what), is cut short, or is
            no pickle.
    """
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        try:
            check_pickle(file, Path(path), size)
            file.seek(0)
            content = _ArrayUnpickler(file, encoding="latin1").load()
        except InvalidValueError:
            raise
        except RefusedGlobalError as error:
            raise InvalidValueError(
                f"{path} cannot be read safely: {error}, and a checkpoint holds nothing but arrays and plain values"
            ) from None
        except DAMAGE as error:
            raise InvalidValueError(
                f"{path} is no pickle, or is damaged or half-written ({reason_of(error)})"
            ) from None
    check_content(content, Path(path), size)
    return to_tensors(content)


def reason_of(error: BaseException) -> str:
    """What an error says, on one line; its name where it says nothing."""
    return str(error).partition("\n")[0] or type(error).__name__


def numpy_globals() -> list[Any]:
    """What PyTorch's safe reader needs for NumPy's arrays and numbers, of NumPy before 2.0 as well."""
    rebuilding = [(call, f"{module}.{name}") for (module, name), call in _allowed().items() if "multiarray" in module]
    kinds = [type(np.dtype(kind)) for kind in (*np.typecodes["All"].replace("O", "").replace("V", ""),)]
    return [*rebuilding, np.ndarray, np.dtype, *dict.fromkeys(kinds)]


def to_tensors(value: Any) -> Any:
    """Nested dicts and lists with tensors in place of NumPy's arrays of numbers, and lists in place of tuples."""
    if isinstance(value, dict):
        return {key: to_tensors(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_tensors(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        native = np.array(value, dtype=value.dtype.newbyteorder("="))  # a copy, writable and in one piece
        return torch.from_numpy(native)
    return value
