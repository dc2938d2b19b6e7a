"""The catalog: where names lead, and what is said when they lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detframe import registry
from detframe.data import CatalogEntry, Metadata, PackedDataset, RecordBuilder, load_records, read_catalogs
from tests.data.sets import annotation, coco_records, write_catalog, write_coco


def test_shipped_catalog_is_complete(root: Path) -> None:
    entries = read_catalogs()
    assert {"shapes_train", "shapes_val", "coco_2017_train", "voc_2007_test", "bccd_trainval", "bccd_test"} <= set(
        entries
    )
    assert entries["shapes_val"].annotations == root / "datasets/shapes/annotations/val.json"
    assert entries["voc_2012_val"].options["split"] == "val"
    assert len(entries["voc_2012_val"].options["classes"]) == 20


def test_the_environment_moves_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_catalog(tmp_path, {"x": {"format": "coco", "images": "i", "annotations": str(tmp_path / "a.json")}})
    assert read_catalogs(str(own))["x"].images == tmp_path / "i"
    monkeypatch.setenv("DETFRAME_DATASETS", "/elsewhere")
    entries = read_catalogs(str(own))
    assert entries["x"].images == Path("/elsewhere/i")
    assert entries["x"].annotations == tmp_path / "a.json"  # absolute
    assert entries["bccd_test"].images == Path("/elsewhere/bccd/JPEGImages")


def test_own_entries_come_first(tmp_path: Path) -> None:
    own = write_catalog(tmp_path, {"shapes_val": {"format": "coco", "images": "/i", "annotations": "/a.json"}})
    assert read_catalogs(str(own))["shapes_val"].catalog == own
    assert read_catalogs(str(own))["shapes_train"].catalog != own


def test_unknown_name(tmp_path: Path) -> None:
    own = write_coco(tmp_path, [])
    with pytest.raises(KeyError, match="no data set is called 'shape_train'; did you mean 'shapes_train'") as caught:
        load_records(["shape_train"], str(own))
    assert str(own) in str(caught.value)
    assert "datasets/catalog.yaml" in str(caught.value)
    assert "that DATASETS.CATALOG names (docs/own_data.md)" in str(caught.value)
    with pytest.raises(ValueError, match="no data set is named"):
        load_records([])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"format": "coco", "images": "i", "annotations": "a", "splt": "x"}, "unknown field 'splt' .format coco."),
        (
            {"format": "voc", "images": "i", "annotations": "a", "splt": "x"},
            "unknown field 'splt'.* did you mean 'split'",
        ),
        ({"format": "coco", "image": "i"}, "lacks images and annotations; it has format, image"),
        ("coco", "must have fields"),
    ],
)
def test_bad_entries(tmp_path: Path, entry: object, message: str) -> None:
    own = write_catalog(tmp_path, {"x": entry})
    with pytest.raises(ValueError, match=message) as caught:
        load_records(["x"], str(own))
    assert f"entry 'x' of {own}" in str(caught.value)


def test_bad_catalog_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"DATASETS.CATALOG names .*none\.yaml, which does not exist"):
        read_catalogs(str(tmp_path / "none.yaml"))
    path = tmp_path / "catalog.yaml"
    path.write_text("a: {b: [\n")
    with pytest.raises(ValueError, match=r"malformed YAML in the catalog .*catalog\.yaml"):
        read_catalogs(str(path))
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="must map names to entries, not be list"):
        read_catalogs(str(path))


def test_unknown_format(tmp_path: Path) -> None:
    own = write_coco(tmp_path, [])
    entries = yaml.safe_load(own.read_text())
    entries["mine"]["format"] = "cocco"
    own.write_text(yaml.safe_dump(entries))
    with pytest.raises(KeyError, match=r"DATASET_FORMATS has no 'cocco'.*did you mean 'coco'"):
        load_records(["mine"], str(own))


def test_missing_files_name_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write_coco(tmp_path, [])
    (tmp_path / "data.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"data set 'mine': the annotations .*data\.json does not exist.*is not set"
    ):
        load_records(["mine"], str(own))
    monkeypatch.setenv("DETFRAME_DATASETS", "/elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"the image folder /elsewhere/images does not exist.*DETFRAME_DATASETS is /elsewhere"
    ):
        load_records(["mine"], str(own))
    with pytest.raises(FileNotFoundError, match=r"make_shapes\.py` makes it"):
        load_records(["shapes_train"])


def test_a_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.DATASET_FORMATS, "_members", dict(registry.DATASET_FORMATS))

    def read_lines(entry: CatalogEntry, *, label: int = 1) -> PackedDataset:
        builder = RecordBuilder(Metadata(entry.name, ("a", "b"), (1, 2)))
        for number, line in enumerate(entry.annotations.read_text().splitlines(), 1):
            builder.add_image(entry.images / "x.png", number, (50, 50))
            builder.add_object([float(word) for word in line.split()], label)
        return builder.build()

    registry.DATASET_FORMATS.register("lines", read_lines)
    (tmp_path / "lines.txt").write_text("1 2 3 4\n5 6 7 8\n")
    own = write_catalog(tmp_path, {"x": {"format": "lines", "images": ".", "annotations": "lines.txt", "label": 2}})
    records = load_records(["x"], str(own))
    assert [r["boxes"].tolist() for r in records] == [[[1, 2, 3, 4]], [[5, 6, 7, 8]]]
    assert records.class_counts().tolist() == [0, 2]


def test_empty_images_can_be_dropped(tmp_path: Path) -> None:
    rows = [annotation(1, 2, [0, 0, 5, 5]), annotation(2, 3, [0, 0, 5, 5], iscrowd=1)]
    assert len(coco_records(tmp_path, rows, [(40, 60)] * 3)) == 3
    kept = coco_records(tmp_path, rows, [(40, 60)] * 3)
    dropped = load_records(["mine"], str(tmp_path / "catalog.yaml"), keep_empty=False)
    assert dropped.image_ids.tolist() == [2]
    assert kept.num_objects.tolist() == [0, 1, 0]
    write_coco(tmp_path, [])
    with pytest.raises(ValueError, match="mine have no image with objects"):
        load_records(["mine"], str(tmp_path / "catalog.yaml"), keep_empty=False)
