"""VIA: its versions and projects, shapes, and which attribute is the class."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.format_sets import (
    by_code,
    mask_areas,
    objects,
    read,
    read_parts,
    recognised,
    write_images,
    write_json,
)

Shapes = list[tuple[dict[str, Any], dict[str, Any]]]


def rect(x: float, y: float, width: float, height: float) -> dict[str, Any]:
    """The attributes of a box."""
    return {"name": "rect", "x": x, "y": y, "width": width, "height": height}


def polygon(*points: tuple[float, float]) -> dict[str, Any]:
    """The attributes of a polygon."""
    return {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


def via(images: dict[str, Shapes], version: int = 2) -> dict[str, Any]:
    """Annotations as a version writes them."""
    out: dict[str, Any] = {}
    for name, shapes in images.items():
        regions: Any = [{"shape_attributes": s, "region_attributes": a} for s, a in shapes]
        if version == 1:
            regions = {str(number): region for number, region in enumerate(regions)}
            fields = {"fileref": "", "size": 12, "filename": name, "base64_img_data": "", "file_attributes": {}}
            out[f"{name}12"] = {**fields, "regions": regions}
        else:
            out[f"{name}12"] = {"filename": name, "size": 12, "regions": regions, "file_attributes": {}}
    return out


def project(images: dict[str, Shapes], attributes: dict[str, Any]) -> dict[str, Any]:
    """A project of version 2."""
    settings = {"ui": {"annotation_editor_height": 25}, "core": {"filepath": {}}, "project": {"name": "mine"}}
    metadata = via(images)
    declared = {"region": attributes, "file": {}}
    return {
        "_via_settings": settings,
        "_via_img_metadata": metadata,
        "_via_attributes": declared,
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(metadata),
    }


CAT, DOG = {"kind": "cat"}, {"kind": "dog"}
TWO: dict[str, Shapes] = {
    "a.png": [(rect(1, 2, 4, 6), CAT), (polygon((10, 10), (20, 10), (20, 30)), DOG)],
    "b.png": [],
}
READ = {"a.png": [("cat", [1, 2, 5, 8]), ("dog", [10, 10, 20, 30])], "b.png": []}


@pytest.mark.parametrize("version", [1, 2, "project", "csv", "old csv"])
def test_versions(tmp_path: Path, version: Any) -> None:
    write_images(tmp_path, "a.png", "b.png")
    if version == "project":
        write_json(tmp_path / "via_project.json", project(TWO, {"kind": {"type": "text"}}))
    elif "csv" in str(version):
        write_csv(tmp_path / "via_export.csv", TWO, "#" if "old" in version else "")
    else:
        write_json(tmp_path / "via_region_data.json", via(TWO, version))
    (packed,) = read_parts("via", tmp_path).values()
    assert objects(packed) == READ and packed.metadata.class_names == ("cat", "dog")
    assert list(by_code(packed)) == ["object-without-mask"]
    assert mask_areas(packed)[1] > 80
    assert packed.arrays["sizes_hw"].tolist() == [[40, 60], [40, 60]]


def write_csv(path: Path, images: dict[str, Shapes], start: str) -> None:
    """A CSV export."""
    columns = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    with path.open("w", newline="") as file:
        file.write(f"{start}{columns}\n")
        rows = csv.writer(file)
        for name, shapes in images.items():
            for number, (shape, attributes) in enumerate(shapes or [({}, {})]):
                rows.writerow([name, 12, "{}", len(shapes), number, json.dumps(shape), json.dumps(attributes)])


def test_a_table_of_via_is_no_table_of_boxes(tmp_path: Path) -> None:
    write_csv(tmp_path / "via_export.csv", TWO, "")
    assert recognised("csv", tmp_path / "via_export.csv") is None and recognised("csv", tmp_path) is None


def test_shapes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    quarter = 1.5707963267948966
    shapes: Shapes = [
        ({"name": "circle", "cx": 30, "cy": 20, "r": 5.5}, CAT),
        ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 4}, CAT),
        ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 10, "ry": 4, "theta": quarter}, CAT),
        ({"name": "point", "cx": 3, "cy": 3}, {}),
        ({"name": "polyline", "all_points_x": [1, 2], "all_points_y": [3, 4]}, {}),
        ({"name": "cube"}, {}),
        (polygon((1, 1), (2, 2)), CAT),
    ]
    packed = read("via", tmp_path, write_json(tmp_path / "via.json", via({"a.png": shapes})))
    assert objects(packed)["a.png"] == [
        ("cat", [24.5, 14.5, 35.5, 25.5]),
        ("cat", [20, 16, 40, 24]),
        ("cat", [26, 10, 34, 30]),
    ]
    counts = {code: finding.count for code, finding in by_code(packed).items()}
    assert counts == {"shape-without-box": 2, "unknown-shape": 1, "polygon-of-few-points": 1}


def test_names_of_choices(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    attributes = {
        "animal": {"type": "dropdown", "options": {"1": "cat", "2": "dog", "3": "", "4": "cow"}},
        "note": {"type": "text"},
    }
    shapes: Shapes = [
        (rect(1, 1, 5, 5), {"animal": "2", "note": "x"}),
        (rect(11, 1, 5, 5), {"animal": "1", "note": ""}),
        (rect(21, 1, 5, 5), {"animal": "3"}),
    ]
    path = write_json(tmp_path / "via.json", project({"a.png": shapes}, attributes))
    packed = read("via", tmp_path, path)
    assert [name for name, _ in objects(packed)["a.png"]] == ["dog", "cat", "3"]
    assert packed.metadata.class_names == ("cat", "dog", "3", "cow")  # as the project lists them


def test_checkboxes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    shapes: Shapes = [
        (rect(1, 1, 5, 5), {"kind": {"cat": True}}),
        (rect(11, 1, 5, 5), {"kind": {"dog": True, "cat": False}}),
        (rect(21, 1, 5, 5), {"kind": {"dog": True, "cat": True}}),
        (rect(31, 1, 5, 5), {"kind": {}}),
    ]
    packed = read("via", tmp_path, write_json(tmp_path / "via.json", via({"a.png": shapes})))
    assert [name for name, _ in objects(packed)["a.png"]] == ["cat", "dog", "dog"]
    found = by_code(packed)
    assert found["object-of-several-classes"].count == 1 and found["object-without-class"].count == 1


# -------------------------------------------------------------------------------- the class
def of_attributes(tmp_path: Path, *attributes: dict[str, Any], **options: Any) -> Any:
    """A set with a region for each."""
    write_images(tmp_path, "a.png")
    shapes: Shapes = [(rect(2 * number, 1, 5, 5), each) for number, each in enumerate(attributes)]
    return read("via", tmp_path, write_json(tmp_path / "via.json", via({"a.png": shapes})), **options)


def classes(packed: Any) -> list[str]:
    """The class of each region."""
    return [name for name, _ in objects(packed)["a.png"]]


def test_the_attribute_that_all_regions_have(tmp_path: Path) -> None:
    packed = of_attributes(tmp_path, {"hidden": "no", "x": "cat"}, {"x": "dog"}, {"hidden": "", "x": "cat"})
    assert classes(packed) == ["cat", "dog", "cat"] and not packed.findings


def test_of_several_attributes_the_one_called_as_a_class(tmp_path: Path) -> None:
    values = [{"colour": "red", "label": "cat"}, {"colour": "red", "label": "dog"}, {"colour": "blue", "label": "cat"}]
    packed = of_attributes(tmp_path, *values)
    assert classes(packed) == ["cat", "dog", "cat"]
    assert (
        "the class of a region is its attribute 'label'; colour might be meant too"
        in by_code(packed)["class-attribute"].text
    )
    assert classes(of_attributes(tmp_path, *values, attribute="colour")) == ["red", "red", "blue"]
    with pytest.raises(ValueError, match=r"no region has the attribute 'labels'; did you mean 'label'"):
        of_attributes(tmp_path, *values, attribute="labels")


def test_an_attribute_that_numbers_the_regions_is_no_class(tmp_path: Path) -> None:
    packed = of_attributes(tmp_path, *({"number": str(i), "what": "ab"[i % 2]} for i in range(26)))
    assert packed.metadata.class_names == ("a", "b") and not packed.findings


def test_regions_without_a_class(tmp_path: Path) -> None:
    packed = of_attributes(tmp_path, CAT, {}, {"kind": " "})
    assert classes(packed) == ["cat"] * 3
    found = by_code(packed)["region-of-the-only-class"]
    assert (found.count, found.severity) == (2, "note")
    packed = of_attributes(tmp_path, CAT, DOG, {}, {"kind": ""})
    assert classes(packed) == ["cat", "dog"]
    found = by_code(packed)["object-without-class"]
    assert (found.count, found.severity) == (2, "error") and "unnamed: NAME" in found.remedy
    packed = of_attributes(tmp_path, CAT, DOG, {}, unnamed="dog")
    assert classes(packed) == ["cat", "dog", "dog"]
    assert classes(of_attributes(tmp_path, {}, {})) == ["object", "object"]


def test_a_split_without_classes_has_those_of_the_whole_set(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "a.png")
    write_images(tmp_path / "val", "b.png")
    both = {"insecto": "bug", "insect": "bug"}
    write_json(tmp_path / "train/via_region_data.json", via({"a.png": [(rect(1, 1, 5, 5), both)]}))
    write_json(tmp_path / "val/via_region_data.json", via({"b.png": [(rect(1, 1, 5, 5), {})]}))
    found = recognised("via", tmp_path)
    assert found is not None and found.notes == ()
    assert "2 of them in 2 images" in found.reason
    parts = read_parts("via", tmp_path)
    assert {split: part.metadata.class_names for split, part in parts.items()} == {"train": ("bug",), "val": ("bug",)}
    assert objects(parts["val"]) == {"b.png": [("bug", [1, 1, 6, 6])]}


def test_real_polygons(shared: Path) -> None:
    folder = shared / "data/exports/kudzu_bugs_via"
    parts = read_parts("via", folder)
    assert {split: (len(part), len(part.arrays["labels"])) for split, part in parts.items()} == {
        "train": (24, 520),
        "val": (16, 349),
    }
    assert all(part.metadata.class_names == ("kudzu",) for part in parts.values())
    path = folder / "train/via_region_data.json"
    assert read("via", path.parent, path, attribute="insect").metadata.class_names == ("kudzu",)


# -------------------------------------------------------------------------------- files and images
def test_several_files_in_one_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    one: Shapes = [(rect(1, 2, 4, 6), CAT)]
    write_json(tmp_path / "one.json", via({"a.png": one}))
    write_json(tmp_path / "two.json", via({"b.png": [(rect(3, 3, 4, 4), DOG)]}))
    (packed,) = read_parts("via", tmp_path).values()
    assert objects(packed) == {"a.png": [("cat", [1, 2, 5, 8])], "b.png": [("dog", [3, 3, 7, 7])]}
    write_json(tmp_path / "two.json", project({"a.png": [*one, (rect(3, 3, 4, 4), DOG)]}, {}))
    (packed,) = read_parts("via", tmp_path).values()
    assert objects(packed) == {"a.png": [("cat", [1, 2, 5, 8]), ("dog", [3, 3, 7, 7])]}
    assert by_code(packed)["image-in-several-files"].count == 1


def test_splits_are_files_or_folders(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.png", "b.png")
    write_json(tmp_path / "via_train.json", via({"a.png": []}))
    write_json(tmp_path / "via_val.json", via({"b.png": []}))
    parts = read_parts("via", tmp_path)
    assert {split: list(objects(part)) for split, part in parts.items()} == {"train": ["a.png"], "val": ["b.png"]}
    write_json(tmp_path / "other.json", via({"b.png": []}))
    found = recognised("via", tmp_path)
    assert found is not None and found.notes == ("other.json is of no split by name, and left out",)
    whole = read("via", tmp_path / "images", tmp_path, split="valid")
    assert list(objects(whole)) == ["b.png"]
    with pytest.raises(ValueError, match=r"no via file in .* is of the split 'test'; splits there.*: train, val"):
        read("via", tmp_path / "images", tmp_path, split="test")


def test_images_by_address_and_missing_ones(tmp_path: Path) -> None:
    write_images(tmp_path, "my cat.png", "b.png")
    shapes: Shapes = [(rect(1, 2, 4, 6), CAT)]
    names = ("https://example.com/data/my%20cat.png?raw=1", "C:\\pictures\\b.png", "c.png")
    path = write_json(tmp_path / "via.json", via(dict.fromkeys(names, shapes)))
    packed = read("via", tmp_path, path)
    assert set(objects(packed)) == {"my cat.png", "b.png"} and packed.missing == ("c.png",)
    assert len(set(packed.arrays["image_ids"].tolist())) == 2


def test_what_is_no_via(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    path = write_json(tmp_path / "x.json", {"images": [{"file_name": "a.png"}], "annotations": [], "categories": []})
    assert recognised("via", tmp_path) is None
    with pytest.raises(ValueError, match=r"x\.json: image 'images' must be an object, not \["):
        read("via", tmp_path, path)
    write_json(path, {"project": {}, "config": {}, "metadata": {}, "view": {}})
    with pytest.raises(ValueError, match=r"x\.json is a project of VIA 3, which is not read"):
        read("via", tmp_path, path)
    with pytest.raises(FileNotFoundError, match=r"no \.json or \.csv file in or below .* is of the format via"):
        read("via", tmp_path, tmp_path)


def test_wrong_values_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    cases: list[tuple[dict[str, Any], str]] = [
        ({**rect(1, 2, 3, 4), "x": "one"}, r"region 0 of image 'a\.png12': 'x' must be a number"),
        ({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1]}, "lists of the same length"),
    ]
    for shape, message in cases:
        path = write_json(tmp_path / "via.json", via({"a.png": [(shape, CAT)]}))
        with pytest.raises(ValueError, match=message):
            read("via", tmp_path, path)
