"""CVAT's XML: images and tracks, shapes, the order of classes, subsets, and where images lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.format_sets import by_code, mask_areas, objects, read, read_parts, recognised, write_images

LABELS = ("dog", "cat")


def xml(body: str, labels: str = "", more: str = "") -> str:
    """A file with two labels in their order."""
    own = "".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in LABELS)
    meta = f"<meta><task><id>1</id>{more}<labels>{own}{labels}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>{meta}{body}</annotations>'


def image(name: str, body: str = "", number: int = 0, more: str = "") -> str:
    """One image of 60 x 40 pixels."""
    return f'<image id="{number}" name="{name}" width="60" height="40" {more}>{body}</image>'


def box(label: str, x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    """One box."""
    return f'<box label="{label}" occluded="0" source="manual" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" {more}/>'


def write(path: Path, text: str) -> Path:
    """A file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_shapes(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.png")
    body = (
        box("cat", 1, 2, 5, 8, 'occluded="1"'.replace("occluded", "z_order"))
        + box("dog", 20, 10, 40, 14, 'rotation="90.00"')
        + '<polygon label="cat" points="10,10;20,10;20.5,30" z_order="0"><attribute name="a">b</attribute></polygon>'
        + '<ellipse label="cat" cx="30" cy="20" rx="10" ry="4"/>'
        + '<ellipse label="cat" cx="30" cy="20" rx="10" ry="4" rotation="90"/>'
        + '<mask label="dog" rle="1, 2, 1, 2, 2" left="10" top="20" width="4" height="2"/>'
        + '<polyline label="cat" points="1,1;2,2"/><points label="cat" points="1,1"/><tag label="cat"/>'
        + '<skeleton label="cat"><points label="1" points="1,1"/></skeleton><sphere label="cat"/>'
    )
    packed = read("cvat", tmp_path / "images", write(tmp_path / "annotations.xml", xml(image("a.png", body))))
    assert objects(packed)["a.png"] == [
        ("cat", [1, 2, 5, 8]),
        ("dog", [28, 2, 32, 22]),
        ("cat", [10, 10, 20.5, 30]),
        ("cat", [20, 16, 40, 24]),
        ("cat", [26, 10, 34, 30]),
        ("dog", [10, 20, 13, 22]),
    ]
    assert packed.metadata.class_names == LABELS  # as the task has them
    assert mask_areas(packed)[-1] == 4
    counts = {code: finding.count for code, finding in by_code(packed).items()}
    assert counts["turned-box"] == 1 and counts["shape-without-box"] == 3 and counts["unknown-shape"] == 1


def test_pixels_of_a_mask(tmp_path: Path) -> None:
    from detframe.data import join
    from detframe.structures import LazyMasks

    write_images(tmp_path, "a.png")
    body = '<mask label="dog" rle="1, 2, 1, 2, 2" left="10" top="20" width="4" height="2"/>'
    packed = read("cvat", tmp_path, write(tmp_path / "a.xml", xml(image("a.png", body))))
    (record,) = join([packed])
    expected = np.zeros((40, 60), dtype=bool)
    expected[20, 11:13] = expected[21, 10:12] = True
    drawn = LazyMasks(record["segmentations"], (40, 60)).decode()[0].numpy()
    assert (drawn == expected).all()
    text = xml(image("a.png", body.replace("1, 2, 1, 2, 2", "1, 2, 1")))
    with pytest.raises(
        ValueError, match=r"mask 1 of image 0: the run lengths of 'rle' sum up to 4, and the mask has 4 x 2"
    ):
        read("cvat", tmp_path, write(tmp_path / "a.xml", text))


def test_labels(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    more = "<label><name>day</name><type>tag</type></label><label><name>cow</name><type>any</type></label>"
    body = box("zebra", 1, 2, 5, 8) + box("ape", 1, 2, 5, 8) + box("cat", 1, 2, 5, 9)
    packed = read("cvat", tmp_path, write(tmp_path / "a.xml", xml(image("a.png", body), more)))
    assert packed.metadata.class_names == ("dog", "cat", "cow", "ape", "zebra")
    text = xml(image("a.png", body)).replace("task>", "project>")
    assert read("cvat", tmp_path, write(tmp_path / "a.xml", text)).metadata.class_names[:2] == LABELS
    text = f"<annotations>{image('a.png', body)}</annotations>"
    assert read("cvat", tmp_path, write(tmp_path / "a.xml", text)).metadata.class_names == ("ape", "cat", "zebra")


def test_images_by_id_with_folders_and_missing_ones(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "x/a.png", "y/a.png", "b.png")
    body = (
        image("y\\a.png", box("cat", 1, 2, 5, 8), 7)
        + image("x/a.png", "", 9)
        + image("deep/b.png", "", 3)
        + image("c.png", box("cat", 1, 2, 5, 8), 4)
    )
    write(tmp_path / "annotations.xml", xml(body))
    (packed,) = read_parts("cvat", tmp_path).values()
    assert packed.arrays["image_ids"].tolist() == [7, 9, 3] and packed.missing == ("c.png",)
    assert [Path(packed.file_name(i)).parent.name for i in range(3)] == ["y", "x", "images"]
    assert len(packed.arrays["labels"]) == 1


@pytest.mark.parametrize("subsets", [("Train", "Validation", "Test"), ("train", "val", "default")])
def test_subsets_are_splits(tmp_path: Path, subsets: tuple[str, ...]) -> None:
    write_images(tmp_path / "images", "a.png", "b.png", "c.png")
    named = zip("abc", subsets, strict=True)
    body = "".join(image(f"{n}.png", "", i, f'subset="{s}"') for i, (n, s) in enumerate(named))
    path = write(tmp_path / "annotations.xml", xml(body))
    parts = read_parts("cvat", tmp_path)
    expected = {"train": ["a.png"], "val": ["b.png"], **({"test": ["c.png"]} if "Test" in subsets else {})}
    assert {split: list(objects(part)) for split, part in parts.items()} == expected
    with pytest.raises(
        ValueError, match=r"no image of .*annotations\.xml is of the split 'trian'; did you mean '[tT]rain'"
    ):
        read("cvat", tmp_path / "images", path, split="trian")
    assert len(read("cvat", tmp_path / "images", path)) == 3


def test_files_and_folders_of_splits(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        write_images(tmp_path / split / "images", f"{name}.png")
        write(tmp_path / split / "annotations.xml", xml(image(f"{name}.png", box("cat", 1, 2, 5, 8))))
    parts = read_parts("cvat", tmp_path)
    assert {split: list(objects(part)) for split, part in parts.items()} == {"train": ["a.png"], "val": ["b.png"]}


def test_several_tasks_in_one_folder(tmp_path: Path) -> None:
    for task in ("task_1", "task_2"):
        write_images(tmp_path / task / "images", "a.png")
        write(tmp_path / task / "annotations.xml", xml(image("a.png", box("cat", 1, 2, 5, 8))))
    (packed,) = read_parts("cvat", tmp_path).values()
    assert [Path(packed.file_name(i)).parent.parent.name for i in range(2)] == ["task_1", "task_2"]
    assert packed.arrays["image_ids"].tolist() == [1, 2]


def track(label: str, frames: dict[int, int], number: int = 0) -> str:
    """A track: its frames, and whether the object is outside of them."""
    corners = 'keyframe="1" occluded="0" xtl="1" ytl="2" ybr="8"'
    boxes = "".join(
        f'<box frame="{frame}" outside="{outside}" {corners} xbr="{5 + frame}"/>' for frame, outside in frames.items()
    )
    return f'<track id="{number}" label="{label}" source="manual">{boxes}</track>'


def test_tracks_of_a_video(tmp_path: Path) -> None:
    write_images(tmp_path / "images", *(f"frame_{n:06d}.PNG" for n in range(6)))
    size = "<start_frame>0</start_frame><stop_frame>4</stop_frame>"
    size += "<original_size><width>60</width><height>40</height></original_size>"
    body = track("cat", {0: 0, 1: 0, 2: 1}) + track("dog", {1: 0, 9: 0}, 1)
    write(tmp_path / "annotations.xml", xml(body, more=size))
    (packed,) = read_parts("cvat", tmp_path).values()
    assert objects(packed) == {
        "frame_000000.PNG": [("cat", [1, 2, 5, 8])],
        "frame_000001.PNG": [("cat", [1, 2, 6, 8]), ("dog", [1, 2, 6, 8])],
        "frame_000002.PNG": [],
        "frame_000003.PNG": [],  # frames of the task that have no box
        "frame_000004.PNG": [],
    }
    assert packed.arrays["image_ids"].tolist() == [0, 1, 2, 3, 4] and packed.missing == ("frame_000009",)
    assert by_code(packed)["outside-frame"].count == 1


def test_what_is_no_cvat(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", "<annotation><object/></annotation>")
    assert recognised("cvat", tmp_path) is None
    with pytest.raises(ValueError, match=r"a\.xml is no XML file of CVAT: its root is <annotation>"):
        read("cvat", tmp_path, path)
    with pytest.raises(ValueError, match=r"a\.xml has neither <image> nor <track>"):
        read("cvat", tmp_path, write(path, "<annotations><object/></annotations>"))
    text = xml(image("a.png", '<box xtl="1" ytl="1" xbr="2" ybr="2"/>'))
    with pytest.raises(ValueError, match=r"a\.xml: box 1 of image 0: 'label' must be text"):
        read("cvat", tmp_path, write(path, text))


def test_all_formats_of_real_images_agree(shared: Path) -> None:
    """CVAT and labelme give what COCO gives of the same pictures."""
    folder = shared / "data/exports/metrics_manyformats/data/database"
    coco = objects(read("coco", folder / "images", folder / "gts/coco_format_v1/instances_default.json"))
    (cvat,) = read_parts("cvat", folder / "gts/cvat_format").values()
    assert cvat.metadata.class_names[:3] == ("person", "cat", "boat") and len(cvat) == 100
    assert {name: sorted(found) for name, found in objects(cvat).items()} == {n: sorted(v) for n, v in coco.items()}
    (labelme,) = read_parts("labelme", folder / "gts/labelme_format").values()
    assert len(labelme) == 12 and by_code(labelme)["image-not-labelled"].count == 88
    for name, found in objects(labelme).items():
        assert sorted(found) == sorted(coco[name])


def test_corners_the_other_way_round_and_decimal_commas_are_read(tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a.png")
    body = image("a.png", box("cat", 20, 30, 5, 10) + box("dog", 1, 2, 30, 40).replace('"30"', '"30,5"'))
    write(tmp_path / "annotations.xml", xml(body))
    packed = read("cvat", tmp_path / "images", tmp_path / "annotations.xml")
    assert sorted(packed.arrays["boxes"].tolist()) == [[1, 2, 30.5, 40], [5, 10, 20, 30]]
    assert {f.code: f.count for f in packed.findings} == {"corners-exchanged": 1, "decimal-comma": 1}
