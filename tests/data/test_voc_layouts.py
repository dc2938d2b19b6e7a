"""VOC's form in the layouts of programs and people: what is recognised, and which image belongs to an XML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from detframe.data.entries import CatalogEntry
from detframe.data.formats.voc import read_voc
from detframe.data.formats.voc_find import recognise
from detframe.data.packing import PackedDataset
from detframe.data.recognition import Part, Recognised
from detframe.errors import UserError
from tests.data.sets import pixels, voc_object

DOG, CAT = voc_object("dog", (2, 3, 30, 20)), voc_object("cat", (5, 5, 9, 9))


def write_xml(root: Path, *names: str, objects: str = DOG, filename: str = "", database: str = "Unknown") -> None:
    for name in names:
        path = root / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"<annotation><folder>x</folder><filename>{filename or path.stem + '.jpg'}</filename>"
            f"<source><database>{database}</database></source>"
            f"<size><width>60</width><height>40</height><depth>3</depth></size>{objects}</annotation>"
        )


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), pixels(40, 60))


def found_at(path: Path) -> Recognised:
    found = recognise(path)
    assert found is not None and found.format == "voc"
    return found


def read(part: Part, **more: Any) -> PackedDataset:
    options = {**part.options, **more}
    entry = CatalogEntry("mine", "voc", part.images, part.annotations, options, part.annotations / "catalog.yaml")
    return read_voc(entry, **options)


def images_of(packed: PackedDataset, root: Path) -> list[str]:
    return [Path(packed.file_name(row)).relative_to(root).as_posix() for row in range(len(packed))]


def codes(packed: PackedDataset) -> set[str]:
    return {finding.code for finding in packed.findings} - {"corner-convention"}


# Layout -> (XML files, images, {split: images that it has})
LAYOUTS: dict[str, tuple[list[str], list[str], dict[str, list[str]]]] = {
    "labelImg, beside": (["a", "b"], ["a.jpg", "b.JPG"], {"": ["a.jpg", "b.JPG"]}),
    "labelImg, train and test": (
        ["images/train/a", "images/test/b"],
        ["images/train/a.jpg", "images/test/b.png"],
        {"train": ["images/train/a.jpg"], "test": ["images/test/b.png"]},
    ),
    "Roboflow": (
        ["train/a_jpg.rf.1f", "valid/a_jpg.rf.2e", "test/c_jpg.rf.3d"],
        ["train/a_jpg.rf.1f.jpg", "valid/a_jpg.rf.2e.jpg", "test/c_jpg.rf.3d.jpg"],
        {"train": ["train/a_jpg.rf.1f.jpg"], "val": ["valid/a_jpg.rf.2e.jpg"], "test": ["test/c_jpg.rf.3d.jpg"]},
    ),
    "folders beside each other": (
        ["set/annotations/a", "set/annotations/b"],
        ["set/images/a.jpg", "set/images/b.jpg", "set/images/c.jpg"],
        {"": ["set/images/a.jpg", "set/images/b.jpg"]},
    ),
    "splits in both, the same names": (
        ["annotations/train/a", "annotations/val/a"],
        ["images/train/a.jpg", "images/val/a.jpg"],
        {"train": ["images/train/a.jpg"], "val": ["images/val/a.jpg"]},
    ),
    "both in folders of splits": (
        ["train/annotations/a", "val/annotations/a"],
        ["train/images/a.jpg", "val/images/a.jpg"],
        {"train": ["train/images/a.jpg"], "val": ["val/images/a.jpg"]},
    ),
    "folders below": (
        ["xml/one/a", "xml/two/deep/b"],
        ["pictures/one/a.jpg", "pictures/two/deep/b.jpg"],
        {"": ["pictures/one/a.jpg", "pictures/two/deep/b.jpg"]},
    ),
    "folders below with the same names": (
        ["xml/one/1", "xml/one/2", "xml/one/3", "xml/two/3", "xml/two/4", "xml/two/5"],
        ["img/one/1.jpg", "img/one/2.jpg", "img/one/3.jpg", "img/two/3.jpg", "img/two/4.jpg", "img/two/5.jpg"],
        {"": ["img/one/1.jpg", "img/one/2.jpg", "img/one/3.jpg", "img/two/3.jpg", "img/two/4.jpg", "img/two/5.jpg"]},
    ),
    "masks of the same names": (
        ["Annotations/a"],
        ["JPEGImages/a.jpg", "SegmentationClass/a.png"],
        {"": ["JPEGImages/a.jpg"]},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    xml, images, splits = LAYOUTS[layout]
    write_xml(tmp_path / "data", *xml)
    pictures(tmp_path / "data", *images)
    found = found_at(tmp_path / "data")
    assert {part.split: images_of(read(part), tmp_path / "data") for part in found.parts} == splits
    for part in found.parts:
        assert read(part).arrays["boxes"][0].tolist() == [2, 3, 30, 20]
        assert not read(part).warnings


class TestLists:
    def devkit(self, root: Path, **lists: str) -> Recognised:
        stems = [f"00000{i}" for i in range(1, 7)]
        write_xml(root / "Annotations", *stems)
        pictures(root / "JPEGImages", *(f"{stem}.jpg" for stem in stems))
        (root / "ImageSets/Main").mkdir(parents=True)
        for name, digits in lists.items():
            (root / f"ImageSets/Main/{name}.txt").write_text("".join(f"00000{d}\n" for d in digits))
        return found_at(root)

    @pytest.mark.parametrize(
        ("lists", "splits"),
        [
            ({"train": "12", "val": "3", "trainval": "123", "test": "456"}, {"train": "12", "val": "3", "test": "456"}),
            ({"trainval": "123", "test": "456"}, {"train": "123", "test": "456"}),
            ({"trainval": "1234", "val": "34", "test": "56"}, {"train": "1234", "test": "56"}),
            ({"train": "123", "val": "456"}, {"train": "123", "val": "456"}),
            ({"Train": "123", "Validation": "456"}, {"train": "123", "val": "456"}),
            ({"train": "123", "test": ""}, {"train": "123"}),
            ({"default": "123"}, {"": "123456"}),
            ({"dog_train": "12", "dog_val": "3"}, {"": "123456"}),
            ({"train": "12", "test": "789"}, {"train": "12"}),
        ],
    )
    def test_which_list_is_for_what(self, tmp_path: Path, lists: dict[str, str], splits: dict[str, str]) -> None:
        found = self.devkit(tmp_path / "VOC", **lists)
        got = {part.split: [Path(name).stem[-1] for name in images_of(read(part), tmp_path)] for part in found.parts}
        assert got == {split: list(digits) for split, digits in splits.items()}
        ids = [number for part in found.parts for number in read(part).arrays["image_ids"].tolist()]
        assert len(ids) == len(set(ids))

    def test_lists_that_are_left_out_are_named(self, tmp_path: Path) -> None:
        notes = " ".join(self.devkit(tmp_path, train="12", val="", test="789").notes)
        assert "ImageSets/Main/test.txt names no image that has an XML file, and was left out" in notes
        assert "ImageSets/Main/val.txt is empty, and was left out" in notes

    def test_names_in_quotes(self, tmp_path: Path) -> None:
        write_xml(tmp_path / "Annotations", "my picture", "b")
        pictures(tmp_path / "JPEGImages", "my picture.jpg", "b.jpg")
        (tmp_path / "ImageSets/Main").mkdir(parents=True)
        (tmp_path / "ImageSets/Main/train.txt").write_text('"my picture"\n')
        (tmp_path / "ImageSets/Main/val.txt").write_text("b\n")
        parts = found_at(tmp_path).parts
        assert [images_of(read(part), tmp_path) for part in parts] == [
            ["JPEGImages/my picture.jpg"],
            ["JPEGImages/b.jpg"],
        ]

    def test_folders_below_are_named_in_lists(self, tmp_path: Path) -> None:
        write_xml(tmp_path / "Annotations", "one/a", "two/a")
        pictures(tmp_path / "JPEGImages", "one/a.jpg", "two/a.jpg")
        (tmp_path / "ImageSets/Main").mkdir(parents=True)
        (tmp_path / "ImageSets/Main/only.txt").write_text("two/a\n")
        part = Part("", tmp_path / "JPEGImages", tmp_path / "Annotations", {"split": "only"})
        assert images_of(read(part), tmp_path) == ["JPEGImages/two/a.jpg"]


class TestImages:
    def one(self, root: Path, xml: str, filename: str, *images: str) -> PackedDataset:
        write_xml(root, xml, filename=filename)
        pictures(root, *images)
        return read(found_at(root).parts[0])

    def test_the_own_name_comes_first(self, tmp_path: Path) -> None:
        packed = self.one(tmp_path, "a", "b.jpg", "a.jpg", "b.jpg")
        assert images_of(packed, tmp_path) == ["a.jpg"]
        assert codes(packed) == {"other-filename"} and not packed.warnings

    @pytest.mark.parametrize("filename", ["picture.jpg", "C:\\x\\picture.jpg", "/home/x/picture.JPG", "picture"])
    def test_then_the_one_that_it_names(self, tmp_path: Path, filename: str) -> None:
        packed = self.one(tmp_path, "0001", filename, "picture.jpg")
        assert images_of(packed, tmp_path) == ["picture.jpg"]
        assert "image-by-filename" in codes(packed)

    def test_of_two_suffixes_the_one_that_it_names(self, tmp_path: Path) -> None:
        packed = self.one(tmp_path, "a", "a.jpg", "a.jpg", "a.png")
        assert images_of(packed, tmp_path) == ["a.jpg"] and not codes(packed)

    def test_other_letter_case(self, tmp_path: Path) -> None:
        packed = self.one(tmp_path, "IMG_1", "IMG_1.JPG", "img_1.jpg")
        assert images_of(packed, tmp_path) == ["img_1.jpg"]
        assert "image-spelt-otherwise" in codes(packed)

    def test_points_in_names_are_no_suffixes(self, tmp_path: Path) -> None:
        packed = self.one(tmp_path, "shot.2", "shot.2.jpg", "shot.jpg")
        assert packed.missing == ("shot.2",)

    def test_none(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "frame_1", "frame_2")
        pictures(tmp_path, "frame_000001.jpg", "frame_2.jpg", "other.jpg")
        packed = read(found_at(tmp_path).parts[0])
        assert images_of(packed, tmp_path) == ["frame_2.jpg"]
        assert packed.missing == ("frame_1",)
        assert "frame_1 (frame_000001.jpg is there)" in packed.warnings[0]

    def test_an_unreadable_image_whose_size_is_needed(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "a", "b")
        (tmp_path / "a.xml").write_text(f"<annotation>{DOG}</annotation>")
        pictures(tmp_path, "b.jpg")
        (tmp_path / "a.jpg").write_text("no image")
        packed = read(found_at(tmp_path).parts[0])
        assert images_of(packed, tmp_path) == ["b.jpg"]
        assert "unreadable-image" in codes(packed)


class TestConventions:
    def test_programs_count_from_zero_and_difficult_objects_are_kept(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "a", objects=voc_object("dog", (1, 1, 9, 9), difficult=1))
        pictures(tmp_path, "a.jpg")
        found = found_at(tmp_path)
        packed = read(found.parts[0])
        assert packed.arrays["boxes"].tolist() == [[1, 1, 9, 9]]
        assert packed.arrays["iscrowd"].tolist() == [False]
        assert codes(packed) == {"difficult-object"}
        assert "were read as positions from 0" in packed.findings[-1].text
        assert not found.notes

    @pytest.mark.parametrize(
        ("database", "box"), [("The VOC2007 Database", [1, 2, 30, 20]), ("Unknown", [2, 3, 30, 20])]
    )
    def test_pascal_voc_itself_counts_from_one(self, tmp_path: Path, database: str, box: list[float]) -> None:
        write_xml(tmp_path / "Annotations", "a", "b", database=database)
        pictures(tmp_path / "JPEGImages", "a.jpg", "b.jpg")
        (tmp_path / "ImageSets/Main").mkdir(parents=True)
        (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
        packed = read(found_at(tmp_path).parts[0])
        assert packed.arrays["boxes"][0].tolist() == box
        said = "numbers of pixels, the first of them 1" if database != "Unknown" else "positions from 0"
        assert f"were read as {said}" in packed.findings[-1].text
        assert not packed.warnings

    def test_labelmap(self, tmp_path: Path) -> None:
        write_xml(tmp_path / "Annotations", "a", objects=DOG + CAT)
        pictures(tmp_path / "JPEGImages", "a.jpg")
        head = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
        (tmp_path / "labelmap.txt").write_text(f"{head}dog:128,0,0::\ncow:0,128,0:head:\n")
        packed = read(found_at(tmp_path).parts[0])
        assert packed.metadata.class_names == ("dog", "cow", "cat")
        assert packed.arrays["labels"].tolist() == [1, 3]
        assert "1 classes are not in labelmap.txt" in packed.warnings[0]


class TestRecognise:
    def test_one_file(self, tmp_path: Path) -> None:
        write_xml(tmp_path / "annotations", "a", "b")
        pictures(tmp_path / "images", "a.jpg", "b.jpg")
        found = found_at(tmp_path / "annotations/b.xml")
        assert images_of(read(found.parts[0]), tmp_path) == ["images/b.jpg"]

    def test_annotations_alone(self, tmp_path: Path) -> None:
        write_xml(tmp_path / "gts/voc", "a", "b")
        pictures(tmp_path / "images", "a.jpg", "b.jpg")
        assert found_at(tmp_path / "gts/voc").parts[0].images == tmp_path / "images"

    def test_images_that_are_nowhere(self, tmp_path: Path) -> None:
        write_xml(tmp_path / "x", "a")
        assert "none of the images of x was found, as x/a" in found_at(tmp_path / "x").notes

    def test_a_folder_beside_the_splits_is_named(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "train/a", "val/b", "rest/c")
        pictures(tmp_path, "train/a.jpg", "val/b.jpg", "rest/c.jpg")
        found = found_at(tmp_path)
        assert [part.split for part in found.parts] == ["train", "val"]
        assert "folders that belong to no split were left out: rest (1 XML file of VOC's form)" in found.notes

    def test_several_data_sets_are_not_mixed(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "cats/set/ann/a", objects=CAT)
        write_xml(tmp_path, "dogs/ann/b", objects=DOG)
        assert recognise(tmp_path) is None
        write_xml(tmp_path, "copies/one/1", "copies/one/2", "copies/two/1", "copies/two/2")
        assert recognise(tmp_path / "copies") is None  # the same pictures in two ways
        for year in ("VOC2007", "VOC2012"):
            write_xml(tmp_path, f"devkit/{year}/Annotations/{year}_1")
            (tmp_path / f"devkit/{year}/ImageSets/Main").mkdir(parents=True)
            (tmp_path / f"devkit/{year}/ImageSets/Main/train.txt").write_text(f"{year}_1\n")
        assert recognise(tmp_path / "devkit") is None
        assert recognise(tmp_path / "devkit/VOC2012") is not None

    def test_a_folder_for_each_class_is_one_data_set(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "ann/cat/a", objects=CAT)
        write_xml(tmp_path, "ann/dog/b", objects=DOG)
        pictures(tmp_path, "images/cat/a.jpg", "images/dog/b.jpg")
        assert images_of(read(found_at(tmp_path).parts[0]), tmp_path) == ["images/cat/a.jpg", "images/dog/b.jpg"]

    @pytest.mark.parametrize("text", ["<annotations><image/></annotations>", "<html/>", "", "annotation"])
    def test_other_xml_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.xml").write_text(text)
        assert recognise(tmp_path) is None
        assert recognise(tmp_path / "a.xml") is None

    def test_a_link_to_nowhere(self, tmp_path: Path) -> None:
        for suffix in ("csv", "xml"):
            link = tmp_path / f"labels.{suffix}"
            link.symlink_to(tmp_path / "nowhere")
            assert recognise(link) is None

    def test_utf_16(self, tmp_path: Path) -> None:
        (tmp_path / "a.xml").write_text(f"<annotation>{DOG}</annotation>", encoding="utf-16")
        assert recognise(tmp_path) is not None

    def test_malformed_files_are_left_to_the_reader(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "a")
        (tmp_path / "b.xml").write_text("<annotation><object>")
        with pytest.raises(UserError, match=r"malformed XML in .*b\.xml"):
            read(found_at(tmp_path).parts[0])

    def test_resource_forks_of_macos_are_no_files(self, tmp_path: Path) -> None:
        write_xml(tmp_path, "a")
        pictures(tmp_path, "a.jpg")
        (tmp_path / "._a.xml").write_bytes(b"\0\5\26\7")
        assert len(read(found_at(tmp_path).parts[0])) == 1


@pytest.mark.parametrize(
    ("path", "splits", "classes"),
    [
        ("bccd", {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}, 3),
        ("exports/cards_labelimg_voc", {"train": (17, 35), "test": (45, 93)}, 6),
        ("exports/toy_voc_missing", {"": (99, 99)}, 1),
        ("exports/metrics_manyformats/data/database/gts/pascalvoc_format", {"": (100, 273)}, 20),
        ("exports/metrics_manyformats/data/database/gts/imagenet_format", {"": (100, 273)}, 20),
        ("exports/metrics_manyformats/toyexample", {"": (10, 12)}, 1),
    ],
)
def test_real_data(shared_data: Path, path: str, splits: dict[str, tuple[int, int]], classes: int) -> None:
    found = found_at(shared_data / path)
    packed = {part.split: read(part) for part in found.parts}
    assert {split: (len(p), len(p.arrays["labels"])) for split, p in packed.items()} == splits
    assert {p.metadata.num_classes for p in packed.values()} == {classes}
