"""What is said of a path that no format recognises: what was looked for, what was found, and what comes nearest."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from detframe.config.paths import with_docs
from detframe.config.yaml_text import safe_yaml
from detframe.data.archives import ARCHIVES
from detframe.data.candidates import DATA_FILES, recognisers
from detframe.data.listing import IMAGE_SUFFIXES, Listing, files_below
from detframe.errors import InvalidValueError, UserError, listed, shown
from detframe.files import read_text

_TREE_LINES, _NEAR_LINES = 6, 5  # with them the whole message fits a screen of 25 lines
_ASKED = 100  # files that are asked whether they may be read
_HEAD = 4096  # characters of a file that are looked at
_DOTA = re.compile(r"(-?[\d.]+\s+){8}[^\s\d]\S*(\s+\d)?")  # eight coordinates, a class, its difficulty
_SHEETS = (".xlsx", ".xls", ".ods")
_ARCHIVE_STARTS = ((b"PK\x03\x04", ".zip"), (b"\x1f\x8b", ".tar.gz"), (b"BZh", ".tar.bz2"), (b"\xfd7zXZ", ".tar.xz"))
_MASK_FOLDERS = ("mask", "masks", "annotations", "labels", "gt", "segmentation", "segmentations")
_OTHER_ARCHIVES = (".rar", ".7z", ".gz", ".bz2", ".xz", ".zst")


def not_recognised(path: Path, shown_path: str, format_name: str = "") -> InvalidValueError:
    """The error for a path that exists."""
    special = _special_file(path, shown_path) if path.is_file() else _special_folder(path, shown_path)
    if special:
        return InvalidValueError(special)
    listing = files_below(path)
    what = f"as {format_name}" if format_name else "as a data set"
    blocks = [f"{shown_path} is not recognised {what}."]
    near = nearest_things(listing)
    if len(near) > _NEAR_LINES:  # the last is about the images
        near = [*near[: _NEAR_LINES - 1], near[-1]]
    if near:
        blocks.append("What comes nearest:\n" + "\n".join(f"  - {line}" for line in near))
    blocks.append("What was found:\n" + "\n".join(f"  {line}" for line in short_tree(listing)))
    looked = [f"  - {name}: {_looks_for(reader)}" for name, reader in sorted(recognisers(format_name).items())]
    blocks.append("What was looked for:\n" + "\n".join(looked))
    blocks.append(
        with_docs(
            "Name the folder that holds both images and annotations, or the file of annotations itself. A format of "
            "your own is one function (docs/adding_a_format.md)."
        )
    )
    return InvalidValueError("\n".join(blocks))


def _looks_for(reader: object) -> str:
    doc = (getattr(reader, "__doc__", "") or "").strip().partition("\n")[0].rstrip(".")
    return getattr(reader, "looks_for", "") or doc or "what its `recognise` accepts"


# -------------------------------------------------------------------------------- paths that are something else
def _special_folder(path: Path, shown_path: str) -> str:
    listing = files_below(path)
    if listing.files:
        return ""
    hidden = ""
    if listing.unreadable:
        names = [str(folder) if folder.parts else "the folder itself" for folder in listing.unreadable]
        hidden = f" that may be read ({listed(names, 3)} may not: give yourself the permission, as with chmod -R u+rX)"
    elif listing.unnamed:
        names = [str(name).encode(errors="backslashreplace").decode() for name in listing.unnamed]
        hidden = f" with a name in UTF-8 ({listed(names, 3)}: rename them, as with convmv)"
    elif listing.dangling:
        hidden = f" behind its links ({listed([str(link) for link in listing.dangling], 3)} lead nowhere)"
    return f"{shown_path} has no file{hidden}. A data set is a folder with images and annotations"


def _special_file(path: Path, shown_path: str) -> str:
    name = path.name.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return (
            f"{shown_path} is one image; a data set is a folder with images and annotations, or the file of the "
            f"annotations. To find objects in an image: detframe predict --input {shown_path}"
        )
    if name.endswith(_OTHER_ARCHIVES):
        return f"{shown_path} is an archive of a kind that is not unpacked here (zip and tar are); unpack it first"
    if name.endswith((".pth", ".pt", ".safetensors")):
        return f"{shown_path} holds weights (--weights takes them); --data takes images with annotations"
    if name.endswith((".yaml", ".yml")):
        return _special_yaml(path, shown_path)
    if name.endswith(_SHEETS):
        return f"{shown_path} is a spreadsheet; save its table as CSV"
    suffix = next((suffix for start, suffix in _ARCHIVE_STARTS if _bytes(path).startswith(start)), "")
    return f"{shown_path} is an archive by its content; call it so: {path.name}{suffix}" if suffix else ""


def _special_yaml(path: Path, shown_path: str) -> str:
    """Why a YAML file is no data set: it is a catalog or a config of detframe, or something else."""
    try:
        tree = safe_yaml(read_text(path), str(path))
    except (UserError, OSError) as error:
        return f"{shown_path} cannot be read: {error}"
    if not isinstance(tree, dict):
        return f"{shown_path} holds no fields; a data.yaml has `train:`, `val:` and `names:`"
    entries = [str(k) for k, v in tree.items() if isinstance(v, dict) and {"format", "images", "annotations"} & set(v)]
    if entries:
        return (
            f"{shown_path} is a catalog of detframe, with the data sets {listed(entries, 6)}; --data takes the folder "
            f"of a data set. To train on entries of a catalog: detframe train --config-file CONFIG DATASETS.CATALOG "
            f"{shown_path} DATASETS.TRAIN {entries[0]} DATASETS.TEST {entries[-1]}"
        )
    if {"MODEL", "DATASETS", "SOLVER", "INPUT", "_BASE_"} & set(tree):
        return (
            f"{shown_path} is a config, and --data takes a data set; detframe train --config-file {shown_path} runs it"
        )
    fields = listed([str(key) for key in tree], 8) or "none"
    return f"{shown_path} has the fields {fields}; a data.yaml has `train:`, `val:` and `names:`"


# -------------------------------------------------------------------------------- what was found
def short_tree(listing: Listing) -> list[str]:
    """The folders with their files counted by suffix, the fullest first, in a few lines; all of them is one line."""
    by_folder: dict[Path, Counter[str]] = {}
    for file in listing.files:
        by_folder.setdefault(file.parent, Counter())[file.suffix.lower() or "without suffix"] += 1
    order = sorted(by_folder, key=lambda folder: (-by_folder[folder].total(), folder))
    kept = sorted(order[:_TREE_LINES])
    lines = [f"{_name(folder)}: {_counts(by_folder[folder])}" for folder in kept]
    if len(order) > len(kept):
        rest = sum((by_folder[folder] for folder in order[_TREE_LINES:]), Counter())
        lines.append(f"... {len(order) - len(kept)} more folders: {_counts(rest)}")
    for what, names in (
        ("may not be read", listing.unreadable),
        ("left out, because the name is not in UTF-8", listing.unnamed),
        ("is a link that leads nowhere", listing.dangling),
    ):
        if names:
            shown = str(names[0]).encode(errors="backslashreplace").decode()
            lines.append(f"{shown}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {what}")
    return lines


def _name(folder: Path) -> str:
    return f"{folder.as_posix()}/" if folder.parts else "./"


def _counts(counts: Counter[str]) -> str:
    ordered = counts.most_common()
    text = ", ".join(f"{count} {suffix}" for suffix, count in ordered[:5])
    return text + (f" and {sum(count for _, count in ordered[5:])} others" if len(ordered) > 5 else "")


# -------------------------------------------------------------------------------- what comes nearest
def nearest_things(listing: Listing) -> list[str]:
    """What nearly makes a data set of the files, each with what is missing."""
    images, found = listing.images(), []
    locked = [file for file in listing.with_suffix(*DATA_FILES)[:_ASKED] if not os.access(listing.root / file, os.R_OK)]
    if locked:
        names = listed([str(file) for file in locked], 3)
        return [f"{names} may not be read: give yourself the permission, as with chmod u+r"]
    found += _near_texts(listing, images)
    found += [line for file in listing.with_suffix(".json")[:2] if (line := _near_json(listing.root / file, file))]
    found += [line for file in listing.with_suffix(".csv")[:2] if (line := _near_csv(listing.root / file, file))]
    xml = listing.with_suffix(".xml")
    if xml:
        tag = re.search(r"<([A-Za-z_][\w.-]*)", re.sub(r"<[?!][^>]*>", "", _head(listing.root / xml[0])))
        found.append(f"{len(xml)} .xml files; {xml[0]} {f'begins with <{tag[1]}>' if tag else 'is no XML'}")
    lines = listing.with_suffix(".jsonl", ".ndjson")
    if lines:
        found.append(f"{lines[0]}: JSON Lines are not read, a JSON object for each image; export the data set as COCO")
    if sheets := listing.with_suffix(*_SHEETS):
        found.append(f"{sheets[0]} is a spreadsheet; save its table as CSV")
    records = [f for f in listing.files if f.suffix.lower() in (".tfrecord", ".record", ".tfrecords", ".parquet")]
    if records:
        found.append(f"{records[0]}: TFRecord and Parquet are not read; export the data set as COCO or VOC")
    archives = [file for file in listing.files if file.name.lower().endswith(ARCHIVES)]
    if archives:
        found.append(f"{archives[0]} is an archive: give its own path to --data, {listing.root / archives[0]}")
    if images and not found:
        bare = (
            f"{len(images)} images, but no file of annotations; a detector learns from boxes: draw some (labelme, "
            f"labelImg, CVAT, Label Studio), and put what the program exports beside the images"
        )
        found.append(_near_masks(images) or _labels_beside(images, listing.root) or bare)
    elif not images:
        found.append("no image: name the folder that holds the images too, or put the annotations beside them")
    return found


def _labels_beside(images: list[Path], root: Path) -> str:
    """Annotations that lie beside the folder of the images and not in it; "" where none do."""
    above = root.absolute().parent
    try:
        names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in sorted(above.iterdir())]
    except OSError:
        return ""
    beside = [name for name in names if name.lower() in ("labels/", "annotations/", "data.yaml", "annotations.json")]
    if not beside:
        return ""
    may = f"{listed(beside, 3)} beside {root.name}/ may belong to them"
    return f"{len(images)} images; {may}: name the folder above, {above}"


def _near_masks(images: list[Path]) -> str:
    """Of folders with images of the same names, as pictures and their masks are; "" where there are none."""
    folders: dict[Path, set[str]] = {}
    for image in images:
        folders.setdefault(image.parent, set()).add(image.stem)
    for one, stems in folders.items():
        for other in folders:
            if other.name.lower() in _MASK_FOLDERS and one != other and stems & folders[other]:
                return (
                    f"{_name(one)} and {_name(other)} have images of the same names, but masks drawn as images are not "
                    "read: write their outlines or boxes as COCO, with a polygon or a box for each object"
                )
    return ""


def _near_texts(listing: Listing, images: list[Path]) -> list[str]:
    texts = listing.with_suffix(".txt")
    stems = {image.stem for image in images}
    matching = [file for file in texts if file.stem in stems]
    if not matching:
        return []
    lines = [line.strip() for line in _head(listing.root / matching[0]).splitlines() if line.strip()]
    first = f"{matching[0]} begins with {shown(lines[0])}" if lines else f"{matching[0]} is empty"
    pairs = f"{len(images)} images and {len(matching)} .txt files of the same names ({first})"
    if any(_DOTA.fullmatch(line) for line in lines):
        return [f"{pairs}: DOTA's form, with turned boxes in pixels, is not read; convert it to COCO or YOLO"]
    names = [f for f in listing.files if f.suffix.lower() in (".yaml", ".yml", ".names") or f.name == "classes.txt"]
    if names:
        return [f"{pairs}, and {names[0]}; labels of YOLO are lines of class number, x, y, width, height from 0 to 1"]
    return [
        f"{pairs}, but no data.yaml, classes.txt or obj.names that names the classes: put a classes.txt with one name "
        f"a line beside them"
    ]


def _near_json(path: Path, name: Path) -> str:
    head = _head(path)
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size <= _HEAD else None
    except (ValueError, RecursionError) as error:
        return f"{name}: no valid JSON ({error})"
    if isinstance(tree, dict) and {"images", "annotations", "categories"} <= set(tree):
        problem = _unlike_coco(tree)
        return f"{name}: a JSON with the fields of COCO, but {problem}" if problem else f"{name}: a JSON of COCO"
    if isinstance(tree, dict) and {"images", "annotations"} <= set(tree):
        return f"{name}: a JSON with the fields of COCO, but without 'categories', which names the classes by their ids"
    if isinstance(tree, dict):
        return f"{name}: JSON with the fields {listed([str(key) for key in tree], 6) or 'none'}"
    if isinstance(tree, list) or head.lstrip().startswith("["):
        return f"{name}: a JSON list, as results have it; a COCO data set has images, annotations and categories"
    keys = dict.fromkeys(re.findall(r'"(\w+)"\s*:', head))
    return f"{name}: JSON with the fields {listed(list(keys), 6) or 'none'}"


def _unlike_coco(tree: dict[str, Any]) -> str:
    """Why a JSON with COCO's fields is no data set of boxes; "" for one that is."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(tree[key], list):
            return f"{key!r} is no list, but {shown(tree[key])}"
    first = next((item for item in tree["annotations"] if isinstance(item, dict)), {})
    lacking = [] if "segmentation" in first else ["bbox"]
    lacking = [key for key in (*lacking, "category_id") if key not in first]
    if first and lacking:
        return f"its first annotation has no {' and no '.join(map(repr, lacking))}, as captions and panoptic masks"
    named = any(isinstance(item, dict) and "file_name" in item for item in tree["images"])
    return "its images have no 'file_name'" if tree["images"] and not named else ""


def _near_csv(path: Path, name: Path) -> str:
    rows = list(csv.reader(_head(path).splitlines()[:1]))
    return f"{name}: a table with the columns {listed(rows[0], 8)}" if rows and rows[0] else f"{name}: an empty table"


def _head(path: Path) -> str:
    """The beginning of a file as text, whatever it is; "" where it cannot be read."""
    return _bytes(path).decode("utf-8", errors="replace")


def _bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
