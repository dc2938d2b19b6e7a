"""What `detframe check` prints, within 80 columns, and what it writes as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detframe import __version__
from detframe.data.findings import ERROR, NOTE, WARNING, Finding
from detframe.data.screen import Screened, Split, class_counts
from detframe.errors import printable

if TYPE_CHECKING:
    from detframe.cli.check_model import ModelCheck
    from detframe.data.folder import FolderData

WIDTH = 79  # of running text; tables may have one more
JSON_VERSION = 1  # raise it when a field changes its meaning or goes away
CLASSES_SHOWN = 20
PERCENTILES = {"smallest": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "largest": 100}
_LONGEST_NAME = 28
_HEADINGS = {
    ERROR: "errors: these would spoil a training",
    WARNING: "warnings: look at these before training",
    NOTE: "notes: nothing need be done",
}


def report(
    name: str,
    folder: FolderData | None,
    screened: Screened,
    quick: bool,
    model: ModelCheck | None = None,
    written: dict[str, Any] | None = None,
) -> str:
    """The whole text.

    Args:
        name: of the data, as the user gave it.
        folder: how it was recognised; None where a config names its data sets.
        quick: whether only headers of images were read.
        model: what is said of the model.
        written: the files of a clean copy, and what is changed in them.
    """
    blocks = [_title(name, folder), _table(_split_rows(screened.splits))]
    blocks += [_table(_class_rows(screened.splits)), _table(_side_rows(screened.splits))]
    blocks += ["\n".join(map(_cut, model.lines))] if model is not None else []
    blocks += [_section(severity, screened.of(severity)) for severity in (ERROR, WARNING, NOTE)]
    blocks += [_about_copy(written)] if written else []
    blocks.append(_verdict(screened, quick))
    return printable("\n\n".join(block for block in blocks if block)) + "\n"


def _title(name: str, folder: FolderData | None) -> str:
    if folder is None:
        return _wrapped(f"{name}: the data sets of this config")
    return _wrapped(f"{name} is read as {folder.recognised.format}: {folder.recognised.reason}")


def _verdict(screened: Screened, quick: bool) -> str:
    counts = [(len(screened.of(severity)), severity) for severity in (ERROR, WARNING, NOTE)]
    said = ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for count, severity in counts if count)
    looked = " (the pixels of images were not looked at: --quick)" if quick else ""
    if screened.of(ERROR):
        return _wrapped(f"NOT READY: {said}{looked}. Exit code 1.")
    if said:
        return _wrapped(f"READY to train on: no errors; {said}{looked}.")
    return _wrapped(f"READY to train on: nothing is odd about it{looked}.")


def _cut(line: str) -> str:
    """A line of a table, which other lines stand below, at most as wide as the screen."""
    return line if len(line) <= WIDTH + 1 else _wrapped(line.strip(), "  ", "    ")


def _about_copy(written: dict[str, Any]) -> str:
    lines = ["written as COCO, without what could be mended"]
    for row in written["files"]:
        crowds = f", {row['crowds']} crowds" if row["crowds"] else ""
        counts = f"{row['images']} images, {row['objects']} objects{crowds}"
        lines.append(_wrapped(f"{row['file']}: {counts}", "- ", "    "))
    for what, count in written["changes"].items():
        lines.append(_wrapped(f"{count} {what}", "  left out: ", "    "))
    if not written["changes"]:
        lines.append("  nothing had to be left out")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- findings
def _section(severity: str, findings: Sequence[Finding]) -> str:
    """The findings of one severity under a heading; what several splits or findings share is said once."""
    lines, findings = [_HEADINGS[severity]] if findings else [], _of_several_splits(findings)
    for i, finding in enumerate(findings):
        lines.append(_wrapped(_text(finding), "- ", "  "))
        lines += [_wrapped(example, "    ", "      ") for example in _examples(finding)]
        following = findings[i + 1].remedy if i + 1 < len(findings) else ""
        if finding.remedy and finding.remedy != following:
            lines.append(_wrapped(finding.remedy, "  > ", "    ", whole=True))
    return "\n".join(lines)


def _of_several_splits(findings: Sequence[Finding]) -> list[Finding]:
    """What is the same of several splits as one each, "train, val": readers count in the file that all are from."""
    out: list[Finding] = []
    for finding in findings:
        before = out[-1] if out else None
        if before is not None and replace(finding, where=before.where) == before:
            out[-1] = replace(before, where=", ".join((before.where, finding.where)))
        else:
            out.append(finding)
    return out


def _text(finding: Finding) -> str:
    where = f"{finding.where}: " if finding.where else ""
    return f"{where}{finding.text}" if finding.whole else f"{where}{finding.count} {finding.text}"


def _examples(finding: Finding) -> Iterator[str]:
    """The examples, short ones on one line."""
    if finding.whole or not finding.examples:
        return
    more = finding.count - len(finding.examples)
    shown = [*finding.examples, *([f"and {more} more"] if more > 0 else [])]
    if sum(map(len, shown)) + 2 * len(shown) < WIDTH - 4:
        yield ", ".join(shown)
    else:
        yield from shown


def _wrapped(text: str, first: str = "", further: str = "  ", whole: bool = False) -> str:
    """Lines of at most WIDTH columns; a word that is longer than a line, as a path may be, loses its middle.

    Args:
        whole: it stays whole, and its line is longer: somebody is to type it.
    """
    longest = WIDTH - max(len(first), len(further))
    words = (word if whole or len(word) <= longest else _shortened(word, longest) for word in text.split())
    return textwrap.fill(
        " ".join(words), WIDTH, initial_indent=first, subsequent_indent=further,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- tables
def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns: the first to the left, the others to the right; "" where there is a heading alone."""
    if len(rows) < 2:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    out = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def _split_rows(splits: Sequence[Split]) -> list[list[str]]:
    rows = [["split", "images", "without objects", "objects", "an image", "at most", "sizes of images"]]
    for split in splits:
        facts = _facts(split)
        rows.append(
            [
                split.name,
                str(facts["images"]),
                str(facts["images_without_objects"]),
                str(facts["objects"]),
                f"{facts['objects_per_image']['mean']:.1f}",
                str(facts["objects_per_image"]["most"]),
                _sizes(facts["image_sizes"]),
            ]
        )
    return rows


