"""Pascal VOC: one XML file per image, and lists of image names in ImageSets/Main.

docs/own_data.md says what is read. voc_files reads XML and lists, voc_find recognises a data set.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from detframe.data.entries import CatalogEntry, check_flag, check_text
from detframe.data.findings import NOTE, Findings, Kind
from detframe.data.formats.fields import Entry
from detframe.data.formats.locate import OTHER_SPELLING, ImageFinder, add_missing, stated_or_read_size
from detframe.data.formats.voc_files import (
    Annotation,
    annotation_of,
    class_names,
    list_path,
    listed_keys,
    lists_beside,
    read_annotation,
    read_labelmap,
)
from detframe.data.formats.voc_find import LOOKS_FOR, recognise
from detframe.data.listing import Listing
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.data.recognition import recognised_by
from detframe.errors import InvalidValueError, MissingFileError, listed
from detframe.files import read_text
from detframe.registry import DATASET_FORMATS

DIFFICULT = Kind(
    "object is marked as difficult, and was taken as any other",
    "objects are marked as difficult, and were taken as any others",
    code="difficult-object",
    severity=NOTE,
    remedy="`difficult: ignore` neither trains on them nor counts them",
)

_CONVENTION = {
    True: "the corners of boxes were read as numbers of pixels, the first of them 1, as Pascal VOC writes them; "
    "`one_based: false` takes them as positions from 0",
    False: "the corners of boxes were read as positions from 0, as annotation programs write them; `one_based: true` "
    "takes them as numbers of pixels, as Pascal VOC writes them",
}


@DATASET_FORMATS.register("voc")
@recognised_by(recognise, looks_for=LOOKS_FOR)
def read_voc(
    entry: CatalogEntry,
    *,
    split: str = "",
    names: str | Path = "",
    one_based: bool = True,
    difficult: str = "ignore",
) -> PackedDataset:
    """Read VOC annotations; the fields are explained in datasets/catalog.yaml.

    An image is the file of the XML's own name in or below the image folder, or else the one that the XML names. Image
    ids count the XML files of the folder and those below it, so that those of two splits differ.

    Raises:
        ValueError: malformed XML (with its position), an object without name or corners, or a bad field of the entry.
            The message names the file.
        FileNotFoundError: the list of the split or an XML file does not exist.
    """
    if difficult not in ("ignore", "keep"):
        raise InvalidValueError(f"data set {entry.name!r}: difficult must be ignore or keep, not {difficult!r}")
    one_based = check_flag(entry.name, "one_based", one_based)
    split = check_text(entry.name, "split", split)
    files = _xml_files(entry)
    keys = _read_split(entry, split, files) if split else list(files)
    findings = Findings()
    found, annotations = _read_all(entry, files, keys, one_based, findings)
    known = _in_order(entry, names, found, findings)
    builder = RecordBuilder(Metadata(entry.name, known, tuple(range(1, len(known) + 1))), findings)
    labels = {name: label for label, name in enumerate(known, 1)}
    findings.say("corner-convention", _CONVENTION[one_based], len(annotations), NOTE)
    images = VocImages(entry.images, findings)
    numbers = {key: number for number, key in enumerate(files, 1)}
    for key, annotation in annotations.items():
        image = images.of(key, annotation.named)
        if image is None:
            add_missing(builder, images.finder, key)
            continue
        place = Entry(annotation.path, f"the size of {image.name}", findings, texts=True)
        size = stated_or_read_size(image, *annotation.sides, place)
        if size is not None:
            builder.add_image(image, numbers[key], size)
            _add_objects(builder, annotation, labels, difficult)
    return builder.build()


def _read_all(
    entry: CatalogEntry, files: dict[str, Path], keys: Sequence[str], one_based: bool, findings: Findings
) -> tuple[set[str], dict[str, Annotation]]:
    """The classes of all XML files, and the annotations of the chosen ones, in their order."""
    wanted = dict.fromkeys(keys)
    found: set[str] = set()
    annotations: dict[str, Annotation] = {}
    for key in {**wanted, **files}:
        root = _root(entry, files, key)
        path = files[key]
        found |= class_names(root, path)
        if key in wanted:
            annotations[key] = annotation_of(root, path, one_based, findings)
    return found, annotations


def sources(entry: CatalogEntry) -> list[Path]:
    """The files that the records are made from: those below the annotations too, and the list of class names."""
    return [*_xml_files(entry).values(), *entry.named_file("names")]


read_voc.sources = sources  # type: ignore[attr-defined]


def _xml_files(entry: CatalogEntry) -> dict[str, Path]:
    """The XML files by their paths without suffix, relative to the annotations, in the order of these."""
    folder = entry.annotations
    if folder.is_file():
        return {folder.stem: folder}
    below = {file.with_suffix("").as_posix(): folder / file for file in Listing(folder).with_suffix(".xml")}
    # what lies there and is no file is not passed over without a word; macOS writes ._a.xml beside a.xml
    right_in_it = {path.stem: path for path in folder.glob("*.xml") if not path.name.startswith(".")}
    files = {**below, **right_in_it}
    if not files:
        raise MissingFileError(f"data set {entry.name!r}: no XML file in {folder}")
    return dict(sorted(files.items()))


def _read_split(entry: CatalogEntry, split: str, known: Collection[str]) -> list[str]:
    path = list_path(entry.annotations, split)
    if not os.path.isfile(path):  # a method of Path raises for a name that is too long
        there = ", ".join(lists_beside(entry.annotations)) or "none"
        raise MissingFileError(f"data set {entry.name!r}: the split {path} does not exist; splits there: {there}")
    keys = listed_keys(path, known)
    repeated = len(keys) - len(set(keys))
    if repeated:
        raise InvalidValueError(f"{path} names {repeated} images twice")
    return keys


def _root(entry: CatalogEntry, files: dict[str, Path], key: str) -> Element:
    path = files.get(key, entry.annotations / f"{key}.xml")
    try:
        return read_annotation(path)
    except FileNotFoundError:
        raise MissingFileError(f"data set {entry.name!r}: the split names {key}, but {path} does not exist") from None


def _in_order(entry: CatalogEntry, names: str | Path, found: set[str], findings: Findings) -> tuple[str, ...]:
    """The classes in the order of the file that lists them, or else sorted."""
    if not names:
        return tuple(sorted(found))
    path = entry.path_of(check_text(entry.name, "names", str(names)))
    known = read_labelmap(read_text(path, "the list of classes"), path)
    known = [name for name in known if name != "background" or name in found]
    strays = sorted(found - set(known))
    if strays:
        findings.say(
            "class-not-listed",
            f"{len(strays)} classes are not in {path.name}, and stand behind those that are: {listed(strays, 5)}",
            len(strays),
        )
    return (*known, *strays)


def _add_objects(builder: RecordBuilder, annotation: Annotation, labels: dict[str, int], difficult: str) -> None:
    for number, item in enumerate(annotation.objects, 1):
        if item.difficult and difficult == "keep":
            builder.findings.add(DIFFICULT, f"object {number} of {annotation.path.name}")
        builder.add_object(item.box, labels[item.name], iscrowd=item.difficult and difficult == "ignore")


# ------------------------------------------------------------------ the image of an XML file
SAME_STEM = Kind(
    "image has the name of another one but for its suffix, and was taken in its place",
    "images have the names of others but for their suffixes, and were taken in their place",
    code="image-of-two-suffixes",
)
OTHER_FILENAME = Kind(
    "XML file names in <filename> another image than that of its own name, which was taken",
    "XML files name in <filename> other images than those of their own names, which were taken",
    code="other-filename",
    severity=NOTE,
)
BY_FILENAME = Kind(
    "XML file has no image of its own name, and that of its <filename> was taken",
    "XML files have no images of their own names, and those of their <filename> were taken",
    code="image-by-filename",
    severity=NOTE,
)


class VocImages:
    """Finds the images of XML files in and below a folder: those of their own names, or else those that they name."""

    def __init__(self, folder: Path, findings: Findings) -> None:
        self.finder, self.findings = ImageFinder(folder, findings), findings

    def of(self, key: str, named: str) -> Path | None:
        """The image of an XML file.

        Args:
            key: the path of the XML file without suffix, relative to the annotations, with slashes.
            named: what it calls its image.
        """
        own = self._own(key, PurePosixPath(named.replace("\\", "/")).name)
        if own is not None:
            if named and PurePosixPath(named.replace("\\", "/")).stem != PurePosixPath(key).name:
                self.findings.add(OTHER_FILENAME, f"{key}.xml: {named}")
            return own
        found = self.finder.find(named)
        if found is not None:
            self.findings.add(BY_FILENAME, f"{found.name} of {key}.xml")
        return found

    def _own(self, key: str, named: str) -> Path | None:
        """The image of the XML file's own name; of several that differ in their suffix, the one that it names."""
        matches = self.finder.matches(key)
        if len(matches) > 1:
            matches = [path for path in matches if path.name == named] or _of_one_folder(matches)
            # of what is not clear by now, the last: as it has always been, and with a word
            if len(matches) > 1:
                self.findings.add(SAME_STEM, f"{matches[-1].name} for {matches[-2].name}")
                matches = matches[-1:]
        if len(matches) != 1:
            return None
        if not matches[0].name.startswith(PurePosixPath(key).name):
            self.findings.add(OTHER_SPELLING, f"{matches[0].name} for {key}")
        return matches[0]


def _of_one_folder(paths: list[Path]) -> list[Path]:
    """Paths that lie in one folder; none, where they do not: which of them is meant cannot be known."""
    return paths if len({path.parent for path in paths}) == 1 else []
