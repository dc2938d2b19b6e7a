"""Label Studio's own JSON: the full export (a list of tasks with their annotations) and JSON-MIN."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from detframe.data.entries import CatalogEntry, check_text
from detframe.data.findings import Findings, Kind
from detframe.data.formats.annotation_files import beginning, files_of, own_files, parts_by_split
from detframe.data.formats.fields import ID_RANGE, Entry
from detframe.data.formats.json_and_xml import read_json
from detframe.data.formats.label_studio_regions import Region, drawn, regions_of, shape_of
from detframe.data.formats.named_objects import NO_BOX, NO_CLASS, TWO_CLASSES, UNKNOWN_SHAPE, NamedObjects
from detframe.data.listing import IMAGE_SUFFIXES, files_below
from detframe.data.packing import PackedDataset
from detframe.data.recognition import Recognised, recognised_by
from detframe.errors import InvalidValueError, listed, shown
from detframe.registry import DATASET_FORMATS

SEVERAL = Kind(
    "task was annotated several times, and the first annotation was taken",
    "tasks were annotated several times, and the first annotation of each was taken",
    code="task-annotated-twice",
)
NOT_ANNOTATED = Kind(
    "task has no annotation (none, only cancelled ones, or only predictions) and was left out",
    "tasks have no annotation (none, only cancelled ones, or only predictions) and were left out",
    code="image-not-labelled",
    remedy="submit those without objects in Label Studio too: an empty annotation makes an image background",
)
NO_IMAGE = Kind(
    "task has no image in its data and was left out",
    "tasks have no image in their data and were left out",
    code="task-without-image",
)
_SUFFIXES = (".json",)
_FULL = re.compile(r'"(annotations|completions)"\s*:\s*\[.*("result"|"completed_by"|"was_cancelled")', re.DOTALL)
_TASK = re.compile(r'"(annotations|completions|predictions)"\s*:\s*\[')
_MIN = re.compile(r'"annotation_id"\s*:|"(rectangle|polygon|brush|ellipse|keypoint)labels"\s*:')


# -------------------------------------------------------------------------------- recognising
def recognise(path: Path) -> Recognised | None:
    """JSON files that begin as a list of tasks; splits are folders or files."""
    listing = files_below(path)
    own = own_files(listing, _SUFFIXES, _is_label_studio)
    if not own:
        return None
    names = {file: _names(file) for file in own}
    parts, notes = parts_by_split(listing.root, own, names.__getitem__)
    what = listed([str(file.relative_to(listing.root)) for file in own], 2)
    verb = "is a list of tasks" if len(own) == 1 else "are lists of tasks"
    return Recognised("label_studio", f"{what} {verb} of Label Studio", parts, notes)


def _is_label_studio(path: Path) -> bool:
    text = beginning(path).lstrip()
    if not re.match(r"\[\s*\{", text):
        return False
    return bool(_FULL.search(text) or _MIN.search(text) or (_TASK.search(text) and '"data"' in text))


def _names(path: Path) -> list[str]:
    """Names under which the first images may lie, of the beginning of a file."""
    found = re.finditer(r'"((?:[^"\\]|\\.)*)"', beginning(path, 2**20))
    texts = (match[1].replace("\\/", "/") for match in found)
    return [name for text in texts if basename(text) for name in names_of(text)]


# -------------------------------------------------------------------------------- reading
@dataclass
class _Task:
    """One task: its data, and the results of the annotation that was taken."""

    number: int
    data: Mapping[str, Any]
    results: list[Any]
    place: Entry


@dataclass
class _Image:
    """One image of a task, and its regions."""

    reference: str
    number: int
    size_hw: tuple[int, int] | None
    place: Entry
    regions: list[Region] = field(default_factory=list)


@DATASET_FORMATS.register("label_studio")
@recognised_by(recognise, looks_for="a JSON file of Label Studio: a list of tasks with annotations, or JSON-MIN")
def read_label_studio(entry: CatalogEntry, *, split: str = "") -> PackedDataset:
    """Read Label Studio's JSON: one file, or all of them in and below a folder.

    Of each task the first annotation that is not cancelled counts, and predictions never do; an annotation without
    regions makes its image background. Polygons and brush strokes are kept as masks; ellipses and turned rectangles
    become the upright boxes around them; key points are left out. Images are found by the name in the task's data, with
    or without the eight digits that Label Studio puts before the names of uploads.

    Args:
        split: of a folder, only the files whose path names this split; empty is all.

    Raises:
        ValueError: malformed JSON, or a task or region of another form; names the file and the task.
        FileNotFoundError: there is no such file in the folder.
    """
    findings, split = Findings(), check_text(entry.name, "split", split)
    files = files_of(entry, split, _SUFFIXES, _is_label_studio)
    tasks = [task for path in files for task in _tasks(path, findings)]
    images = _numbered(_images(tasks, findings))
    labels = {name for image in images for region in image.regions for name in region.labels[:1]}
    packer = NamedObjects(entry, sorted(labels), findings)
    twice = {name for name, count in Counter(basename(image.reference) for image in images).items() if count > 1}
    for image in images:
        names = names_of(image.reference, with_folders=basename(image.reference) in twice)
        path = packer.find(names, image.place.path.parent)
        if packer.begin(path, names[0], image.number, image.size_hw, image.place):
            for region in image.regions:
                _add(packer, region)
    return packer.build()


def _tasks(path: Path, findings: Findings) -> Iterator[_Task]:
    data = read_json(path)
    if not isinstance(data, list):
        raise InvalidValueError(f"{path} is no file of Label Studio: it needs a list of tasks; found {shown(data)}")
    seen: set[int] = set()
    for index, item in enumerate(data):
        place = Entry(path, f"task number {index + 1}", findings)
        values = place.mapping(item)
        number = place.whole(values.get("id", index + 1), "id", 0, ID_RANGE[1])
        place.name = f"task {number}"
        if number in seen:  # JSON-MIN has a row for each annotation
            findings.add(SEVERAL, place.name)
            continue
        seen.add(number)
        full = "data" in values
        results = _results(values, place) if full else _least_results(values)
        if results is not None:
            yield _Task(number, place.mapping(values["data"]) if full else values, results, place)


def _results(task: Mapping[str, Any], place: Entry) -> list[Any] | None:
    """Those of the first annotation that is not cancelled; None where there is none."""
    annotations = task.get("annotations", task.get("completions"))
    if annotations is not None and not isinstance(annotations, list):
        raise place.error(f"'annotations' must be a list, not {shown(annotations)}")
    own = Entry(place.path, f"an annotation of {place.name}", place.findings)
    kept = [
        annotation
        for annotation in map(own.mapping, annotations or ())
        if not own.flag(annotation.get("was_cancelled"), "was_cancelled")
        and not own.flag(annotation.get("cancelled"), "cancelled")
    ]
    if not kept:
        place.findings.add(NOT_ANNOTATED, place.name)
        return None
    if len(kept) > 1:
        place.findings.add(SEVERAL, place.name)
    results = kept[0].get("result")
    if not isinstance(results, list):
        raise own.error(f"'result' must be a list, not {shown(results)}; without objects it is []")
    return results


def _least_results(row: Mapping[str, Any]) -> list[Any]:
    """The regions of a row of JSON-MIN in the form of the full export: each has its value and the image's size."""
    return [
        {**{key: item[key] for key in ("original_width", "original_height") if key in item}, "value": item}
        for value in row.values()
        if isinstance(value, list)
        for item in value
        if isinstance(item, Mapping)
    ]


