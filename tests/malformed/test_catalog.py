"""Catalogs: every field of an entry with every kind of value, the options of each format, and the file's bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2

from detframe.data import load_records
from tests.data.sets import pixels
from tests.data.tt100k_sets import sign
from tests.malformed import test_coco, test_voc
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import (
    DEPTH,
    FEWEST,
    TEXTS,
    byte_changes,
    clear,
    json_texts,
    lines_changed,
    no_files,
    text_changes,
)
from tests.malformed.records import check_records, facts

ENTRIES: dict[str, dict[str, Any]] = {
    "mine": {
        "format": "coco",
        "images": "images",
        "annotations": "instances.json",
        "keypoint_sigmas": [0.1, 0.2],
        "keypoint_flip_pairs": [["left_ear", "right_ear"]],
    },
    "boxes": {
        "format": "voc",
        "images": "images",
        "annotations": "Annotations",
        "split": "train",
        "classes": ["cat", "dog"],
        "one_based": True,
        "difficult": "ignore",
    },
    "signs": {
        "format": "tt100k",
        "images": ".",
        "annotations": "signs.json",
        "split": "images",
        "classes": ["i2", "pl50"],
    },
}
# Fields of every format
ENTRIES["part"] = {
    "format": "coco",
    "images": "images",
    "annotations": "instances.json",
    "split": ["few.txt", "0%-50%"],
    "classes": {"dog": "animal", "cat": "cat"},
    "others": "ignore",
}
MORE = ("empty text", "long text", "5000 digits", "900 lists", "lone surrogate")
SOME = {name: TEXTS[name] for name in (*FEWEST, *MORE)}
SOUND = "".join(f"{name}: {json.dumps(entry)}\n" for name, entry in ENTRIES.items())
BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
DOCUMENTS = {
    "anchors of anchors": f"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{BOMB}",
    "an entry in itself": "mine: &a {format: *a, images: x, annotations: x}\n",
    "an object": "mine: !!python/object/apply:os.system [ls]\n",
    "a list": "- mine\n",
    "a word": "mine\n",
    "two documents": SOUND + "---\n" + SOUND,
    "an entry twice": SOUND + f"mine: {json.dumps(ENTRIES['boxes'])}\n",
    "a field twice": 'mine: {"format": "coco", "format": "voc", "images": "images", "annotations": "Annotations"}\n',
    "entries in entries": "{a: " * DEPTH + "1" + "}" * DEPTH,
    "an unknown field": SOUND.replace('"keypoint_sigmas"', '"keypoint_sigma"'),
    "an unknown format": SOUND.replace('"coco"', '"cocoo"'),
}


def cases(folder: Path) -> Iterator[Case]:
    (folder / "images").mkdir()
    for stem in ("1", "2", "a", "b"):
        cv2.imwrite(str(folder / "images" / f"{stem}.png"), pixels(40, 60))
    (folder / "instances.json").write_text(json.dumps(test_coco.TREE))
    for file, text in (("Annotations/a.xml", test_voc.XML), ("ImageSets/Main/train.txt", "a\n")):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    (folder / "few.txt").write_text("1.png\nimages/2.png\n")
    image = {"id": 1, "path": "images/1.png", "objects": [sign("i2", (5, 6, 20, 21))]}
    (folder / "signs.json").write_text(json.dumps({"types": ["i2", "pl50"], "imgs": {"1": image}}))
    yield from _cases(folder / "catalog.yaml")


def _cases(path: Path) -> Iterator[Case]:
    path.write_text(SOUND)
    usual = {name: facts(load_records([name], str(path))) for name in ENTRIES}

    def read(name: str, place: Callable[[], object], may_change: bool) -> str:
        clear(path)
        place()
        records = load_records([name], str(path))
        check_records(records)
        if facts(records) != usual[name] and not may_change:
            raise NonsenseError("another result than that of the sound catalog, without a word")
        return READ

    def written(name: str, content: bytes, may_change: bool) -> Callable[[], str]:
        return lambda: read(name, lambda: path.write_bytes(content), may_change)

    for name, entry in ENTRIES.items():
        for what, at, text, document in json_texts({name: entry}, [(name, "images")], SOME):
            if name != "mine" and at[1:2] in (("format",), ("images",), ("annotations",)):
                continue  # of one entry is enough
            if what.rpartition("=")[2] in MORE and at != ("mine", "images"):
                continue
            named = ("catalog.yaml", repr(name), "a.xml")
            whole = document if what.startswith(("the whole", f"{name} ")) else f"{document}\n"
            yield Case(what, written(name, whole.encode(), _may_change(at, what, text)), named)
    document = SOUND.replace("}", "}\n")
    changes = [*byte_changes(document.encode()), *text_changes(document), *lines_changed(document)]
    changes += [(what, text.encode()) for what, text in DOCUMENTS.items()]
    for what, content in changes:
        yield Case(f"file {what}", written("mine", content, True), ("catalog.yaml", "'mine'"))
    for what, place in no_files(path, endless=True):
        yield Case(f"file {what}", lambda p=place: read("mine", p, False), ("catalog.yaml",))


def _may_change(at: Any, what: str, text: str) -> bool:
    """Whether what stands there is an option's other value, or an option that is absent."""
    options = {"one_based": ("true", "false"), "difficult": ()}
    if len(at) < 2 or at[1] in ("images", "annotations", "format"):
        return False
    if what.endswith("removed"):
        return True
    if at[0] == "part":
        # absent fields; and any word, as it is written, is a new name of a class
        return (len(at) == 2 and text == "null") or (
            len(at) == 3 and at[1] == "classes" and text[:1] not in ("", "[", "{")
        )
    if at[1] in options:
        return text in options[at[1]]
    return (
        (at[1] == "split" and text == '""')
        or (at[1] == "classes" and text == "[]")
        or "sigmas" in at[1]
        or "pairs" in at[1]
    )


def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("catalog", tmp_path, at_least=250)
