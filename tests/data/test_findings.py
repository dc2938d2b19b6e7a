"""Findings: counted by kind, with a stable code; kept through the cache and through joining."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
from pathlib import Path

import pytest

import detframe.data
from detframe.data import Metadata, PackedDataset, RecordBuilder, Records, join, load_records
from detframe.data.findings import ERROR, NOTE, SEVERITIES, WARNING, Finding, Findings, Kind, sentence
from tests.data.sets import annotation, coco_records, write_coco

STRAY = Kind("cat was seen", "cats were seen", 2, "stray-cat", NOTE, "feed them")


def test_one_kind_is_one_finding() -> None:
    findings = Findings()
    findings.add(STRAY, "a")
    assert findings.found() == (Finding("stray-cat", NOTE, 1, "cat was seen", ("a",), "feed them"),)
    for name in "bc":
        findings.add(STRAY, name)
    findings.say("moon", "2 of 3 moons are full", 2, ERROR)
    cats, moons = findings.found()
    assert cats == Finding("stray-cat", NOTE, 3, "cats were seen", ("a", "b"), "feed them")
    assert cats.line("set") == "set: 3 cats were seen, as a; b"
    assert cats.line() == "3 cats were seen, as a; b"
    assert moons == sentence("moon", ERROR, "2 of 3 moons are full", 2)
    assert (moons.count, moons.examples, moons.whole) == (2, (), True)
    assert moons.line("set") == "set: 2 of 3 moons are full"
    assert findings.lines("set") == [cats.line("set"), moons.line("set")]


def test_every_kind_of_the_package_has_a_code() -> None:
    modules = [m.name for m in pkgutil.walk_packages(detframe.data.__path__, "detframe.data.")]
    kinds = {
        id(value): value
        for module in map(importlib.import_module, modules)
        for value in vars(module).values()
        if isinstance(value, Kind)
    }
    codes = [kind.code for kind in kinds.values()]
    assert len(codes) >= 20
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", code) and code != "other" for code in codes)
    assert {kind.severity for kind in kinds.values()} <= set(SEVERITIES)


def packed(name: str, *missing: str) -> PackedDataset:
    builder = RecordBuilder(Metadata(name, ("cat",), (1,)))
    builder.add_image("/a.png", 1, (40, 60))
    builder.add_object([30, 30, 30, 30], 1)
    for file in missing:
        builder.add_missing(file, "b0.png")
    return builder.build()


def test_a_builder_notes_missing_images() -> None:
    data = packed("a", "b.png", "c.png")
    assert data.missing == ("b.png", "c.png")
    assert len(data) == 1
    area, missing = data.findings
    assert area.code == "box-without-area"
    assert (missing.code, missing.severity, missing.count) == ("missing-image", ERROR, 2)
    assert missing.text == "annotated images do not exist and were left out"
    assert missing.examples == ("b.png (b0.png is there)", "c.png (b0.png is there)")
    assert data.warnings == tuple(finding.line("a") for finding in data.findings)


def test_notes_are_no_warnings_and_lines_of_a_reader_are_findings() -> None:
    note = Finding("stray-cat", NOTE, 1, "cat was seen")
    data = PackedDataset(packed("a").metadata, packed("a").arrays, ["a: what I saw"], findings=[note])
    assert data.findings == (sentence("other", WARNING, "what I saw"), note)
    assert data.warnings == ("a: what I saw",)
    again = pickle.loads(pickle.dumps(data))
    assert (again.findings, again.missing) == (data.findings, data.missing)


def test_joined_sets_have_the_findings_of_both() -> None:
    alone = join([packed("a", "b.png")])
    assert alone.findings == packed("a", "b.png").findings
    both = join([packed("a", "b.png"), packed("b")])
    assert both.missing == ("b.png",)
    assert [(f.code, f.count) for f in both.findings] == [
        ("box-without-area", 1),
        ("missing-image", 1),
        ("box-without-area", 1),
    ]
    assert both.findings[2].line() == (
        "1 box has no area inside the image and was left out (b), as [30.0, 30.0, 30.0, 30.0] in a.png"
    )
    assert both.select([0]).findings == both.findings


def test_findings_are_kept_in_the_cache(tmp_path: Path) -> None:
    rows = [annotation(1, 1, [0, 0, 0, 0]), annotation(2, 1, ["3", 3, 5, 5])]
    first = coco_records(tmp_path, rows)
    again = load_records(["mine"], str(tmp_path / "catalog.yaml"))
    assert again._parts[0].folder is not None
    assert [f.code for f in again.findings] == ["box-without-area", "number-as-text"]
    assert again.findings == first.findings
    assert again._parts[0].warnings == first._parts[0].warnings


@pytest.mark.parametrize("share", [1.0, 100.0])
def test_boxes_of_another_form_would_spoil_a_training(tmp_path: Path, share: float) -> None:
    box = [0.1, 0.1, 0.2, 0.2] if share == 1 else [30, 20, 59, 39]
    records: Records = coco_records(tmp_path, [annotation(i, 1, [v + i / 100 for v in box]) for i in range(1, 5)])
    code = "boxes-as-fractions" if share == 1 else "boxes-as-corners"
    finding = next(f for f in records.findings if f.code == code)
    assert finding.severity == ERROR
    assert finding.count == 4
    assert f"mine: {finding.text}" == finding.line("mine")


def test_a_file_without_annotations_is_found(tmp_path: Path) -> None:
    write_coco(tmp_path, None)
    (finding,) = load_records(["mine"], str(tmp_path / "catalog.yaml")).findings
    assert (finding.code, finding.count, finding.severity) == ("no-annotations", 1, WARNING)
