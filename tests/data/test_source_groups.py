"""Shares in a fixed order, and pictures of one source, which stay together."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from detframe.data.source_groups import equal_files, share_of, source_groups


def test_shares_that_meet_hold_everything_once() -> None:
    names = [f"{i}.jpg" for i in range(103)]
    parts = [share_of(names, [], low, high) for low, high in ((0, 12.5), (12.5, 80), (80, 100))]
    assert np.sum(parts, axis=0).tolist() == [1] * 103
    assert [int(part.sum()) for part in parts] == [13, 69, 21]
    assert np.flatnonzero(parts[2]).tolist() != list(range(82, 103))  # the order is that of no numbering


def test_the_order_is_that_of_names_alone() -> None:
    names = [f"sub/{i}.jpg" for i in range(50)]
    chosen = {name for name, taken in zip(names, share_of(names, [], 0, 80), strict=True) if taken}
    assert len(chosen) == 40
    random.Random(0).shuffle(names)
    assert {name for name, taken in zip(names, share_of(names, [], 0, 80), strict=True) if taken} == chosen
    # written down, so that no version of anything changes who trains and who validates
    assert sorted(set(names) - chosen) == [f"sub/{i}.jpg" for i in FIXED]


FIXED = (1, 2, 21, 25, 34, 36, 37, 40, 46, 8)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9])
def test_few_pictures_are_parted_so_that_each_side_has_some(count: int) -> None:
    names = [f"{i}.jpg" for i in range(count)]
    train, val = share_of(names, [], 0, 80), share_of(names, [], 80, 100)
    assert (train ^ val).all()
    assert val.sum() == max(1, round(count / 5))
    assert share_of(names, [], 0, 99.9).sum() == count - 1
    assert share_of(names, [], 0, 0.1).sum() == 1


def test_one_picture_cannot_be_parted() -> None:
    assert share_of(["a"], [], 0, 20).tolist() == [True]
    assert share_of(["a"], [], 20, 100).tolist() == [False]
    assert share_of([], [], 0, 20).tolist() == []


def test_copies_of_roboflow_stay_together() -> None:
    names = [f"train/{i}_jpg.rf.{copy * 8}.jpg" for i in range(30) for copy in "abc"]
    chosen = share_of(names, [], 0, 80).reshape(30, 3)
    assert (chosen.all(1) | ~chosen.any(1)).all()
    assert chosen.sum() == 72
    apart = ["a_jpg.rf.1f.jpg", "valid/a_jpg.rf.2e.png", "a_jpg.jpg", "rf.jpg", ".rf.x.jpg"]
    assert sorted(map(len, source_groups(apart, []))) == [1, 1, 1, 2]


def test_equal_files_stay_together(tmp_path: Path) -> None:
    body = random.Random(0).randbytes(20_000)
    middle = body[:10_000] + b"x" + body[10_001:]
    contents = {"a": body, "b": b"other", "c": body, "d": middle, "e": b"", "f": b"", "g": body[:-1] + b"?"}
    hidden = bytearray(body)
    hidden[6000] ^= 1  # where no sample looks
    contents["h"] = bytes(hidden)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    paths = [str(tmp_path / name) for name in (*contents, "pipe", "none", "nul\0")]
    assert equal_files(paths) == [[0, 2]]
    assert sorted(map(len, source_groups(paths, paths))) == [1] * 9 + [2]


def test_only_files_of_one_size_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(5):
        (tmp_path / str(i)).write_bytes(b"x" * (i + 1))
    monkeypatch.setattr("detframe.data.source_groups._sample", lambda path: pytest.fail(f"{path} was opened"))
    assert equal_files([str(tmp_path / str(i)) for i in range(5)]) == []


def test_chains_of_reasons_are_one_group(tmp_path: Path) -> None:
    for name, content in (("1", b"same"), ("2", b"same"), ("3", b"else")):
        (tmp_path / name).write_bytes(content)
    names = ["x_jpg.rf.11.jpg", "y_jpg.rf.22.jpg", "y_jpg.rf.33.jpg"]
    paths = [str(tmp_path / name) for name in "123"]
    assert source_groups(names, paths) == [[0, 1, 2]]