def _sizes(sizes: dict[str, Any] | None) -> str:
    if sizes is None:
        return "-"
    low, high = ("x".join(map(str, sizes[key])) for key in ("smallest", "largest"))
    return low if low == high else f"{low} to {high}"


def _class_rows(splits: Sequence[Split]) -> list[list[str]]:
    """Objects of each class, those with the most first where there are too many to show."""
    classes = _classes(splits)
    if len(classes) > CLASSES_SHOWN:
        classes = sorted(classes, key=lambda item: -sum(item["objects"].values()))
    rows = [["class", *(split.name for split in splits)]]
    for item in classes[:CLASSES_SHOWN]:
        rows.append(
            [_shortened(item["name"], _LONGEST_NAME), *(str(item["objects"].get(split.name, "-")) for split in splits)]
        )
    rest = classes[CLASSES_SHOWN:]
    if rest:
        sums = [str(sum(item["objects"].get(split.name, 0) for item in rest)) for split in splits]
        rows.append([f"{len(rest)} more classes", *sums])
    return rows


def _shortened(name: str, longest: int) -> str:
    """A name of so many characters at most, its beginning and its end."""
    half = (longest - 3) // 2
    return name if len(name) <= longest else f"{name[: longest - 3 - half]}...{name[-half:]}"


def _side_rows(splits: Sequence[Split]) -> list[list[str]]:
    """Percentiles of the sizes of objects, as the side of a square of their area."""
    rows = [["size of objects, px", *PERCENTILES]]
    for split in splits:
        sides = _facts(split)["object_sides"]
        if sides:
            rows.append([split.name, *(f"{side:.3g}" if side < 10 else f"{side:.0f}" for side in sides.values())])
    return rows


# ---------------------------------------------------------------------------------------------- JSON
def as_dict(
    name: str,
    folder: FolderData | None,
    screened: Screened,
    model: ModelCheck | None = None,
    written: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """All that `report` says, for programs; docs/checking_data.md describes it."""
    recognised = None
    if folder is not None:
        found = folder.recognised
        recognised = {"format": found.format, "reason": found.reason, "notes": list(found.notes)}
    return {
        "version": JSON_VERSION,
        "detframe": __version__,
        "data": name,
        "recognised": recognised,
        "splits": {split.name: _facts(split) for split in screened.splits},
        "classes": _classes(screened.splits),
        "findings": [_finding(finding) for finding in screened.findings],
        "model": model.facts if model is not None else None,
        "counts": {severity: len(screened.of(severity)) for severity in (ERROR, WARNING, NOTE)},
        "ready": not screened.of(ERROR),
        "written": written,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "code": finding.code,
        "split": finding.where,
        "count": finding.count,
        "text": finding.text if finding.whole else f"{finding.count} {finding.text}",
        "examples": list(finding.examples),
        "remedy": finding.remedy,
    }


def _facts(split: Split) -> dict[str, Any]:
    """Numbers of one split."""
    counts, objects, sizes_hw = split.records.num_objects, split.objects, split.records.sizes_hw
    boxes = objects.boxes[~objects.iscrowd]
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    areas = sizes_hw.astype(np.int64).prod(axis=1)
    images = len(counts)
    ends = {} if not images else {"smallest": sizes_hw[areas.argmin()], "largest": sizes_hw[areas.argmax()]}
    return {
        "images": images,
        "images_without_objects": int((counts == 0).sum()),
        "objects": int(counts.sum()),
        "crowds": int(objects.iscrowd.sum()),
        "objects_per_image": {
            "mean": float(counts.mean()) if images else 0.0,
            "median": float(np.median(counts)) if images else 0.0,
            "most": int(counts.max(initial=0)),
        },
        "object_sides": {
            str(p): round(float(np.percentile(sides, p)), 2) for p in (PERCENTILES.values() if len(sides) else ())
        },
        "image_sizes": {key: [int(hw[1]), int(hw[0])] for key, hw in ends.items()} or None,
    }


def _classes(splits: Sequence[Split]) -> list[dict[str, Any]]:
    """Every class in the order of its label, with its objects by split."""
    counts = {split.name: class_counts(split) for split in splits}
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    return [
        {"name": name, "objects": {split: of[name] for split, of in counts.items() if name in of}} for name in names
    ]
