"""A cache that cannot be written, as its disk is full or read-only: every user of it says which variable moves it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detframe.data import load_records
from detframe.data.images import IMAGE_FAULTS
from detframe.engine.output_place import output_place
from detframe.engine.store_copies import borrowed
from detframe.errors import CacheError, UserError
from detframe.storage import Settings, here, opened, shards, using
from tests.bucket_server import Bucket
from tests.storage.test_shards import _nothing_known as _nothing_known
from tests.storage.test_shards import make_tar

ANNOTATIONS = (
    '{"images": [{"id": 1, "file_name": "1.jpg", "height": 9, "width": 9}], "annotations": [],'
    ' "categories": [{"id": 1, "name": "cat"}]}'
)


def seek_missing(address: str) -> None:
    """Look which images of annotations that lie here are not in a bucket."""
    folder = Path(os.environ["WORK"])
    (folder / "train.json").write_text(ANNOTATIONS)
    catalog = folder / "catalog.yaml"
    catalog.write_text(f"cats: {{format: coco, images: '{address}/images', annotations: '{folder}/train.json'}}")
    load_records(["cats"], str(catalog))


def seek_sizes(address: str) -> None:
    """Read the sizes of images that annotations do not say; one that cannot be read would be left out."""
    folder = Path(os.environ["WORK"])
    (folder / "unsized.json").write_text(ANNOTATIONS.replace(', "height": 9, "width": 9', ""))
    catalog = folder / "catalog.yaml"
    catalog.write_text(f"cats: {{format: coco, images: '{address}/images', annotations: '{folder}/unsized.json'}}")
    load_records(["cats"], str(catalog), on_missing="skip")


def borrow(address: str) -> None:
    with borrowed(f"{address}/run"):
        pass


USERS: dict[str, Callable[[str], object]] = {
    "image": lambda address: opened(f"{address}/images/1.jpg"),
    "annotations": lambda address: here(f"{address}/train.json"),
    "folder of annotations": lambda address: here(f"{address}/images"),
    "shards": lambda address: shards.prepare(f"{address}/shards"),
    "folder without shards": lambda address: shards.prepare(f"{address}/images"),
    "missing images": seek_missing,
    "sizes of images": seek_sizes,
    "run": lambda address: output_place(f"{address}/run").look(resume=False),
    "run that goes on": lambda address: output_place(f"{address}/run").look(resume=True),
    "evaluation of a run": borrow,
}


@pytest.fixture
def filled(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("WORK", str(tmp_path))
    make_tar(tmp_path / "shards/0.tar", {"1.jpg": b"one"})
    bucket.put_folder(tmp_path / "shards", "shards")
    bucket.put("images/1.jpg", b"one")
    bucket.put("train.json", ANNOTATIONS.encode())
    return bucket


@pytest.mark.parametrize("user", USERS)
def test_a_cache_that_is_no_folder(filled: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    place = tmp_path / "cache"
    place.write_text("a file")
    monkeypatch.setenv("DETFRAME_CACHE", str(place))
    with pytest.raises(CacheError, match=r"cannot be written: (Not a directory|File exists)") as error:
        USERS[user](filled.address)
    said = str(error.value)
    assert str(place) in said and "variable DETFRAME_CACHE to a folder that can be written" in said
    assert "set another OUTPUT_DIR" not in said
    assert not isinstance(error.value, IMAGE_FAULTS)  # with ON_ERROR skip, these leave images out


READ_ONLY = """
import sys
from detframe.storage import opened, reading, shards
reading.TRUSTED_SECONDS = float(sys.argv[2])
shards.prepare(f"{sys.argv[1]}/shards")
for name in ("images/1.jpg", "shards/1.jpg"):
    print(opened(f"{sys.argv[1]}/{name}").read().decode())
"""


@pytest.mark.parametrize("trusted", [3600.0, -1.0])
def test_a_filled_cache_that_is_read_only_is_read_from(filled: Bucket, tmp_path: Path, trusted: float) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    environment = {**os.environ, "DETFRAME_CACHE": str(place)}
    command = [sys.executable, "-c", READ_ONLY, filled.address, str(trusted)]
    assert subprocess.run(command, env=environment, capture_output=True, check=True).stdout == b"one\none\n"
    for path in place.rglob("*"):
        os.utime(path, (0, path.stat().st_mtime))  # used long ago: a use would be written down
    mount = f"mount --bind {place} {place} && mount -o remount,bind,ro {place}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this system lets nobody mount a folder read-only")
    within = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"', *command]
    done = subprocess.run(within, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "one\none\n"), done.stderr


MOUNTED = """
import sys
from tests.storage.test_unwritable import USERS, UserError
for name, use in USERS.items():
    try:
        use(sys.argv[1])
        print(name, "nothing", sep=": ")
    except UserError as error:
        print(name, error, sep=": ")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason", "remedy"),
    [
        ("ro,size=64k", "Read-only file system", "; set the environment variable DETFRAME_CACHE to"),
        (
            "size=8k,nr_inodes=1",
            "No space left",
            "make room, or set the environment variable DETFRAME_CACHE to",
        ),
    ],
)
def test_a_real_disk(filled: Bucket, tmp_path: Path, options: str, reason: str, remedy: str) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mount = f"mount -t tmpfs -o {options} none {place}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"', sys.executable, "-c", MOUNTED]
    environment = {**os.environ, "DETFRAME_CACHE": str(place)}
    done = subprocess.run([*command, filled.address], env=environment, capture_output=True, text=True, check=False)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said.keys() == USERS.keys(), done.stderr
    for name, text in said.items():
        assert reason in text and remedy in text, (name, text)


def test_a_folder_of_copies_that_a_key_names(filled: Bucket, tmp_path: Path) -> None:
    place = tmp_path / "copies"
    place.write_text("a file")
    with using(Settings(cache_dir=str(place))), pytest.raises(CacheError) as error:
        opened(f"{filled.address}/images/1.jpg")
    assert "set DATALOADER.CACHE_DIR to a folder that can be written" in str(error.value)
    assert "DETFRAME_CACHE" not in str(error.value)


def test_what_is_not_the_caches_fault_is_not_laid_on_it(
    filled: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"nothing\.jpg does not exist") as error:
        opened(f"{filled.address}/images/nothing.jpg")
    assert "DETFRAME_CACHE" not in str(error.value)
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "train.json" / "cache"))
    seek = tmp_path / "photos"
    seek.mkdir()
    (seek / "1.jpg").write_bytes(b"one")
    (tmp_path / "train.json").write_text(ANNOTATIONS)
    assert shards.prepare(seek) is None  # images of this machine need no cache
