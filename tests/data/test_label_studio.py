"""Label Studio: both exports, shapes in percentages, brush strokes, annotators, and where images lie."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detframe.data.formats.label_studio_regions import decode_brush
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

SIZE = {"original_width": 60, "original_height": 40, "image_rotation": 0}


def result(kind: str, name: str, number: str = "r", to: str = "image", **value: Any) -> dict[str, Any]:
    """One result; `kind` is that of its labels."""
    labels = {kind: [name]} if name else {}
    return {"id": number, "type": kind, "from_name": "label", "to_name": to, **SIZE, "value": {**value, **labels}}


def box(name: str, x: float, y: float, width: float, height: float, rotation: float = 0, **more: Any) -> dict[str, Any]:
    """A rectangle in percent."""
    corners = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return result("rectanglelabels", name, f"{x}-{y}", **corners, **more)


def task(number: int, image: Any, results: list[dict[str, Any]] | None, **more: Any) -> dict[str, Any]:
    """One task of the full export."""
    annotations = [] if results is None else [annotation(results)]
    data = image if isinstance(image, dict) else {"image": image}
    return {"id": number, "annotations": annotations, "drafts": [], "predictions": [], "data": data, **more}


def annotation(results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One annotation of a task."""
    return {"id": 5, "completed_by": 1, "result": results, "was_cancelled": False, "ground_truth": False, **more}


CAT = box("cat", 10, 25, 50, 50)
READ = [("cat", [6, 10, 36, 30])]


def read_tasks(folder: Path, *tasks: dict[str, Any], **options: Any) -> Any:
    """Tasks in a file beside the images."""
    return read("label_studio", folder, write_json(folder / "project-1.json", list(tasks)), **options)


