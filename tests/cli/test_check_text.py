"""The text of `detframe check` fits 80 columns, whatever the names are."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.cli.check_text import WIDTH, as_dict, report
from detframe.data.findings import Finding
from detframe.data.screen import examine
from tests.data.screen.faults import boxes, clean, picture, records

LONG = "0123456789abcdef" * 7


def test_every_line_fits(tmp_path: Path) -> None:
    classes = [f"{LONG}_{n}" for n in range(30)]
    images = [*clean(tmp_path, "train", 0), (picture(tmp_path / "train" / f"{LONG}.png", 70), boxes(1))]
    images.append((picture(tmp_path / "train" / f"{LONG}2.png", 71), [((1, 1, 2, 20), 1)]))
    sentence = Finding("other", "note", 1, f"a file {LONG} that {'goes on ' * 20}", whole=True)
    screened = examine({"train": records(images, classes)}, None, False, [sentence])
    text = report(f"/data/{LONG}", None, screened, quick=True)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "10 more classes" in text and f"/data/{LONG[:20]}" in text
    assert as_dict("x", None, screened)["classes"][29]["name"] == classes[29]


def test_what_several_findings_share_is_said_once(tmp_path: Path) -> None:
    train = [*clean(tmp_path, "train", 0), (picture(tmp_path / "t.png", 70), [((1, 1, 2, 20), 1)])]
    val = [*clean(tmp_path, "val", 20), (picture(tmp_path / "v.png", 71), [((1, 1, 2, 20), 1)])]
    screened = examine({"train": records(train), "val": records(val)}, None, False)
    text = report("x", None, screened, quick=False)
    assert text.count("slips of the mouse") == 1
    assert text.index("train: 1 box") < text.index("val: 1 box") < text.index("slips of the mouse")


def test_a_sentence_of_several_splits_is_said_once(tmp_path: Path) -> None:
    same = [Finding("x", "note", 1, "it is so", whole=True, where=name) for name in ("train", "val", "test")]
    screened = examine({"train": records(clean(tmp_path, "train", 0))}, None, False, same)
    text = report("x", None, screened, quick=False)
    assert text.count("it is so") == 1 and "- train, val, test: it is so" in text
    assert len(as_dict("x", None, screened)["findings"]) == 3


def test_what_a_reader_counted_in_the_file_of_both_splits_is_said_once(tmp_path: Path) -> None:
    same = [Finding("x", "warning", 2, "rows are odd", ("row 1",), where=name) for name in ("train", "val")]
    other = Finding("x", "warning", 2, "rows are odd", ("row 7",), where="test")
    screened = examine({"train": records(clean(tmp_path, "train", 0))}, None, False, [*same, other])
    text = report("x", None, screened, quick=False)
    assert "- train, val: 2 rows are odd\n    row 1" in text and "- test: 2 rows are odd\n    row 7" in text
    assert text.count("rows are odd") == 2


@pytest.mark.parametrize(
    ("severities", "verdict"),
    [
        ((), "READY to train on: nothing is odd about it."),
        (("note",), "READY to train on: no errors; 1 note."),
        (("warning", "warning"), "READY to train on: no errors; 2 warnings."),
        (("error", "note", "note"), "NOT READY: 1 error, 2 notes. Exit code 1."),
    ],
)
def test_verdicts(tmp_path: Path, severities: tuple[str, ...], verdict: str) -> None:
    known = [Finding(f"kind-{n}", severity, 1, "thing") for n, severity in enumerate(severities)]
    screened = examine({"train": records(clean(tmp_path, "train", 0))}, None, False, known)
    assert report("x", None, screened, quick=False).splitlines()[-1] == verdict


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    screened = examine({"train": records(clean(tmp_path, "train", 0), ["a\x1b[31m", "b"])}, None, False)
    assert "\x1b" not in report("x", None, screened, quick=False)


def test_words_to_type_stay_whole(tmp_path: Path) -> None:
    finding = Finding("x", "note", 1, "there is another", (), f"to take it: --data /data/{LONG}", whole=True)
    screened = examine({"train": records(clean(tmp_path, "train", 0))}, None, False, [finding])
    assert f"\n    /data/{LONG}\n" in report("x", None, screened, quick=False)
