"""What a catalog entry of every format may say: split, classes, others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from detframe import registry
from detframe.cli.errors import user_message
from detframe.data import CatalogEntry, Metadata, PackedDataset, RecordBuilder, Records, load_records
from tests.data.sets import annotation, pixels, save_image, voc_object, write_catalog, write_coco, write_voc
from tests.data.tt100k_sets import sign, write_tt100k

COUNT = 10
NAMES = [f"{i}.png" for i in range(1, COUNT + 1)]


def coco(folder: Path, **fields: Any) -> str:
    """Ten images: image i has a cat, and those from 6 on a dog too."""
    rows = [annotation(i, i, [1, 1, 9, 9]) for i in range(1, COUNT + 1)]
    rows += [annotation(100 + i, i, [20, 20, 9, 9], 5) for i in range(6, COUNT + 1)]
    catalog = write_coco(folder, rows, [(40, 60)] * COUNT)
    return changed(catalog, fields)


def voc(folder: Path, **fields: Any) -> str:
    objects = {
        str(i): voc_object("cat", (2, 2, 10, 10)) + (voc_object("dog", (21, 21, 29, 29)) if i > 5 else "")
        for i in range(1, COUNT + 1)
    }
    catalog = write_voc(folder, objects)
    for i in range(1, COUNT + 1):
        save_image(folder / "JPEGImages" / f"{i}.jpg", pixels(40, 60, i))
    return changed(catalog, fields)


def read_own(entry: CatalogEntry) -> PackedDataset:
    """A format of the user's own, which knows of no such fields."""
    builder = RecordBuilder(Metadata(entry.name, ("cat", "dog"), (1, 2)))
    for number, name in enumerate(NAMES, 1):
        builder.add_image(entry.images / name, number, (40, 60))
        builder.add_object((1, 1, 10, 10), 1)
        if number > 5:
            builder.add_object((20, 20, 29, 29), 2)
    return builder.build()


def own(folder: Path, **fields: Any) -> str:
    registry.DATASET_FORMATS.register("own", read_own)
    return coco(folder, format="own", **fields)


def changed(catalog: Path, fields: dict[str, Any]) -> str:
    entries = yaml.safe_load(catalog.read_text())
    entries["mine"].update(fields)
    catalog.write_text(yaml.safe_dump(entries, sort_keys=False))
    return str(catalog)


FORMATS = {"coco": coco, "voc": voc, "own": own}


@pytest.fixture(autouse=True)
def _formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.DATASET_FORMATS, "_members", dict(registry.DATASET_FORMATS))


@pytest.fixture(params=list(FORMATS))
def written(request: pytest.FixtureRequest) -> Any:
    return FORMATS[request.param]


def stems(records: Records) -> list[int]:
    return [int(Path(record["file_name"]).stem) for record in records]


def read(catalog: str) -> Records:
    return load_records(["mine"], catalog)


# ------------------------------------------------------------------ split
def test_shares_part_a_data_set_of_every_format(tmp_path: Path, written: Any) -> None:
    parts = [stems(read(written(tmp_path, split=split))) for split in ("80%", "-20%", "0% - 50%", "50%-100%", "100 %")]
    assert [len(part) for part in parts] == [8, 2, 5, 5, 10]
    assert sorted(parts[0] + parts[1]) == sorted(parts[2] + parts[3]) == list(range(1, COUNT + 1))
    assert set(parts[2]) < set(parts[0])
    assert stems(read(written(tmp_path / "elsewhere", split="-20%"))) == parts[1]
    assert sorted(parts[4]) == list(range(1, COUNT + 1))


def test_a_list_of_splits_narrows_from_one_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(NAMES[:5]))
    few = stems(read(coco(tmp_path, split=["few.txt", "80%"])))
    assert len(few) == 4 and set(few) < set(range(1, 6))
    catalog = voc(tmp_path, split=["all", "few.txt", "-20%"])
    assert set(stems(read(catalog))) == set(range(1, 6)) - set(few)  # png or jpg: the lists may name either


def test_copies_of_one_source_and_equal_pictures_stay_together(tmp_path: Path) -> None:
    names = [f"{i}_jpg.rf.{copy * 8}.png" for i in range(5) for copy in "ab"] + ["x.png", "y.png"]
    images = [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in enumerate(names, 1)]
    catalog = write_coco(tmp_path, [], [(40, 60)], images=images)
    for number, name in enumerate(names):
        save_image(tmp_path / "images" / name, pixels(40, 60, min(number, 10)))  # the last two are equal
    for low in range(0, 100, 10):
        chosen = {Path(r["file_name"]).name for r in read(changed(catalog, {"split": f"{low}%-100%"}))}
        assert all((names[i] in chosen) == (names[i + 1] in chosen) for i in range(0, 12, 2)), low


@pytest.mark.parametrize(
    "text",
    [
        "3.png\n10.png\n1.png\n",
        "3\n10\n1\n",
        "images/3.png\r\n\r\nimages\\10.png\r\n./images/1.png",
        "\ufeff# of a program\n/content/data/images/3.jpg\n10.JPG\nC:\\x\\1.png",
        "3 1\n10 -1\n1  0\n",
        "{here}/images/3.png\n{here}/images/10.png\n{here}/images/1.png",
    ],
)
def test_lists_name_pictures_as_they_like(tmp_path: Path, written: Any, text: str) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "val.txt").write_text(text.replace("{here}", str(tmp_path)))
    assert stems(read(written(tmp_path, split="lists/val.txt"))) == [3, 10, 1]


