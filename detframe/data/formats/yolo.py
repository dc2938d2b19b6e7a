"""YOLO: a label file for each image, with a class and fractions of the image in each row.

docs/own_data.md says what is read. The files beside this one read the rows (yolo_rows) and the files that describe a
data set (yolo_data_file, yolo_places), pair images with labels (yolo_labels), name the classes (yolo_classes), and
recognise a data set (yolo_find).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detframe.data.entries import CatalogEntry
from detframe.data.findings import ERROR, NOTE, Findings, Kind
from detframe.data.formats.yolo_classes import Classes, Image, classes_of, file_of_names
from detframe.data.formats.yolo_data_file import DataFile, read_data_file
from detframe.data.formats.yolo_find import LOOKS_FOR, recognise
from detframe.data.formats.yolo_labels import LabelIndex, Pairs, pair_folders, pair_included
from detframe.data.formats.yolo_places import images_and_labels, locate_parts
from detframe.data.formats.yolo_rows import (
    FAR,
    KEYPOINT_OUTSIDE,
    NO_FRACTIONS,
    OUTSIDE,
    ROUNDING,
    LabelReader,
    Row,
)
from detframe.data.images import ImageReadError, image_size
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.data.recognition import recognised_by
from detframe.errors import InvalidValueError, MissingFileError, UserError, listed, shown
from detframe.registry import DATASET_FORMATS
from detframe.storage import each_fetched

UNREADABLE = Kind(
    "image cannot be read, so that its labels have no size, and was left out",
    "images cannot be read, so that their labels have no size, and were left out",
    code="unreadable-image",
    severity=ERROR,
    remedy="replace the images, or remove them with their labels",
)
FEW_SEGMENTS = 0.1  # of all objects; below, nobody learns masks from them


@DATASET_FORMATS.register("yolo")
@recognised_by(recognise, LOOKS_FOR)
def read_yolo(
    entry: CatalogEntry,
    *,
    split: str = "",
    names: Sequence[str] | Mapping[int, str] | str | Path = (),
    include: Sequence[str | Path] = (),
    kpt_shape: Sequence[int] = (),
    kpt_names: Sequence[str] = (),
    flip_idx: Sequence[int] = (),
) -> PackedDataset:
    """Read YOLO labels; the fields are explained in docs/own_data.md.

    `annotations` is the folder of the label files, or the data.yaml or obj.data of the data set. Category ids are the
    classes' own numbers, from 0 on. Polygons become masks, unless they are fewer than a tenth of all objects.

    Raises:
        ValueError: rows that are none, class ids without a name, pixels in place of fractions (each of them one error
            for the whole data set), or a malformed data.yaml or field of the entry.
        FileNotFoundError: what a field or a data.yaml names does not exist, or no label file belongs to an image.
    """
    findings = Findings()
    data = read_data_file(entry.annotations) if entry.annotations.is_file() else None
    classes = classes_of(entry, data, _given(entry, names), (kpt_shape, kpt_names, flip_idx), findings)
    pairs = _pairs(entry, data, split, include, findings)
    reader = LabelReader(findings, classes.keypoints)
    images = [Image(n, path, label, reader.read(label) if label else []) for n, path, label in pairs.images]
    reader.check()
    images = _with_fractions(entry, images, findings)
    classes = classes.completed(images, findings)
    classes.check(entry.name, images)
    masks = _with_masks(images, findings)
    builder = RecordBuilder(classes.metadata(entry.name), findings)
    for image in each_fetched(images, lambda image: image.path):
        _add_image(builder, image, classes, masks)
    for name, near in pairs.missing:
        builder.add_missing(name, near)
    return builder.build()


def sources(entry: CatalogEntry) -> list[Path]:
    """What else the records are made from: lists, files with names, and what a data file leads to."""
    options = (entry.options.get("names"), *(entry.options.get("include") or ()))
    out = [entry.path_of(item) for item in options if isinstance(item, str | Path) and str(item)]
    if not entry.options.get("names"):
        found = file_of_names(entry.images, entry.annotations)
        out += [] if found is None else [found]
    if entry.annotations.is_file():
        out += _led_to(entry.annotations)
    return [path for path in dict.fromkeys(out) if path.exists()]


def _led_to(path: Path) -> list[Path]:
    """The folders and lists of a data file, and the label files of the folders; none where it cannot be read."""
    try:
        places = [place for paths in locate_parts(read_data_file(path)).parts.values() for place in paths]
    except UserError:  # the reader says what is wrong with it
        return []
    out = list(places)
    for place in filter(Path.is_dir, places):
        images, labels = images_and_labels(place)
        out += [images, labels, *(labels / name for name in LabelIndex(labels).files)]
    return out


read_yolo.sources = sources  # type: ignore[attr-defined]


# ------------------------------------------------------------------ fields of the entry
def _given(entry: CatalogEntry, names: object) -> object:
    """The class names that the entry gives; a text is the path of a file of them."""
    if not isinstance(names, str | Path) or not str(names):
        return names
    path = entry.path_of(names)
    if not path.is_file():
        raise MissingFileError(
            f"data set {entry.name!r}: names must be a list of class names, or a file of them (data.yaml, classes.txt, "
            f"obj.names); {path} does not exist"
        )
    return path


def _pairs(
    entry: CatalogEntry, data: DataFile | None, split: str, include: Sequence[str | Path], findings: Findings
) -> Pairs:
    """The images of the entry with their label files."""
    if isinstance(include, str | Path) or any(not isinstance(item, str | Path) for item in include or ()):
        raise InvalidValueError(f"data set {entry.name!r}: include must be a list of paths, not {shown(include)}")
    places = [entry.path_of(item) for item in include or ()]
    absent = [path for path in places if not path.exists()]
    if absent:
        raise MissingFileError(f"data set {entry.name!r}: include names {absent[0]}, which does not exist")
    if places:
        pairs = pair_included(entry.images, None if data else entry.annotations, places, findings)
    elif data is not None:
        pairs = pair_included(entry.images, None, _places_of(entry, data, split, findings), findings)
    elif split:
        raise InvalidValueError(
            f"data set {entry.name!r}: split: {split} chooses a split of a data.yaml, and annotations is the folder "
            f"{entry.annotations}; name the data.yaml there, or the folders of the split"
        )
    else:
        pairs = pair_folders(entry.images, entry.annotations, findings)
    if not any(label for _, _, label in pairs.images):
        raise MissingFileError(
            f"data set {entry.name!r}: no label file (.txt) of {entry.annotations} belongs to one of the "
            f"{len(pairs.images)} images of {entry.images}; a label file has the name of its image, and lies "
            "beside it, or in labels/ where the image lies in images/"
        )
    return pairs


def _places_of(entry: CatalogEntry, data: DataFile, split: str, findings: Findings) -> tuple[Path, ...]:
    """The folders and lists of one split of a data file."""
    places = locate_parts(data)
    if not split and len(data.parts) == 1:
        split = next(iter(data.parts))
    if split not in data.parts:
        known = ", ".join(data.parts) or "none"
        wrong = f"no split {split!r}" if split else "several splits"
        raise InvalidValueError(f"data set {entry.name!r}: {data.path} has {wrong}; write split: and one of {known}")
    for note in places.notes:
        findings.say("data-file-repaired", note, severity=NOTE)
    if split not in places.parts:
        named = listed(places.lost.get(split, ()), 3)
        raise MissingFileError(f"data set {entry.name!r}: {split} of {data.path} is {named}, which does not exist")
    return places.parts[split]


# ------------------------------------------------------------------ rows
def _with_fractions(entry: CatalogEntry, images: list[Image], findings: Findings) -> list[Image]:
    """The images without rows whose numbers are no fractions.

    Raises:
        ValueError: most rows are so: they are written in pixels.
    """
    far = [(image, row) for image in images for row in image.rows if row.is_far()]
    rows = sum(len(image.rows) for image in images)
    if far and 2 * len(far) >= rows:
        examples = [f"{image.label}, line {row.line}" for image, row in far]
        raise InvalidValueError(
            f"data set {entry.name!r}: {len(far)} of {rows} label rows have numbers beyond {FAR:.0f}, as "
            f"{listed(examples, 3, '; ')}. They look like pixels, and YOLO's are fractions: divide x and width by the "
            f"width of the image, y and height by its height"
        )
    for image, row in far:
        findings.add(NO_FRACTIONS, f"{image.label_name}, line {row.line}")
    return [image._replace(rows=[row for row in image.rows if not row.is_far()]) for image in images] if far else images


def _with_masks(images: Sequence[Image], findings: Findings) -> bool:
    """Whether segments become masks; a few among many boxes do not."""
    rows = sum(len(image.rows) for image in images)
    segments = sum(row.is_segment for image in images for row in image.rows)
    if not segments or segments >= FEW_SEGMENTS * rows:
        return segments > 0
    text = (
        f"{segments} of {rows} label rows are segments or oriented boxes, too few to learn masks from, and were read "
        f"as the upright boxes around them"
    )
    findings.say("few-segments", text, segments, NOTE)
    return False


def _add_image(builder: RecordBuilder, image: Image, classes: Classes, masks: bool) -> None:
    try:
        height, width = image_size(image.path)
    except ImageReadError as error:
        builder.findings.add(UNREADABLE, str(error))
        return
    builder.add_image(image.path, image.number, (height, width))
    for row in image.rows:
        if row.leaves_image():
            builder.findings.add(OUTSIDE, f"{image.label_name}, line {row.line}")
        x1, y1, x2, y2 = row.corners()
        try:
            builder.add_object(
                (x1 * width, y1 * height, x2 * width, y2 * height),
                classes.label_of[row.class_id],
                segmentation=[_scaled(row.values, height, width)] if masks and row.is_segment else None,
                keypoints=_keypoints(image, row, classes, (height, width), builder.findings),
            )
        except InvalidValueError as error:
            raise InvalidValueError(f"{image.label}, line {row.line}: {error}") from None


def _scaled(points: Sequence[float], height: int, width: int) -> list[float]:
    """x, y, x, y, ... as pixels."""
    return [value * (height if at % 2 else width) for at, value in enumerate(points)]


def _keypoints(
    image: Image, row: Row, classes: Classes, size_hw: tuple[int, int], findings: Findings
) -> list[float] | None:
    """x, y in pixels and visibility of each keypoint; without a visibility, those at 0, 0 are not annotated."""
    if classes.keypoints is None or not row.keypoints:
        return None
    each, out = classes.keypoints.numbers, list[float]()
    for at in range(0, len(row.keypoints), each):
        x, y = row.keypoints[at : at + 2]
        seen = row.keypoints[at + 2] if each == 3 else 2.0 * bool(x or y)
        if not (-ROUNDING <= min(x, y) and max(x, y) <= 1 + ROUNDING):
            if seen:
                findings.add(KEYPOINT_OUTSIDE, f"{image.label_name}, line {row.line}")
            x = y = 0.0
            seen = 0.0 if seen in (0, 1, 2) else seen
        out += [x * size_hw[1], y * size_hw[0], seen]
    return out