# -------------------------------------------------------------------------------- images
def _images(tasks: Sequence[_Task], findings: Findings) -> list[_Image]:
    """The images of all tasks, each with its regions."""
    targets: dict[str, None] = {}
    for task in tasks:
        for result in task.results:
            if isinstance(result, Mapping) and isinstance(result.get("to_name"), str):
                targets.setdefault(result["to_name"])
    out = []
    for task in tasks:
        found = references(task.data)
        if not found:
            findings.add(NO_IMAGE, task.place.name)
        out += _of_task(task, found, sorted(targets))
    return out


def _of_task(task: _Task, found: list[tuple[str, int, str]], targets: list[str]) -> list[_Image]:
    by_place: dict[tuple[str, int], list[Any]] = defaultdict(list)
    keys = list(dict.fromkeys(key for key, _, _ in found))
    for result in task.results:
        values = Entry(task.place.path, f"a result of {task.place.name}", task.place.findings).mapping(result)
        if found:
            by_place[_target(values, keys, targets, task.place), _index(values)].append(values)
    images = []
    for key, index, reference in found:
        regions = regions_of(by_place.pop((key, index), []), task.place)
        size_hw = next((region.size_hw for region in regions if region.size_hw), None)
        images.append(_Image(reference, task.number, size_hw, task.place, regions))
    if by_place and any(regions_of(results, task.place) for results in by_place.values()):
        key, index = next(iter(by_place))
        raise task.place.error(f"a result is of image {index + 1} of {key!r}, and its data has {len(found)} images")
    return images


