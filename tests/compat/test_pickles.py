"""Pickles of NumPy arrays are read, anything else in them is refused by name."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from detframe.compat import read_checkpoint
from tests.compat.pickled import Call


def written(tmp_path, value, protocol=2):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_every_protocol(tmp_path, protocol):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    value = {
        "blobs": OrderedDict(a=array, b=np.asfortranarray(array), scalar=np.float64(2.5), big=array.astype(">f4")),
        "cfg": "text",
        "raw": b"\x00\xff",
        "list": [1, None, (2.0, True)],
    }
    out = read_checkpoint(written(tmp_path, value, protocol))
    for name in ("a", "b", "big"):
        assert out["blobs"][name].dtype == torch.float32 and out["blobs"][name].tolist() == array.tolist()
    assert float(out["blobs"]["scalar"]) == 2.5
    assert out["cfg"] == "text" and out["list"] == [1, None, [2.0, True]]
    assert out["raw"] == b"\x00\xff"


def test_a_pickle_of_python_2_and_numpy_1(tmp_path):
    """Written by hand: Python 2 kept the bytes of an array as its plain strings (opcode U)."""
    values = np.array([1.5, -2.0], dtype="<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + values + b"tb"
    )
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"\x80\x02}U\x07conv1_w" + array + b"s.")
    assert read_checkpoint(path)["conv1_w"].tolist() == [1.5, -2.0]


def test_a_call_is_refused_and_not_made(tmp_path):
    touched = tmp_path / "touched"
    path = written(tmp_path, {"blobs": Call(os.system, f"touch {touched}")})
    with pytest.raises(ValueError, match=r"weights\.pkl cannot be read safely: it asks for (posix|nt)\.system"):
        read_checkpoint(path)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(eval, "1"), r"builtins\.eval|__builtin__\.eval"),
        (Call(getattr, "a", "upper"), r"getattr"),
        (torch.nn.Linear(1, 1), r"torch"),
        (np.random.default_rng(0), r"numpy\.random"),
        (np.array([object], dtype=object), r"arrays of type 'O8'"),
        (np.zeros(1, dtype=[("a", "f4")]), r"arrays of type 'V4'"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path, value, named):
    with pytest.raises(ValueError, match=rf"cannot be read safely: it asks for .*({named})"):
        read_checkpoint(written(tmp_path, {"blobs": value}))


def test_codecs_other_than_latin1_are_refused(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(ValueError, match="codec 'rot13'"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated(tmp_path, share):
    path = written(tmp_path, {f"a{i}": np.ones(100, np.float32) for i in range(5)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"weights\.pkl is no pickle, or is damaged or half-written"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"(<html>not found</html>", b"\x80\x02garbage", b"MODEL:\n  A: 1\n", b"0", b"\xff" * 9]
)
def test_no_pickle(tmp_path, content):
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pkl (is no pickle|cannot be read safely)"):
        read_checkpoint(path)


def test_empty_and_misnamed_files(tmp_path):
    path = tmp_path / "weights.pkl"
    path.touch()
    with pytest.raises(ValueError, match="is empty"):
        read_checkpoint(path)
    torch.save({"a": torch.ones(2)}, path)  # a PyTorch file under the other suffix
    assert read_checkpoint(path)["a"].tolist() == [1.0, 1.0]