def test_lists_are_relative_to_the_catalog_or_the_moved_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = coco(tmp_path / "set", split="val.txt")
    (tmp_path / "set" / "val.txt").write_text("2.png")
    assert stems(read(catalog)) == [2]
    (tmp_path / "set" / "val.txt").write_text("3.png\n4.png")  # another list is not read from the cache
    assert stems(read(catalog)) == [3, 4]
    monkeypatch.setenv("DETFRAME_DATASETS", str(tmp_path / "set"))
    moved = Path(catalog).rename(tmp_path / "catalog.yaml")
    assert stems(read(str(moved))) == [3, 4]


def test_of_equal_names_the_folder_decides(tmp_path: Path) -> None:
    names = ["a/1.png", "b/1.png", "2.png", "a/2.png"]
    images = [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in enumerate(names, 1)]
    catalog = changed(write_coco(tmp_path, [], images=images), {"split": "val.txt"})
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        save_image(tmp_path / "images" / name, pixels(40, 60))
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "val.txt").write_text("b/1.png\n2.png")
    assert read(catalog).image_ids.tolist() == [2, 3]
    (tmp_path / "val.txt").write_text("2.png\n1.png")
    with pytest.raises(ValueError, match=r"val\.txt, line 2: '1\.png' may be .*a/1\.png, .*b/1\.png; name the folder"):
        read(catalog)


def test_missing_pictures_are_those_of_the_share_or_list(tmp_path: Path) -> None:
    for split in ("80%", "-20%", "val.txt"):
        (tmp_path / "val.txt").write_text("3\n4\n5")
        catalog = voc(tmp_path, split=split)
        here = stems(read(catalog))
        (tmp_path / "JPEGImages" / "4.jpg").rename(tmp_path / "4.jpg")
        records = load_records(["mine"], catalog, on_missing="skip")
        assert stems(records) == [i for i in here if i != 4]
        assert list(records.missing) == (["4"] if 4 in here else [])
        assert sum(f.count for f in records.findings if f.code == "missing-image") == len(records.missing)
        (tmp_path / "4.jpg").rename(tmp_path / "JPEGImages" / "4.jpg")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("101%", "split 101% is no share: the numbers must rise from 0% to 100%, as in 80%-90%"),
        ("0%", "split 0% is no share"),
        ("-0%", "split -0% is no share"),
        ("90%-80%", "split 90%-80% is no share"),
        ("50%-50%", "split 50%-50% is no share"),
        ("-80%-90%", "split -80%-90% is no share"),
        ("81%-82%", "split 81%-82% of its 10 images holds none"),
        ("80", "split must be a share (80%, -20% for the last fifth, 80%-90%) or a list of images (val.txt), and "),
        (
            "eighty%",
            "split must be a share (80%, -20% for the last fifth, 80%-90%) or a list of images (val.txt), not",
        ),
        ("nan%", "split must be a share"),
        ("1e1%", "split must be a share"),
        ("none.txt", "there is no file "),
        ("images", "there is no file "),
        ("x" * 3000, "there is no file "),
        (
            {"a": 1},
            "split must be a share (80%, -20% for the last fifth, 80%-90%) or a list of images (val.txt), or s",
        ),
        ([["80%"]], "split must be a share"),
        ([80], "split must be a share"),
        ("empty.txt", "the list {here}/empty.txt of its 10 images holds none"),
        (
            "wrong.txt",
            "the list {here}/wrong.txt names 2 images that are not in its annotations: '11.png', 'b.png'; ",
        ),
        ("twice.txt", "{here}/twice.txt names 1 images twice: {here}/images/2.png in the lines 1 and 4"),
    ],
)
def test_slips_in_split(tmp_path: Path, split: Any, message: str) -> None:
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "wrong.txt").write_text("1.png\n11.png\nb.png")
    (tmp_path / "twice.txt").write_text("2.png\n1.png\n\nimages/2.png")
    catalog = coco(tmp_path, split=split)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(catalog)
    assert message.replace("{here}", str(tmp_path)) in str(caught.value)
    assert user_message(caught.value) is not None
    assert "mine" in str(caught.value) or str(tmp_path) in str(caught.value)


def test_names_that_a_format_knows_stay_its_own(tmp_path: Path) -> None:
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "one.txt").write_text("7\n")
    assert stems(read(voc(tmp_path, split="one"))) == [7]
    with pytest.raises(FileNotFoundError, match=r"ImageSets/Main/two\.txt does not exist; splits there: all, one"):
        read(voc(tmp_path, split="two"))
    with pytest.raises(ValueError, match="split names one and all, and takes one name at most"):
        read(voc(tmp_path, split=["one", "all", "80%"]))
    tree = {f"train/{i}.jpg": [sign("i2", (1, 1, 9, 9))] for i in range(5)} | {"test/9.jpg": []}
    signs = yaml.safe_load(Path(write_tt100k(tmp_path / "signs", tree, split=["train", "80%"])).read_text())
    records = load_records(["signs"], str(write_catalog(tmp_path / "signs", signs)))
    assert len(records) == 4 and all("/train/" in record["file_name"] for record in records)