def _index(result: Mapping[str, Any]) -> int:
    index = result.get("item_index")
    return index if isinstance(index, int) else 0


def _target(result: Mapping[str, Any], keys: list[str], targets: list[str], place: Entry) -> str:
    """The field of the data that holds the image of a result."""
    name = result.get("to_name", "")
    if len(keys) == 1 or name in keys:
        return keys[0] if len(keys) == 1 else str(name)
    if name in targets and len(targets) == len(keys):
        return sorted(keys)[targets.index(name)]
    raise place.error(f"a result is of {shown(name)}, and the data has the images {listed(keys, 5)}: which is it?")


def _numbered(images: list[_Image]) -> list[_Image]:
    """The images with the ids of their tasks, or where these are not unique, with numbers of their own."""
    if len({image.number for image in images}) < len(images):
        for number, image in enumerate(images, 1):
            image.number = number
    return images


# -------------------------------------------------------------------------------- regions
def _add(packer: NamedObjects, region: Region) -> None:
    name = region.place.in_file
    kind = shape_of(region)
    if kind == "point":
        packer.findings.add(NO_BOX, name)
        return
    if kind is None:
        packer.findings.add(UNKNOWN_SHAPE, f"{shown(region.kind)} in {name}")
        return
    if len(region.labels) > 1:
        packer.findings.add(TWO_CLASSES, f"{name}: {listed(region.labels, 3)}")
    found = drawn(kind, region, packer)
    if found is None:
        return
    if region.labels:
        packer.add(region.labels[0], *found, region.place)
    else:
        packer.findings.add(NO_CLASS, name)


# ------------------------------------------------------------------ where the images of a task are, by which names
_IMAGE_FIELDS = ("image", "img", "image_url", "url", "picture", "photo")
_ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]*://|/data/)", re.IGNORECASE)
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)", re.IGNORECASE)


def references(data: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(field, number in a list, what stands there) of each image in the data of a task."""
    found = []
    for key, value in data.items():
        items = value if isinstance(value, list) else [value]
        texts = [(index, item) for index, item in enumerate(items) if isinstance(item, str) and item.strip()]
        found += [(key, index, item) for index, item in texts if basename(item) or key.lower() in _IMAGE_FIELDS]
    return found


def path_of(reference: str) -> str:
    """The path in a reference: `/data/local-files/?d=a/b.jpg` and `s3://bucket/a/b.jpg` are a/b.jpg."""
    reference = reference.strip()
    if not _ADDRESS.match(reference):
        return reference
    try:
        parts = urlsplit(reference)
        local = parse_qs(parts.query).get("d")
    except ValueError:  # no address that can be read
        return reference
    return (local[0] if local and parts.path.rstrip("/").endswith("local-files") else unquote(parts.path)).lstrip("/")


def basename(reference: str) -> str:
    """The file name of an image in a reference; "" where it does not end as that of an image."""
    if len(reference) > 4096 or reference.startswith("data:"):
        return ""
    name = path_of(reference).replace("\\", "/").rpartition("/")[2]
    return name if name.lower().endswith(IMAGE_SUFFIXES) else ""


def names_of(reference: str, with_folders: bool = False) -> list[str]:
    """The names that the image of a reference may have, the likeliest first.

    Args:
        with_folders: the folders count, since other images have the same file name.
    """
    path = path_of(reference)[:4096]
    folder, slash, name = path.replace("\\", "/").rpartition("/")
    start = folder + slash if with_folders else ""
    bare = _UPLOAD.sub("", name)
    return [start + name or "an image without a name", *([start + bare] if bare != name else [])]
