"""Data sets whose images and annotations lie in buckets, on web servers and in shards: as those on this disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detframe.cli import shard_data
from detframe.data import load_records
from detframe.data.missing import MissingImagesError
from detframe.data.reading import read_image
from detframe.errors import MissingFileError
from detframe.storage import forget
from tests.bucket_server import Store
from tests.media_server import Site, serving
from tests.storage.conftest import EVERY_STORE, NOBODYS, bucket, endpoint, google_endpoint, hub  # noqa: F401  (fixtures)
from tests.storage.conftest import _own_state as _own_state


def make_set(folder: Path, count: int = 5) -> None:
    """COCO annotations with sizes, images in two folders, YOLO labels of the same objects, VOC without sizes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = rng.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        path = folder / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        label = folder / "labels" / "ab"[number % 2] / f"{number}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.4\n")
    (folder / "labels/classes.txt").write_text("cat\n")
    images = [{"id": n + 1, "file_name": f"{'ab'[n % 2]}/{n}.png", "height": 20 + n, "width": 30} for n in range(count)]
    boxes = [[1, 2, 9, 9 + n] for n in range(count)]
    rows = [{"id": n + 1, "image_id": n + 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)]
    data = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "coco.json").write_text(json.dumps(data))
    for row in images:
        del row["height"], row["width"]
    (folder / "unsized.json").write_text(json.dumps(data))


def catalog_of(folder: Path, images: str, annotations: str) -> str:
    rows = [
        f"coco: {{format: coco, images: '{images}', annotations: '{annotations}/coco.json'}}",
        f"unsized: {{format: coco, images: '{images}', annotations: '{annotations}/unsized.json'}}",
        f"yolo: {{format: yolo, images: '{images}', annotations: '{annotations}/labels'}}",
    ]
    path = folder / f"catalog{len(list(folder.glob('catalog*')))}.yaml"
    path.write_text("\n".join(rows))
    return str(path)


def assert_same(name: str, catalog: str, expected: str) -> None:
    found, wanted = (load_records([name], path, on_missing="raise") for path in (catalog, expected))
    assert len(found) == len(wanted) > 0 and found.findings == wanted.findings
    for one, two in zip(found, wanted, strict=True):
        assert torch.equal(read_image(one), read_image(two))
        assert torch.equal(one["boxes"], two["boxes"]) and one["image_id"] == two["image_id"]
        assert Path(one["file_name"]).name == Path(two["file_name"]).name and one["size_hw"] == two["size_hw"]


@pytest.fixture
def here(tmp_path: Path) -> str:
    """The catalog of the set on this disk."""
    make_set(tmp_path / "set")
    return catalog_of(tmp_path, str(tmp_path / "set/images"), str(tmp_path / "set"))


@pytest.fixture
def shards(tmp_path: Path, here: str) -> Path:
    folder = tmp_path / "shards"
    assert shard_data.main(["--datasets", "coco", "--catalog", here, "--output", str(folder), "--megabytes", "1"]) == 0
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serving(tmp_path) as found:
        yield found


@EVERY_STORE
@pytest.mark.parametrize("name", ["coco", "unsized", "yolo"])
def test_in_a_bucket(bucket: Store, tmp_path: Path, here: str, name: str) -> None:  # noqa: F811
    bucket.put_folder(tmp_path / "set", "set")
    far = catalog_of(tmp_path, f"{bucket.address}/set/images", f"{bucket.address}/set")
    assert_same(name, far, here)
    assert load_records([name], far)[0]["file_name"].startswith(f"{bucket.address}/set/images/a/")
    for key in ("images/a/0.png", "images/b/1.png"):
        bucket.remove(f"set/{key}")
    assert_same(name, far, here) if name != "yolo" else None  # a second start asks for nothing that it has


@pytest.mark.parametrize("name", ["coco", "unsized", "yolo"])
def test_in_shards(tmp_path: Path, here: str, shards: Path, name: str) -> None:
    assert sorted(path.name for path in shards.iterdir()) == ["00000.tar", "index.jsonl"]
    assert_same(name, catalog_of(tmp_path, str(shards), str(tmp_path / "set")), here)
    (shards / "index.jsonl").unlink()
    assert_same(name, catalog_of(tmp_path, str(shards), str(tmp_path / "set")), here)


