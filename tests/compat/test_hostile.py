"""Files made to harm: each is refused by name, in little time and memory."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch

from detframe.compat import read_checkpoint, read_weights
from detframe.compat.state import find_state_dict

HEAD = b"\x80\x02"
DIGITS = (10**5000).to_bytes(2077, "little")
SHARED = b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
SHARED_KEY = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))
PICKLES = {
    "lists in lists": HEAD + b"]" * 50_000 + b"a" * 49_999 + b".",
    "dicts in dicts": HEAD + b"}" + b"K\x01}" * 50_000 + b"s" * 50_000 + b".",
    "tuples in tuples": HEAD + b")" + b"\x85" * 50_000 + b".",
    "a key of tuples": HEAD + b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "a key that holds everything twice": HEAD + b"})K\x01\x86q\x00" + SHARED_KEY + b"K\x01s.",
    "lists that hold everything twice": HEAD + b"](K\x01K\x01eq\x00" + SHARED + b".",
    "a list in itself": HEAD + b"]q\x00h\x00a.",
    "5000 digits": HEAD + b"}K\x01\x8b" + struct.pack("<i", len(DIGITS)) + DIGITS + b"s.",
    "bytes without end": b"\x80\x04\x8e" + struct.pack("<Q", 2**50) + b"abc.",
    "an end in the middle": HEAD + b"}K\x01",
    "nothing on the stack": HEAD + b"a.",
    "an array of 512 GB": HEAD + b"}U\x01acnumpy\nndarray\n\x8a\x05\x00\x00\x00\x00\x10\x85Rs.",
}


def archive(pickled: bytes) -> bytes:
    """PyTorch's archive with another pickle in it."""
    own, out = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1)}, own)
    with zipfile.ZipFile(own) as source, zipfile.ZipFile(out, "w") as target:
        for part in source.infolist():
            target.writestr(part.filename, pickled if part.filename.endswith("data.pkl") else source.read(part))
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("name", PICKLES)
def test_pickles(name, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(archive(PICKLES[name]) if suffix == ".pth" else PICKLES[name])
    with pytest.raises(ValueError, match=rf"weights\{suffix} (cannot be read safely|is no pickle|is damaged)"):
        read_checkpoint(path)


TENSORS = {
    "a value that stands for 10^12": torch.ones(1).expand(10**6, 10**6),
    "a sparse one": torch.ones(2, 2).to_sparse(),
    "one without values": torch.ones(10**6, 10**6, device="meta"),
    "an array of 16-byte floats": np.zeros(3, np.longdouble),
    "the same tensor a million times": [[torch.zeros(1000)] * 1000] * 1000,
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.filterwarnings("ignore")  # PyTorch's, of what it reads there
def test_tensors(name, tmp_path):
    torch.save({"model": {"w": TENSORS[name]}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read safely: .*no checkpoint needs that"):
        read_checkpoint(tmp_path / "weights.pth")


def test_what_is_usual_is_read(tmp_path):
    """Views, shared tensors, NumPy's arrays and numbers, nested lists: in all formats."""
    shared = torch.arange(6.0)
    content = {
        "w": shared, "again": shared, "row": shared.view(2, 3)[1], "all": torch.ones(1).expand(4),
        "array": np.arange(3), "number": np.float64(0.5), "rng": (3, tuple(range(625)), None), "nested": [[[[[1]]]]],
        ("a", ("tuple", 1)): {1, 2}, "state": 2**128,
    }  # fmt: skip
    for i, new in enumerate((True, False)):
        torch.save(content, tmp_path / f"{i}.pth", _use_new_zipfile_serialization=new)
        assert find_state_dict(read_checkpoint(tmp_path / f"{i}.pth"), "a").tensors["row"].tolist() == [3, 4, 5]
    for protocol in range(6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.arange(3.0), "n": [1] * 9}, protocol))
        assert read_checkpoint(tmp_path / "a.pkl")["w"].sum() == 3


def test_packed_and_overlapping_archives(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(2**26))
    with pytest.raises(ValueError, match=r"bomb\.pth is no PyTorch file: its part 'a/data\.pkl' is packed"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", bytes(1000))
        file.filelist = file.filelist * 10  # the same bytes under ten entries
    with pytest.raises(ValueError, match=r"bomb\.pth is no PyTorch file: its parts are larger than the whole"):
        read_checkpoint(path)


def test_a_storage_larger_than_its_bytes(tmp_path):
    own = io.BytesIO()
    torch.save({"w": torch.zeros(4)}, own)
    with zipfile.ZipFile(own) as file:
        pickled = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    (tmp_path / "a.pth").write_bytes(archive(pickled.replace(b"K\x04", b"\x8a\x05\x00\x00\x00\x00\x10")))
    with pytest.raises(ValueError, match=r"a\.pth (is damaged|cannot be read safely)"):
        read_checkpoint(tmp_path / "a.pth")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "pipe.pth", "a pipe"), ("/dev/zero", "or a device")):
        with pytest.raises(ValueError, match=words):
            read_weights(path)
    for path in ("a\0b.pth", "x" * 5000):
        with pytest.raises(ValueError, match="cannot be opened"):
            read_weights(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_weights(tmp_path / "none.pth")


def check_reading_of_damaged(path):
    """Change a byte of the file, every third time after cutting it: it is read, or refused by its name."""
    whole, draw = path.read_bytes(), random.Random(1)
    for number in range(300):
        damaged = bytearray(whole[: draw.randrange(1, len(whole))] if number % 3 == 0 else whole)
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            find_state_dict(read_checkpoint(path), "it")
        except ValueError as error:
            assert str(path) in str(error) or "it" in str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("writer", ["zip", "before zip", "pkl"])
def test_cut_and_changed_files_never_end_in_a_traceback(writer, tmp_path):
    path = tmp_path / ("a.pkl" if writer == "pkl" else "a.pth")
    if writer == "pkl":
        path.write_bytes(pickle.dumps({"w": np.arange(9.0), "b": [1, "x", None]}, 2))
    else:
        torch.save({"w": torch.arange(9.0), "b": [1, "x"]}, path, _use_new_zipfile_serialization=writer == "zip")
    check_reading_of_damaged(path)
