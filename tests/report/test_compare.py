"""Runs side by side."""

from __future__ import annotations

import json

import pytest

from detframe.cli.compare import as_text
from detframe.engine.report_run import collect_report
from detframe.report.compare import compare_runs, distinct_names, write_comparison
from tests.report.runs import BALL, BOX, FOUND, TRUTH, make_run

BETTER = {**FOUND, 3: [(BOX, [30, 30, 60, 60], 0.9), (BOX, [100, 70, 40, 40], 0.9)]}


@pytest.fixture
def comparison(run, tmp_path):
    other = make_run(tmp_path / "better", TRUTH, BETTER, data=run / "data", overrides=("SOLVER.BASE_LR", 0.5))
    runs = [collect_report(folder) for folder in (run, other)]
    return compare_runs([cfg for cfg, _ in runs], [report for _, report in runs])


def test_what_differs(comparison):
    assert comparison.names == ("toy_run", "better")
    assert [(c.key, c.values) for c in comparison.config] == [("SOLVER.BASE_LR", ("0.02", "0.5"))]


def test_metrics_and_classes_side_by_side(comparison):
    (one,) = comparison.sets
    classes = {row.name: row for row in one.classes}
    assert classes["ball"].change == pytest.approx(0.0)
    assert classes["ball"].best is None
    assert classes["box"].change > 0
    assert classes["box"].best == classes["box"].values[1]
    assert [row.name for row in one.metrics] == ["bbox/AP", "best F1"]


def test_the_images_that_changed_most_come_first(comparison):
    (one,) = comparison.sets
    assert one.changed[0].image_id == 3
    assert [o["f1"] for o in one.changed[0].outcomes] == [0.0, 1.0]
    assert [(o["right"], o["missed"]) for o in one.changed[0].outcomes] == [(0, 2), (2, 0)]
    assert 1 not in [image.image_id for image in one.changed]


def test_the_page_and_the_json(comparison, tmp_path):
    page = write_comparison(tmp_path / "c.html", comparison).read_text()
    numbers = json.loads((tmp_path / "c.json").read_text())
    assert numbers["sets"][0]["changed"][0]["image_id"] == 3
    assert "SOLVER.BASE_LR" in page and "F1 0% \\u2192 100%" in page


def test_the_table_of_the_terminal(comparison):
    shown = as_text(comparison)
    assert "SOLVER.BASE_LR" in shown and "toy_run" in shown and "better" in shown
    assert "bbox/AP" in shown


def test_runs_with_nothing_in_common(run, tmp_path):
    other = make_run(tmp_path / "other", {1: [(1, [5, 5, 20, 20])]}, None, classes=("cat",))
    runs = [collect_report(folder) for folder in (run, other)]
    comparison = compare_runs([cfg for cfg, _ in runs], [report for _, report in runs])
    assert comparison.sets == ()
    assert "no data set was evaluated by two" in as_text(comparison)
    assert "No data set was evaluated by two" in write_comparison(tmp_path / "c.html", comparison).read_text()


def test_runs_with_other_classes_and_images(run, tmp_path):
    truth = {1: TRUTH[1], 9: [(BALL, [5, 5, 30, 30])]}
    other = make_run(tmp_path / "other", truth, {1: FOUND[1], 9: []}, classes=("ball", "cube"))
    runs = [collect_report(folder) for folder in (run, other)]
    (one,) = compare_runs([cfg for cfg, _ in runs], [report for _, report in runs]).sets
    classes = {row.name: row.values for row in one.classes}
    assert classes["box"][1] is None and classes["cube"][0] is None
    assert all(image.image_id == 1 for image in one.changed)


def compared(*folders):
    runs = [collect_report(folder) for folder in folders]
    return compare_runs([cfg for cfg, _ in runs], [report for _, report in runs])


def test_runs_on_the_same_data_have_nothing_to_note(comparison):
    assert comparison.sets[0].notes == ()


@pytest.mark.parametrize(
    ("truth", "classes", "words"),
    [
        (
            {1: TRUTH[1], 9: []},
            ("ball", "box"),
            ["toy: the runs were evaluated on different images (4, 2; 1 in common)"],
        ),
        (TRUTH, ("ball", "cube"), ["toy: the runs were evaluated on different classes"]),
        ({**TRUTH, 1: TRUTH[1][:1]}, ("ball", "box"), ["toy: the runs were evaluated on different annotations"]),
    ],
)
def test_runs_on_other_data_of_the_same_name_say_so(run, tmp_path, truth, classes, words):
    other = make_run(tmp_path / "other", truth, {1: FOUND[1]}, classes=classes)
    comparison = compared(run, other)
    notes = [note for note in comparison.notes if note.startswith("toy:")]
    assert len(notes) == len(words)
    page = write_comparison(tmp_path / "c.html", comparison).read_text()
    for note, word in zip(notes, words, strict=True):
        assert word in note and word in page


def test_an_id_that_stands_for_different_files_is_no_common_image(run, tmp_path):
    other = make_run(tmp_path / "other", TRUTH, {})
    file = other / "data" / "toy.json"
    content = json.loads(file.read_text())
    pictures = other / "data" / "images"
    for image in content["images"]:
        (pictures / image["file_name"]).rename(pictures / f"new_{image['file_name']}")
        image["file_name"] = f"new_{image['file_name']}"
    file.write_text(json.dumps(content))
    comparison = compared(run, other)
    assert comparison.sets[0].changed == ()
    assert "0 in common" in comparison.sets[0].notes[0]


def test_what_does_not_fit_together_in_a_run_is_said_with_its_name(run, tmp_path):
    rows = [{"iteration": 40, "loss": 1.0}, {"iteration": 40, "bbox/AP": 77.0}]
    other = make_run(tmp_path / "other", TRUTH, FOUND, data=run / "data", rows=rows)
    comparison = compared(run, other)
    (note,) = (note for note in comparison.notes if "77.00" in note)
    assert note.startswith("other: toy: ")
    assert "77.00" in write_comparison(tmp_path / "c.html", comparison).read_text()


def test_of_losses_the_lowest_is_the_best(run, tmp_path):
    folders = []
    for name, loss in (("a", 0.5126), ("b", 0.4249)):
        rows = [{"iteration": 40, "loss": 1.0}, {"iteration": 40, "bbox/AP": 31.0, "val/loss": loss}]
        folders.append(make_run(tmp_path / name, TRUTH, FOUND, data=run / "data", rows=rows))
    comparison = compared(*folders)
    row = next(row for row in comparison.sets[0].metrics if row.name == "val/loss")
    assert row.best == 0.4249
    assert "0.5126" in as_text(comparison) and "0.4249" in as_text(comparison)


def test_three_runs(run, tmp_path):
    folders = [run, *(make_run(tmp_path / name, TRUTH, BETTER, data=run / "data") for name in ("b", "c"))]
    runs = [collect_report(folder) for folder in folders]
    comparison = compare_runs([cfg for cfg, _ in runs], [report for _, report in runs])
    assert all(len(row.values) == 3 for row in comparison.sets[0].metrics)
    assert write_comparison(tmp_path / "c.html", comparison).is_file()


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/a/x", "/a/y"], ("x", "y")),
        (["/a/x/out", "/a/y/out"], ("x/out", "y/out")),
        (["/a/out", "/a/out"], ("/a/out (1)", "/a/out (2)")),
    ],
)
def test_names_that_tell_runs_apart(folders, names):
    found = distinct_names(folders)
    assert len(set(found)) == len(folders)
    assert found == names or folders[0] == folders[1]