@EVERY_STORE
@pytest.mark.parametrize("index", [True, False])
def test_in_shards_in_a_bucket(bucket: Store, tmp_path: Path, here: str, shards: Path, index: bool) -> None:  # noqa: F811
    if not index:
        (shards / "index.jsonl").unlink()
    bucket.put_folder(shards, "shards")
    far = catalog_of(tmp_path, f"{bucket.address}/shards/", str(tmp_path / "set"))
    for name in ("coco", "unsized", "yolo"):
        assert_same(name, far, here)


def test_on_a_web_server(site: Site, tmp_path: Path, here: str, shards: Path) -> None:
    pytest.importorskip("aiohttp")
    far = catalog_of(tmp_path, f"{site.address}/set/images", f"{site.address}/set")
    assert_same("coco", far, here)
    assert_same("unsized", far, here)
    with pytest.raises(MissingFileError, match=r"/set/labels does not exist"):  # it has no folders
        load_records(["yolo"], far)


XML = """<annotation><filename>{0}.png</filename><size><width>30</width><height>{1}</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def catalog_of_voc(folder: Path, place: str) -> str:
    fields = f"images: '{place}/images', annotations: '{place}/Annotations', split: train"
    path = folder / f"voc{len(list(folder.glob('voc*')))}.yaml"
    path.write_text(f"voc: {{format: voc, {fields}}}")
    return str(path)


@EVERY_STORE
def test_the_lists_of_voc_lie_beside_its_annotations(bucket: Store, tmp_path: Path) -> None:  # noqa: F811
    make_set(tmp_path / "set")
    lists = tmp_path / "set/ImageSets/Main"
    for made in (lists, tmp_path / "set/Annotations"):
        made.mkdir(parents=True)
    for number in range(5):
        (tmp_path / f"set/Annotations/{number}.xml").write_text(XML.format(number, 20 + number))
    here, far = (catalog_of_voc(tmp_path, place) for place in (str(tmp_path / "set"), f"{bucket.address}/my set"))
    for split in ("0\n1\n3\n", "2\n"):  # changed, it is read anew
        (lists / "train.txt").write_text(split)
        bucket.put_folder(tmp_path / "set", "my set")
        forget()  # as a new process
        assert_same("voc", far, here)
    bucket.remove("my set/ImageSets/Main/train.txt")
    forget()
    with pytest.raises(MissingFileError, match=r"the split \S+/my set/ImageSets/Main/train\.txt does not exist"):
        load_records(["voc"], far)


SIGNS = ("a b", "ü/日本", "p#1", "q?x=1", "50%", "a+b", "[1]", "@2x")


def with_signs(folder: Path) -> None:
    """Give the images of a set names with signs that mean something in an address."""
    data = json.loads((folder / "coco.json").read_text())
    for row, sign in zip(data["images"], SIGNS, strict=True):
        new = folder / "images" / f"{sign}.png"
        new.parent.mkdir(exist_ok=True)
        (folder / "images" / row["file_name"]).rename(new)
        row["file_name"] = f"{sign}.png"
    (folder / "coco.json").write_text(json.dumps(data))


@EVERY_STORE
def test_names_with_signs_in_a_bucket(bucket: Store, tmp_path: Path) -> None:  # noqa: F811
    make_set(tmp_path / "set", len(SIGNS))
    with_signs(tmp_path / "set")
    bucket.put_folder(tmp_path / "set", "my set")
    here = catalog_of(tmp_path, str(tmp_path / "set/images"), str(tmp_path / "set"))
    assert_same("coco", catalog_of(tmp_path, f"{bucket.address}/my set/images", f"{bucket.address}/my set"), here)


@pytest.mark.parametrize("more", ["", "?sig=h1dd3n"])
def test_names_with_signs_on_a_web_server(site: Site, tmp_path: Path, more: str) -> None:
    pytest.importorskip("aiohttp")
    make_set(tmp_path / "my set", len(SIGNS))
    with_signs(tmp_path / "my set")
    here = catalog_of(tmp_path, str(tmp_path / "my set/images"), str(tmp_path / "my set"))
    far = catalog_of(tmp_path, f"{site.address}/my%20set/images{more}", f"{site.address}/my%20set")
    assert_same("coco", far, here)


@EVERY_STORE
def test_images_that_a_bucket_lacks(bucket: Store, tmp_path: Path, here: str) -> None:  # noqa: F811
    (tmp_path / "set/images/a/0.png").unlink()
    bucket.put_folder(tmp_path / "set", "set")
    far = catalog_of(tmp_path, f"{bucket.address}/set/images", str(tmp_path / "set"))
    for name in ("coco", "unsized"):
        with pytest.raises(MissingImagesError) as error:
            load_records([name], far, on_missing="raise")
        assert f"1 annotated image does not exist; there is no image called a/0.png in {bucket.address}/set/" in str(
            error.value
        )
        assert len(load_records([name], far, on_missing="skip")) == 4
    bucket.put("set/images/a/0.png", b"")
    assert len(load_records(["coco"], far, on_missing="raise")) == 5  # it came


@EVERY_STORE
def test_annotations_that_change_are_read_anew(bucket: Store, tmp_path: Path, here: str) -> None:  # noqa: F811
    bucket.put_folder(tmp_path / "set", "set")
    far = catalog_of(tmp_path, f"{bucket.address}/set/images", f"{bucket.address}/set")
    assert len(load_records(["coco"], far)) == 5
    shutil.rmtree(tmp_path / "set")
    make_set(tmp_path / "set", 3)
    bucket.put_folder(tmp_path / "set", "set")
    assert len(load_records(["coco"], far)) == 3


@EVERY_STORE
def test_what_does_not_exist_is_named_at_once(bucket: Store, tmp_path: Path) -> None:  # noqa: F811
    nobodys = NOBODYS[bucket.scheme]
    far = catalog_of(tmp_path, f"{nobodys}/images", nobodys)
    with pytest.raises(MissingFileError, match=rf"{nobodys}/coco\.json: the \w+ {nobodys} does not exist"):
        load_records(["coco"], far)
    make_set(tmp_path / "set")
    far = catalog_of(tmp_path, f"{nobodys}/images", str(tmp_path / "set"))
    with pytest.raises(MissingFileError, match=rf"{nobodys}/images: the \w+ {nobodys} does not exist"):
        load_records(["coco"], far)


def test_secrets_of_addresses_are_kept_out_of_everything(site: Site, tmp_path: Path, here: str) -> None:
    pytest.importorskip("aiohttp")
    host = site.address.removeprefix("http://")
    images = f"http://me:s3cr3t@{host}/set/images?sig=h1dd3n"
    far = catalog_of(tmp_path, images, str(tmp_path / "set"))
    assert_same("coco", far, here)
    records = load_records(["coco"], far)
    assert records[0]["file_name"] == f"{site.address}/set/images/a/0.png"
    asked = [headers for headers in site.headers if "Authorization" in headers]
    assert asked  # the server was told
    (tmp_path / "set/images/a/0.png").unlink()
    cached = Path(os.environ["DETFRAME_CACHE"])
    texts = [path.read_bytes() for path in cached.rglob("*") if path.is_file()]
    assert not [text[:300] for text in texts if b"s3cr3t" in text or b"h1dd3n" in text]


def test_shards_of_shards(tmp_path: Path, here: str, shards: Path, capsys: pytest.CaptureFixture) -> None:
    again = catalog_of(tmp_path, str(shards), str(tmp_path / "set"))
    words = ["--datasets", "coco", "--catalog", again, "--output"]
    assert shard_data.main([*words, str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/index.jsonl").read_bytes() == (shards / "index.jsonl").read_bytes()
    assert shard_data.main([*words, str(tmp_path / "again")]) == 2
    assert "again is not empty; name a new folder" in capsys.readouterr().err
    assert shard_data.main(["--index", str(tmp_path / "set")]) == 2
    assert "set holds no file whose name ends in .tar" in capsys.readouterr().err
    before = (shards / "index.jsonl").read_bytes()
    (shards / "index.jsonl").unlink()
    assert shard_data.main(["--index", str(shards)]) == 0
    assert (shards / "index.jsonl").read_bytes() == before
