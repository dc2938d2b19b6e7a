"""CSV tables of objects: TensorFlow, Roboflow, OpenImages, DeepForest, keras-retinanet, AutoML, makesense.ai.

docs/own_data.md says what is read. csv_columns tells what the columns hold, csv_table reads the text, csv_rows the
rows, and csv_find recognises a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detframe.data.entries import CatalogEntry, check_text
from detframe.data.findings import NOTE, Findings
from detframe.data.formats.csv_find import LOOKS_FOR, recognise
from detframe.data.formats.csv_rows import Item, Picture, RowReader, has_scores, is_box, read_class_names
from detframe.data.formats.csv_table import Table, read_table
from detframe.data.formats.fields import Entry
from detframe.data.formats.locate import ImageFinder, add_missing, stated_or_read_size
from detframe.data.formats.shapes import BoxForm
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.data.recognition import recognised_by
from detframe.errors import InvalidValueError, MissingFileError, listed
from detframe.files import read_text
from detframe.registry import DATASET_FORMATS

COORDINATES = ("auto", "pixels", "relative")
# Up to there a coordinate may be a fraction of the image's side, and so many of the boxes must lie below
MOST_OF_ONE, RELATIVE_SHARE = 1.05, 0.99
NO_CLASS = "object"  # the class of objects where none has a name


@DATASET_FORMATS.register("csv")
@recognised_by(recognise, looks_for=LOOKS_FOR)
def read_csv(
    entry: CatalogEntry, *, split: str = "", names: str | Path = "", coordinates: str = "auto"
) -> PackedDataset:
    """Read a CSV table of objects; the fields are explained in docs/own_data.md.

    Image ids count the names in the table in their order, so that those of two splits of one table differ.

    Raises:
        ValueError: no table of objects (with the columns found and needed), a row without image, class or box (with its
            line), or a bad field of the entry.
        FileNotFoundError: the table or the file of class names does not exist.
    """
    split, coordinates = check_text(entry.name, "split", split), check_text(entry.name, "coordinates", coordinates)
    if coordinates not in COORDINATES:
        raise InvalidValueError(
            f"data set {entry.name!r}: coordinates must be {', '.join(COORDINATES)}, not {coordinates!r}"
        )
    findings = Findings()
    table = read_table(entry.annotations)
    _tell_of_scores(table, findings)
    pictures = RowReader(table, findings).pictures()
    known = read_class_file(entry, names)
    class_names, name_of = _classes(pictures, known, findings)
    scalable = coordinates != "pixels" and table.columns.form not in ("", "point")  # geometries are in pixels
    relative = scalable and (coordinates == "relative" or _look_relative(pictures, findings))
    numbers = {name: number for number, name in enumerate(sorted(picture.name for picture in pictures), 1)}
    chosen = _of_split(entry, pictures, split)
    sizes = _Sizes(entry, table, findings)
    found = [(picture, *sizes.of(picture)) for picture in chosen]
    builder = RecordBuilder(Metadata(entry.name, class_names, tuple(range(1, len(class_names) + 1))), findings)
    packer = _Packer(table, {name: class_names.index(new) + 1 for name, new in name_of.items()}, relative, found)
    for picture, file, size_hw in found:
        if file is None:
            add_missing(builder, sizes.finder, picture.name)
        elif size_hw is not None:
            builder.add_image(file, numbers[picture.name], size_hw)
            packer.add_objects(builder, picture, size_hw)
    return builder.build()


def sources(entry: CatalogEntry) -> list[Path]:
    """Files beside the table that the records are made from."""
    return entry.named_file("names")


read_csv.sources = sources  # type: ignore[attr-defined]


def read_class_file(entry: CatalogEntry, names: str | Path) -> dict[str, str]:
    """The file of class names that an entry names: the name of each id, in its order; none where it names no file."""
    if not names:
        return {}
    path = entry.path_of(check_text(entry.name, "names", str(names)))
    if not path.is_file():
        raise MissingFileError(f"data set {entry.name!r}: names is {path}, which does not exist")
    return read_class_names(read_text(path, "the names of classes"), str(path))


def _tell_of_scores(table: Table, findings: Findings) -> None:
    if table.columns.score is not None and has_scores(table):
        name = table.columns.names[table.columns.score]
        findings.say(
            "predictions-as-labels",
            f"the column {name!r} of {table.path.name} has scores, as predictions have them; its boxes are read as if "
            f"a person had drawn them",
            remedy="give the table of the true objects in its place",
        )


def _classes(
    pictures: Sequence[Picture], known: Mapping[str, str], findings: Findings
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of the classes, and the class of each name in the rows; what has no class is not in it.

    A file of classes gives the order, unless its ids are words; else the names are sorted, numbers by their value.
    """
    labels = {item.label for picture in pictures for item in picture.items}
    labels_with_name = labels - {""}
    if not labels_with_name:
        return ((NO_CLASS,), {"": NO_CLASS}) if labels else (tuple(known.values()), {})
    if "" in labels:
        unnamed = [(picture.name, item) for picture in pictures for item in picture.items if not item.label]
        example = f"line {unnamed[0][1].line}"
        findings.say(
            "object-without-class",
            f"{len(unnamed)} objects have no class and were left out, as {example}",
            len(unnamed),
            remedy="write their class into the table",
        )
    named = set(known.values())
    name_of = {label: label if label in named else known.get(label, label) for label in labels_with_name}
    order = (
        list(dict.fromkeys(known.values())) if all(key.isdigit() or key == name for key, name in known.items()) else []
    )
    strays = sorted(set(name_of.values()) - set(order), key=_by_value)
    if order and strays:
        findings.say(
            "class-not-listed",
            f"{len(strays)} classes are not in the file of class names, and stand behind them: {listed(strays, 5)}",
            len(strays),
        )
    return (*order, *strays), name_of