def test_shapes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    results = [
        CAT,
        box("dog", 50, 50, 20, 10, 90),
        result("polygonlabels", "cat", "p", points=[[10, 10], [50, 10], [50, 50]], closed=True),
        result("ellipselabels", "cat", "e", x=50, y=50, radiusX=10, radiusY=5, rotation=0),
        result("ellipselabels", "cat", "f", x=50, y=50, radiusX=10, radiusY=5, rotation=90),
        result("keypointlabels", "nose", "k", x=50, y=50, width=0.4),
        result("videorectangle", "", "v", sequence=[{"frame": 1}]),
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {"id": "c", "type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["day"]}},
    ]
    packed = read_tasks(tmp_path, task(8, "/data/upload/1/0123abcd-a.png", results))
    assert objects(packed)["a.png"] == [
        ("cat", [6, 10, 36, 30]),
        ("dog", [26, 20, 30, 32]),
        ("cat", [6, 4, 30, 20]),
        ("cat", [24, 18, 36, 22]),
        ("cat", [28, 14, 32, 26]),
    ]
    assert packed.metadata.class_names == ("cat", "dog", "nose") and packed.arrays["image_ids"].tolist() == [8]
    assert mask_areas(packed)[2] > 150
    counts = {code: finding.count for code, finding in by_code(packed).items()}
    assert counts["turned-box"] == counts["shape-without-box"] == counts["unknown-shape"] == 1


def test_the_least_export(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    region = {**{k: v for k, v in CAT["value"].items()}, **SIZE}
    rows = [
        {"image": "/data/upload/1/0123abcd-a.png", "id": 1, "label": [region], "annotator": 1, "annotation_id": 7},
        {"image": "/data/upload/1/0123abcd-b.png", "id": 2, "annotator": 1, "annotation_id": 8, "created_at": "2024"},
        {"image": "/data/upload/1/0123abcd-a.png", "id": 1, "label": [], "annotator": 2, "annotation_id": 9},
        {"image": "c.png", "id": 3, "choice": "day", "annotator": 2, "annotation_id": 10},
    ]
    write_json(tmp_path / "min.json", rows)
    (packed,) = read_parts("label_studio", tmp_path).values()
    assert objects(packed) == {"a.png": READ, "b.png": [], "c.png": []}
    assert by_code(packed)["task-annotated-twice"].count == 1


def test_annotators(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{name}.png" for name in "abcde"))
    other = [box("dog", 0, 0, 10, 10)]
    several = [annotation(other, was_cancelled=True), annotation([CAT]), annotation(other)]
    packed = read_tasks(
        tmp_path,
        task(1, "a.png", None, annotations=several),
        task(2, "b.png", []),
        task(3, "c.png", None, predictions=[{"result": other}]),
        task(4, "d.png", None, annotations=[annotation(other, was_cancelled=True)]),
        {"id": 5, "completions": [annotation([CAT])], "data": {"image": "e.png"}},
    )
    assert objects(packed) == {"a.png": READ, "b.png": [], "e.png": READ}
    assert packed.metadata.class_names == ("cat",)
    assert by_code(packed)["task-annotated-twice"].examples == ("task 1",)
    found = by_code(packed)["image-not-labelled"]
    assert found.count == 2 and found.examples == ("task 3", "task 4")


@pytest.mark.parametrize(
    "reference",
    [
        "/data/upload/1/0123abcd-my cat.png",
        "/data/upload/1/0123ABCD-my%20cat.png",
        "/data/local-files/?d=some/folder/my%20cat.png",
        "s3://bucket/some/folder/my cat.png",
        "https://example.com/x/my%20cat.png?token=a/b.jpg",
        "my cat.png",
        "C:\\pictures\\my cat.png",
    ],
)
def test_where_images_lie(tmp_path: Path, reference: str) -> None:
    names = ["my cat.png", *(["0123abcd-my cat.png"] if "upload" in reference else [])]
    for name in names:  # uploads have eight digits before the name, and lose them where they are downloaded by hand
        folder = tmp_path / name[:2]
        write_images(folder / "pictures", name, "other.png")
        write_json(folder / "export.json", [task(1, reference, [CAT])])
        (packed,) = read_parts("label_studio", folder).values()
        assert objects(packed) == {name: READ} and not [f for f in packed.findings if f.severity != "note"]


def test_folders_tell_images_of_one_name_apart(tmp_path: Path) -> None:
    write_images(tmp_path, "x/a.png", "y/a.png")
    packed = read_tasks(
        tmp_path,
        task(1, "/data/local-files/?d=data/y/a.png", [CAT]),
        task(2, "s3://bucket/x/a.png", []),
        task(3, "/data/upload/1/0123abcd-c.png", []),
    )
    assert [Path(packed.file_name(i)).parent.name for i in range(2)] == ["y", "x"]
    assert packed.missing == ("0123abcd-c.png",)


def test_labels_apart_from_shapes(tmp_path: Path) -> None:
    """<Rectangle> beside <Labels>, or beside choices for each region."""
    write_images(tmp_path, "a.png")
    place = {"x": 10, "y": 25, "width": 50, "height": 50, "rotation": 0}
    packed = read_tasks(
        tmp_path,
        task(
            1,
            "a.png",
            [
                result("rectangle", "", "1", **place),
                {**result("labels", "cat", "1", **place), "from_name": "labels"},
                result("rectangle", "", "2", **{**place, "width": 20}),
                {**result("choices", "dog", "2", **{**place, "width": 20})},
                result("rectangle", "", "3", **place),
                {**box("cat", 0, 0, 10, 10), "value": {**place, "rectanglelabels": ["cow", "cat"]}},
            ],
        ),
    )
    assert [name for name, _ in objects(packed)["a.png"]] == ["cat", "dog", "cow"]
    counts = {code: finding.count for code, finding in by_code(packed).items()}
    assert counts == {"object-without-class": 1, "object-of-several-classes": 1}


def test_several_images_of_a_task(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{name}.png" for name in "abcd"))
    two = {"image1": "a.png", "image2": "b.png", "text": "words"}
    pages = {"pages": ["c.png", "d.png"]}
    packed = read_tasks(
        tmp_path,
        task(1, two, [{**CAT, "to_name": "image2"}]),
        task(2, pages, [{**CAT, "to_name": "image1", "item_index": 1}]),
    )
    assert objects(packed) == {"a.png": [], "b.png": READ, "c.png": [], "d.png": READ}
    assert packed.arrays["image_ids"].tolist() == [1, 2, 3, 4]
    by_order = [{**CAT, "to_name": "right"}, {**box("dog", 0, 0, 10, 10), "to_name": "left"}]
    packed = read_tasks(tmp_path, task(1, two, by_order))
    assert objects(packed) == {"a.png": [("dog", [0, 0, 6, 4])], "b.png": READ}
    with pytest.raises(ValueError, match=r"task 1: a result is of 'x', and the data has the images image1, image2"):
        read_tasks(tmp_path, task(1, two, [{**CAT, "to_name": "x"}]))
    packed = read_tasks(tmp_path, task(1, {"text": "words"}, [CAT]), task(2, "a.png", []))
    assert objects(packed) == {"a.png": []} and by_code(packed)["task-without-image"].count == 1


def test_splits_are_files(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.png", "b.png")
    write_json(tmp_path / "train.json", [task(1, "a.png", [CAT])])
    write_json(tmp_path / "valid.json", [task(2, "b.png", [])])
    parts = read_parts("label_studio", tmp_path)
    assert {split: objects(part) for split, part in parts.items()} == {"train": {"a.png": READ}, "val": {"b.png": []}}


def test_what_is_no_label_studio(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}])
    assert recognised("label_studio", tmp_path) is None
    write_json(path, {"images": [], "annotations": [{"id": 1}], "categories": []})
    assert recognised("label_studio", tmp_path) is None
    with pytest.raises(ValueError, match=r"x\.json is no file of Label Studio: it needs a list of tasks"):
        read("label_studio", tmp_path, path)


# -------------------------------------------------------------------------------- brush strokes
class Writer:
    """Bits, the highest first."""

    def __init__(self) -> None:
        self.bits = ""

    def put(self, value: int, count: int) -> None:
        self.bits += f"{value:0{count}b}"

    def codes(self) -> list[int]:
        padded = self.bits + "0" * (-len(self.bits) % 8)
        return [int(padded[at : at + 8], 2) for at in range(0, len(padded), 8)]


def brush(mask: np.ndarray, literal_from: int = 3) -> list[int]:
    """The code of a mask: runs of one value, and short ones value by value."""
    values = np.repeat((mask * 255).astype(np.uint8).reshape(-1, 1), 4, axis=1).reshape(-1)
    out, lengths = Writer(), (4, 8, 12, 16)
    out.put(len(values), 32)
    out.put(7, 5)
    for length in lengths:
        out.put(length - 1, 4)
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in itertools.pairwise(edges):
        for at in range(start, end, 2**16):
            count = min(end - at, 2**16)
            choice = next(i for i, length in enumerate(lengths) if count <= 2**length)
            out.put(int(count > literal_from), 1)
            out.put(choice, 2)
            out.put(count - 1, lengths[choice])
            for value in values[at : at + (1 if count > literal_from else count)]:
                out.put(int(value), 8)
    return out.codes()


@pytest.mark.parametrize("literal_from", [3, 100])
def test_brush_strokes(tmp_path: Path, literal_from: int) -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:21, 5:30] = np.random.default_rng(0).random((11, 25)) > 0.5
    mask[10, 5] = mask[20, 29] = True
    code = brush(mask, literal_from)
    assert (decode_brush(code, (40, 60)) == mask).all()
    write_images(tmp_path, "a.png")
    empty = result("brushlabels", "cat", "e", format="rle", rle=brush(mask & False))
    packed = read_tasks(tmp_path, task(1, "a.png", [result("brushlabels", "cat", "b", format="rle", rle=code), empty]))
    assert objects(packed)["a.png"] == [("cat", [5, 10, 30, 21])] and mask_areas(packed) == [mask.sum()]
    assert by_code(packed)["mask-without-pixel"].count == 1
    for wrong, words in (
        (code[:-3], "'rle' ends too early"),
        (brush(mask[:20]), r"'rle' holds 4800 values of 8 bits; an image of 60x40 pixels has 9600"),
        ("@abc", "'rle' must be a list of whole numbers"),
    ):
        with pytest.raises(ValueError, match=f"result 1 of task 1: {words}"):
            read_tasks(tmp_path, task(1, "a.png", [result("brushlabels", "cat", "b", format="rle", rle=wrong)]))
