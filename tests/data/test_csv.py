"""The CSV reader, and what it recognises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import pytest

from detframe.data.entries import CatalogEntry
from detframe.data.formats.csv_columns import columns_of
from detframe.data.formats.csv_find import recognise
from detframe.data.formats.csv_format import read_csv
from detframe.data.formats.csv_rows import polygons_of
from detframe.data.packing import PackedDataset
from detframe.errors import UserError
from tests.data.sets import pixels

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def pictures(folder: Path, *names: str) -> None:
    """Images 60 pixels wide and 40 high."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), pixels(40, 60, 1))


def table(folder: Path, text: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def read(path: Path, images: Path | None = None, **options: Any) -> PackedDataset:
    entry = CatalogEntry("mine", "csv", images or path.parent, path, options, path.parent / "catalog.yaml")
    return read_csv(entry, **options)


def boxes(packed: PackedDataset) -> list[list[float]]:
    return [[round(float(v), 3) for v in box] for box in packed.arrays["boxes"]]


def codes(packed: PackedDataset) -> set[str]:
    return {finding.code for finding in packed.findings}


def names_of(packed: PackedDataset) -> list[str]:
    return [Path(packed.file_name(row)).name for row in range(len(packed))]


# Each is the box 6, 8, 30, 20 of a dog in a.jpg, of 60 x 40 pixels
DIALECTS: Mapping[str, str] = {
    "tensorflow": HEADER + "a.jpg,60,40,dog,6,8,30,20\n",
    "deepforest": "image_path,xmin,ymin,xmax,ymax,label\na.jpg,6,8,30,20,dog\n",
    "columns in another order": "image_path,xmin,xmax,ymin,ymax,label\na.jpg,6,30,8,20,dog\n",
    "semicolons": "filename;class;xmin;ymin;xmax;ymax\na.jpg;dog;6;8;30;20\n",
    "semicolons and decimal commas": "filename;class;xmin;ymin;xmax;ymax\na.jpg;dog;6,0;8,0;30,0;20,0\n",
    "tabs": "filename\tclass\txmin\tymin\txmax\tymax\na.jpg\tdog\t6\t8\t30\t20\n",
    "openimages": (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
        "a,xclick,dog,1,0.1,0.5,0.2,0.5,0,0,0\n"
    ),
    "openimages with commas": (
        'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\na.jpg,,dog,,"0,1","0,5","0,2","0,5",\n'
    ),
    "retinanet": "/data/pictures/a.jpg,6,8,30,20,dog\n",
    "class second": "pictures/a.jpg,dog,6,8,30,20\n",
    "tensorflow without its header": "a.jpg,60,40,dog,6,8,30,20\n",
    "automl": "TRAIN,gs://bucket/a.jpg,dog,0.1,0.2,,,0.5,0.5,,\n",
    "makesense": "dog,6,8,24,12,a.jpg,60,40\n",
    "makesense with header": (
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\ndog,6,8,24,12,a.jpg,60,40\n"
    ),
    "sides": "image,label,x,y,w,h\na.jpg,dog,6,8,24,12\n",
    "sides beside the image's": "filename,width,height,class,bbox_x,bbox_y,bbox_width,bbox_height\n"
    "a.jpg,60,40,dog,6,8,24,12\n",
    "sides without the image's": "image,label,x,y,width,height\na.jpg,dog,6,8,24,12\n",
    "fractions of the sides": "image,label,x,y,w,h\na.jpg,dog,0.1,0.2,0.4,0.3\n",
    "centres": "image,label,x_center,y_center,width,height\na.jpg,dog,0.3,0.35,0.4,0.3\n",
    "list": 'image_id,width,height,bbox,class\na,60,40,"[6.0, 8.0, 24.0, 12.0]",dog\n',
    "udacity": "frame,xmin,xmax,ymin,ymax,class_name\na.jpg,6,30,8,20,dog\n",
    "gtsrb": "Path;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\nTrain\\a.jpg;60;40;6;8;30;20;dog\n",
    "numbered corners": "img,x0,y0,x1,y1,label\na.jpg,6,8,30,20,dog\n",
    "polygon": 'image_path,label,geometry\na.jpg,dog,"POLYGON ((6 8, 30 8, 30 20, 6 20, 6 8))"\n',
    "spaces and empty lines": "filename, class, xmin, ymin, xmax, ymax\n\na.jpg, dog, 6, 8, 30, 20\n,,,,,\n",
    "a column more at the end": "filename,class,xmin,ymin,xmax,ymax\na.jpg,dog,6,8,30,20,\n",
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, "a.jpg")
    path = table(tmp_path, DIALECTS[name])
    packed = read(path)
    assert boxes(packed) == [[6, 8, 30, 20]]
    assert packed.metadata.class_names == ("dog",)
    assert packed.arrays["sizes_hw"].tolist() == [[40, 60]]
    assert not packed.has_masks
    assert not packed.warnings
    found = recognise(path)
    assert found is not None and [part.images for part in found.parts] == [tmp_path]
    assert found.reason == "labels.csv has 1 object in 1 image"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_spreadsheets(tmp_path: Path, encoding: str) -> None:
    pictures(tmp_path, "a.jpg")
    path = table(tmp_path, HEADER + "a.jpg,60,40,Bär,6,8,30,20\n", encoding=encoding)
    assert read(path).metadata.class_names == ("Bär",)
    assert recognise(path) is not None


def test_images_and_ids_stand_in_the_order_of_the_table(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    text = "b.jpg,60,40,dog,6,8,30,20\na.jpg,60,40,cat,0,0,9,9\nb.jpg,60,40,cat,1,1,9,9\n"
    packed = read(table(tmp_path, HEADER + text))
    assert names_of(packed) == ["b.jpg", "a.jpg"]
    assert packed.arrays["image_ids"].tolist() == [2, 1]
    assert packed.arrays["labels"].tolist() == [2, 1, 1]
    assert packed.arrays["object_start"].tolist() == [0, 2, 3]


def test_images_without_objects(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    packed = read(table(tmp_path, "a.jpg,6,8,30,20,dog\nb.jpg,,,,,\n"))
    assert names_of(packed) == ["a.jpg", "b.jpg"]
    assert packed.arrays["object_start"].tolist() == [0, 1, 1]


def test_a_table_that_begins_with_an_image_without_objects(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    assert boxes(read(table(tmp_path, "b.jpg,,,,,\na.jpg,6,8,30,20,dog\n"))) == [[6, 8, 30, 20]]


def test_sizes_come_from_the_files_where_the_table_has_none(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    packed = read(table(tmp_path, HEADER + "a.jpg,,,dog,6,8,30,20\n"))
    assert packed.arrays["sizes_hw"].tolist() == [[40, 60]]


def test_missing_and_unreadable_images(tmp_path: Path) -> None:
    pictures(tmp_path, "frame_000001.jpg")
    (tmp_path / "broken.jpg").write_text("no image")
    text = "".join(f"{name},dog,1,1,9,9\n" for name in ("frame_1.png", "frame_2.png", "frame_000001.jpg", "broken.jpg"))
    packed = read(table(tmp_path, "filename,class,xmin,ymin,xmax,ymax\n" + text))
    assert names_of(packed) == ["frame_000001.jpg"]
    assert packed.missing == ("frame_1.png", "frame_2.png")
    assert "frame_1.png (frame_000001.jpg is there)" in "\n".join(packed.warnings)
    assert {"missing-image", "unreadable-image"} <= codes(packed)


def test_windows_paths(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a.jpg", "test/a.jpg")
    packed = read(table(tmp_path, HEADER + "C:\\cards\\test\\a.jpg,60,40,dog,6,8,30,20\n"))
    assert Path(packed.file_name(0)) == tmp_path / "test/a.jpg"


class TestCoordinates:
    def test_fractions_are_seen_and_said(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        packed = read(table(tmp_path, DIALECTS["openimages"]))
        assert codes(packed) == {"relative-coordinates"}

    def test_small_boxes_in_pixels_among_others(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        packed = read(table(tmp_path, HEADER + "a.jpg,60,40,dog,0,0,1,1\na.jpg,60,40,dog,3,3,30,30\n"))
        assert boxes(packed) == [[0, 0, 1, 1], [3, 3, 30, 30]]

    def test_said_by_the_entry(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        path = table(tmp_path, HEADER + "a.jpg,60,40,dog,0,0,1,1\n")
        assert boxes(read(path)) == [[0, 0, 60, 40]]
        assert boxes(read(path, coordinates="pixels")) == [[0, 0, 1, 1]]
        with pytest.raises(UserError, match="coordinates must be auto, pixels, relative, not 'percent'"):
            read(path, coordinates="percent")

    def test_lists_of_corners_are_told_from_sides(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        path = table(tmp_path, 'image,bbox,label\na.jpg,"[30, 20, 59, 39]",dog\na.jpg,"[31, 10, 45, 39]",dog\n')
        assert boxes(read(path)) == [[30, 20, 59, 39], [31, 10, 45, 39]]


class TestClasses:
    def test_no_column_of_classes(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        assert read(table(tmp_path, "image_id,x,y,w,h\na,6,8,24,12\n")).metadata.class_names == ("object",)

    def test_rows_without_class_beside_others(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        packed = read(table(tmp_path, HEADER + "a.jpg,60,40,,6,8,30,20\na.jpg,60,40,dog,1,1,9,9\n"))
        assert boxes(packed) == [[1, 1, 9, 9]]
        assert "1 objects have no class and were left out, as line 2" in packed.warnings[0]

    def test_names_before_numbers(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        text = "image,class_id,class_name,x,y,w,h\na.jpg,7,dog,6,8,24,12\n"
        assert read(table(tmp_path, text)).metadata.class_names == ("dog",)

    def test_numbers_are_sorted_by_their_value(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        rows = "".join(f"a.jpg,60,40,{number},6,8,30,20\n" for number in (10, 9, 0))
        assert read(table(tmp_path, HEADER + rows)).metadata.class_names == ("0", "9", "10")

    @pytest.mark.parametrize(
        "text", ["Dead,0\nAlive,1\n", "Alive,1\nDead,0\n", "name,id\nDead,0\nAlive,1", "Dead\nAlive"]
    )
    def test_a_file_of_classes_gives_their_order(self, tmp_path: Path, text: str) -> None:
        pictures(tmp_path, "a.jpg")
        table(tmp_path, text, "classes.csv")
        path = table(tmp_path, HEADER + "a.jpg,60,40,Alive,6,8,30,20\n")
        found = recognise(tmp_path)
        assert found is not None and found.parts[0].options == {"names": tmp_path / "classes.csv"}
        packed = read(path, **found.parts[0].options)
        assert packed.metadata.class_names == ("Dead", "Alive")
        assert packed.arrays["labels"].tolist() == [2]

    def test_names_of_ids(self, tmp_path: Path) -> None:
        pictures(tmp_path, "images/a.jpg")
        table(tmp_path, "/m/04dr76w,Bottle\n/m/011k07,Tortoise\n/m/0bt9lr,Dog\n", "meta/class-descriptions-boxable.csv")
        text = DIALECTS["openimages"].replace("dog", "/m/0bt9lr")
        path = table(tmp_path, text, "train-annotations-bbox.csv")
        found = recognise(tmp_path)
        assert found is not None
        assert read(path, tmp_path, **found.parts[0].options).metadata.class_names == ("Dog",)

    def test_numbers_of_another_table_are_not_taken(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg", "b.jpg")
        table(tmp_path, "Dead,0\nAlive,1\n", "classes.csv")
        path = table(tmp_path, HEADER + "a.jpg,60,40,0,6,8,30,20\n", "one.csv")
        table(tmp_path, HEADER + "b.jpg,60,40,Dead,6,8,30,20\n", "two.csv")
        found = recognise(path)
        assert found is not None and found.parts[0].options == {}

    def test_a_class_that_its_file_does_not_have(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        names = table(tmp_path, "Dead,0\n", "classes.csv")
        packed = read(table(tmp_path, HEADER + "a.jpg,60,40,Ill,6,8,30,20\n"), names=str(names))
        assert packed.metadata.class_names == ("Dead", "Ill")
        assert "class-not-listed" in codes(packed)

    def test_groups_are_crowds(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        rows = "".join(f"a,dog,0.1,0.5,0.2,0.5,{flag}\n" for flag in ("0", "1", "-1", ""))
        packed = read(table(tmp_path, "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n" + rows))
        assert packed.arrays["iscrowd"].tolist() == [False, True, False, False]


class TestGeometry:
    def test_polygons(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        rows = (
            'a.jpg,dog,"POLYGON ((6 8, 30 8, 30 20, 6 8))"\n'
            'a.jpg,dog,"MULTIPOLYGON (((1 1, 5 1, 5 5)), ((10 10, 20 10, 20 20), (12 11, 13 11, 13 12)))"\n'
            "a.jpg,dog,POINT (3 4)\n"
        )
        packed = read(table(tmp_path, "image_path,label,geometry\n" + rows))
        assert boxes(packed) == [[6, 8, 30, 20], [1, 1, 20, 20]]
        assert [ring.tolist() for ring in packed.segmentation(0, (40, 60))] == [[6, 8, 30, 8, 30, 20]]
        assert len(packed.segmentation(1, (40, 60))) == 2
        assert codes(packed) == {"shape-without-box", "filled-hole"}

    def test_boxes_that_are_written_as_polygons_are_no_masks(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        row = 'a.jpg,6,8,30,20,dog,"POLYGON ((30 8, 30 20, 6 20, 6 8, 30 8))"\n'
        packed = read(table(tmp_path, "image_path,xmin,ymin,xmax,ymax,label,geometry\n" + row))
        assert boxes(packed) == [[6, 8, 30, 20]] and not packed.has_masks

    @pytest.mark.parametrize("text", ["POLYGON ((1 2, 3", "circle", "POLYGON ((1 2, x 3, 4 4))", "POLYGON ((1, 2, 3))"])
    def test_malformed(self, tmp_path: Path, text: str) -> None:
        pictures(tmp_path, "a.jpg")
        path = table(tmp_path, f'image_path,label,geometry\na.jpg,dog,"{text}"\n')
        with pytest.raises(UserError, match=r"labels\.csv: line 2: 'geometry' is"):
            read(path)

    def test_other_spellings(self) -> None:
        assert polygons_of("srid=4326;polygon z((1 2 0, 3 4 0, 5 6 0))") == ([[1, 2, 3, 4, 5, 6]], 0)
        assert polygons_of("LINESTRING (1 2, 3 4)") is None
        assert polygons_of("POLYGON EMPTY") == ([], 0)


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a.jpg,60,40,dog,6,8,30\n", r"labels\.csv, line 2: it has 7 cells, and the first row has 8"),
            ("a.jpg,60,40,dog,6,5,8,0,30,0\n", r"line 2: it has 10 cells"),
            ("a.jpg,60,40,dog,6,x,30,20\n", r"line 2: 'ymin' must be a number, not 'x'"),
            ("a.jpg,60,40,dog,6,,30,20\n", r"line 2: 'ymin' must be a number, not ''"),
            ("a.jpg,6x,40,dog,6,8,30,20\n", r"line 2: 'width' must be a whole number, not '6x'"),
            (",60,40,dog,6,8,30,20\n", r"line 2: 'filename' must be text"),
        ],
    )
    def test_rows(self, tmp_path: Path, text: str, message: str) -> None:
        pictures(tmp_path, "a.jpg")
        with pytest.raises(UserError, match=message):
            read(table(tmp_path, HEADER + text))

    @pytest.mark.parametrize("text", ["filename,width,height\n1,2,3\n", "xmin,ymin,xmax,ymax\n1,2,3,4\n"])
    def test_columns_found_and_needed_are_named(self, tmp_path: Path, text: str) -> None:
        path = table(tmp_path, text)
        assert recognise(path) is not None  # since reading it says what it lacks
        with pytest.raises(UserError, match=r"its first row is '.*'; a table of objects needs a column with the image"):
            read(path)

    def test_points(self, tmp_path: Path) -> None:
        path = table(tmp_path, "image_path,x,y,label\na.jpg,3,4,tree\n")
        with pytest.raises(UserError, match="has points and no boxes"):
            read(path)
        assert recognise(tmp_path) is None

    def test_an_unknown_split(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        with pytest.raises(UserError, match=r"no image of .* is of the split 'dev2'; splits there: none"):
            read(table(tmp_path, HEADER + "a.jpg,60,40,dog,6,8,30,20\n"), split="dev2")

    def test_scores_are_said_to_be_predictions(self, tmp_path: Path) -> None:
        pictures(tmp_path, "a.jpg")
        packed = read(table(tmp_path, "image,score,label,x,y,w,h\na.jpg,0.93,dog,6,8,24,12\n"))
        assert len(packed.arrays["labels"]) == 1
        assert codes(packed) == {"predictions-as-labels"}

    @pytest.mark.parametrize(
        "header",
        ["epoch,loss,lr", "a,b", "", "x,y,width,height,name", "0 0.5 0.5 0.1 0.1", "filename,file_size,region_id"],
    )
    def test_other_tables_are_none(self, header: str) -> None:
        assert columns_of(header.split(",")) is None


def test_corners_the_other_way_round_are_read_and_counted(tmp_path: Path) -> None:
    """An object that is left out would be learned as background."""
    pictures(tmp_path, "a.jpg")
    packed = read(table(tmp_path, HEADER + "a.jpg,60,40,dog,30,8,6,20\na.jpg,60,40,dog,6,8,6,20\n"))
    assert boxes(packed) == [[6, 8, 30, 20]]
    assert {f.code: f.count for f in packed.findings} == {"corners-exchanged": 1, "box-without-area": 1}