def _by_value(name: str) -> tuple[float, str]:
    return (float(int(name)) if name.isascii() and name.isdigit() and len(name) < 16 else float("inf"), name)


def _of_split(entry: CatalogEntry, pictures: Sequence[Picture], split: str) -> list[Picture]:
    """The images of a split, by the column of splits or else by the folders of their names."""
    if not split:
        return list(pictures)
    splits = [picture.named_split for picture in pictures]
    chosen = [p for p, own in zip(pictures, splits, strict=True) if split in (own, p.split)]
    if not chosen:
        known = ", ".join(sorted(set(splits) - {""})) or "none"
        raise InvalidValueError(
            f"data set {entry.name!r}: no image of {entry.annotations} is of the split {split!r}; splits there: {known}"
        )
    return chosen


def _look_relative(pictures: Sequence[Picture], findings: Findings) -> bool:
    """Whether the coordinates are fractions of the images' sides: hardly one is above 1."""
    boxes = [item.box for picture in pictures for item in picture.items]
    small = sum(max(map(abs, box)) <= MOST_OF_ONE for box in boxes)
    relative = bool(boxes) and small >= RELATIVE_SHARE * len(boxes)
    if relative:
        findings.say(
            "relative-coordinates",
            f"{small} of {len(boxes)} boxes have no coordinate above 1, so they were read as fractions of the images' "
            f"width and height",
            small,
            NOTE,
        )
    return relative


class _Sizes:
    """Finds the files and sizes of images."""

    def __init__(self, entry: CatalogEntry, table: Table, findings: Findings) -> None:
        self.table, self.findings = table, findings
        self.finder = ImageFinder(entry.images, findings)

    def of(self, picture: Picture) -> tuple[Path | None, tuple[int, int] | None]:
        """The file of an image and its (height, width); None for what does not exist or cannot be read."""
        file = self.finder.find(picture.name)
        if file is None:
            return None, None
        place = Entry(self.table.path, f"line {picture.line}", self.findings, texts=True)
        height, width = picture.size_hw or (None, None)
        return file, stated_or_read_size(file, height, width, place)


class _Packer:
    """Packs objects: in pixels, with masks where some of the polygons are more than boxes."""

    def __init__(
        self,
        table: Table,
        label_of: Mapping[str, int],
        relative: bool,
        found: Sequence[tuple[Picture, Path | None, tuple[int, int] | None]],
    ) -> None:
        self.label_of, self.relative = label_of, relative
        self.masks = any(item.rings and not is_box(item.rings) for picture, *_ in found for item in picture.items)
        self.as_size = table.columns.form == "list" and not _are_corners(found)

    def add_objects(self, builder: RecordBuilder, picture: Picture, size_hw: tuple[int, int]) -> None:
        """Add the objects of an image."""
        for item in picture.items:
            if item.label in self.label_of:
                rings = item.rings if self.masks else None
                label = self.label_of[item.label]
                builder.add_object(self._box(item, size_hw), label, iscrowd=item.crowd, segmentation=rings or None)

    def _box(self, item: Item, size_hw: tuple[int, int]) -> tuple[float, float, float, float]:
        x1, y1, x2, y2 = item.box
        if self.as_size:
            x2, y2 = x1 + x2, y1 + y2
        if self.relative:
            height, width = size_hw
            return x1 * width, y1 * height, x2 * width, y2 * height
        return x1, y1, x2, y2


def _are_corners(found: Sequence[tuple[Picture, Path | None, tuple[int, int] | None]]) -> bool:
    """Whether boxes of four numbers are x1, y1, x2, y2, and not x, y, width, height: most fit so, and not otherwise."""
    form = BoxForm()
    for picture, _, size_hw in found:
        for item in picture.items if size_hw else ():
            form.add(item.box, size_hw or (0, 0))
    return form.looks_like_corners
