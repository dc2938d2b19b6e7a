"""Weights of any program, as `read_weights` and `load_weights` read them: PyTorch's files of two kinds, and pickles."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detframe.compat import load_weights
from detframe.modeling import build_detection_model
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import DEPTH, byte_changes, clear, no_files, renamed
from tests.malformed.states import Stranger, other_values, pickle_file, tiny_checkpoint, tiny_config, torch_file

CHANGED = ("backbone.body.layer2.0.conv1.weight",)
KEYS = ("model", "state_dict", "ema", "module.x", "", 7)


class Calls:
    """A pickle that asks for a function to be called."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.called = call, args

    def __reduce__(self) -> Any:
        return self.called


def cases(folder: Path) -> Iterator[Case]:
    torch.set_num_threads(1)
    model, state = build_detection_model(tiny_config()), dict(tiny_checkpoint()["model"])

    def read(path: Path, place: Callable[[], object]) -> str:
        clear(path)
        place()
        load_weights(model, path)
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                value.zero_()
                raise NonsenseError(f"{name} is not finite")
        return READ

    for name, write in {
        "weights.pth": torch_file,
        "old.pth": lambda content, path: torch_file(content, path, legacy=True),
        "weights.pkl": pickle_file,
    }.items():
        path = folder / name
        write(state, path)
        for what, data in byte_changes(path.read_bytes(), flips=15):
            yield Case(f"{name} {what}", lambda p=path, d=data: read(p, lambda: p.write_bytes(d)), (name,))
        for what, content in contents(state):
            yield Case(f"{name} {what}", lambda p=path, w=write, c=content: read(p, lambda: w(c(), p)), (name,))
        for what, place in no_files(path, endless=True):
            yield Case(f"{name} {what}", lambda p=path, a=place: read(p, a), (name,))
    path = folder / "weights.pkl"
    for what, data in pickles().items():
        yield Case(f"pickle {what}", lambda d=data: read(path, lambda: path.write_bytes(d)), (path.name,))


def contents(state: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    for name in CHANGED:
        for what, make in other_values(state[name]):
            yield f"{name} {what}", lambda n=name, m=make: {**state, n: m()}
        yield f"{name} renamed", lambda n=name: renamed(state, (n,), f"{n}_")
    for key in KEYS:
        yield f"below {key!r}", lambda k=key: {k: state}
        yield f"beside {key!r}", lambda k=key: {**state, k: torch.zeros(1)}
        yield f"beside a {key!r} of text", lambda k=key: {**state, k: "x"}
    yield "a list", lambda: [torch.zeros(1)]
    yield "a tensor", lambda: torch.zeros(1)
    yield "nothing", lambda: None
    yield "an empty dict", dict
    yield "a dict in itself", _circle
    yield "dicts in dicts", lambda: _deep(400)
    yield "a million keys", lambda: {f"k{i}": 0 for i in range(10**5)}


def _circle() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def _deep(depth: int) -> Any:
    content: Any = {}
    for _ in range(depth):
        content = {"model": content}
    return content


def pickles() -> dict[str, bytes]:
    """Pickles that are no arrays, or that would run something."""
    marked = b"\x80\x02" + b"]" * DEPTH + b"a" * (DEPTH - 1) + b"."
    return {
        "of a call": pickle.dumps({"a": Calls(print, "called")}, 2),
        "of a shell": pickle.dumps({"a": Calls(__import__("os").system, "false")}, 2),
        "of a class": pickle.dumps({"a": Stranger}, 2),
        "of an object": pickle.dumps({"a": Stranger()}, 2),
        "of an array of objects": pickle.dumps({"a": np.array([{}], dtype=object)}, 2),
        "of a large array": pickle.dumps({"a": Calls(np.zeros, 10**12)}, 2),
        "of an array without end": pickle.dumps({"a": Calls(np.ndarray, (10**7, 10**7))}, 2),
        "of lists in lists": marked,
        "of tuples in tuples": b"\x80\x02)" + b"\x85" * DEPTH + b".",
        "of a large number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "of a long text": b"\x80\x02X\xff\xff\xff\x7f.",
        "of memo bombs": _memo_bomb(),
        "of an unknown opcode": b"\x80\x02\xff.",
        "of protocol 9": b"\x80\x09N.",
        "without an end": pickletools.optimize(pickle.dumps({"a": np.zeros(3)}, 2))[:-1],
        "of a codec": pickle.dumps({"a": Calls(__import__("codecs").encode, "x", "rot13")}, 2),
        "of text as arrays": pickle.dumps({"a": np.array(["x" * 100])}, 2),
        "of a persistent id": _with_persistent_id(),
    }


def _memo_bomb() -> bytes:
    """Lists that each hold the one before twice: 2**40 when somebody walks through them."""
    value: Any = [0]
    for _ in range(40):
        value = [value, value]
    return pickle.dumps({"a": value}, 2)


def _with_persistent_id() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "storage" if isinstance(obj, set) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": set()})
    return buffer.getvalue()


def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("weights", tmp_path, at_least=250)
