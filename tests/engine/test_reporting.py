"""The report at the end of a training and of an evaluation, and of runs that have left none."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from detframe.cli.main import main
from detframe.engine import evaluate, reporting, train
from detframe.engine.report_run import report_run


@pytest.fixture
def trained(tiny, tmp_path) -> Path:
    """The folder of a training of two steps with its report."""
    train(tiny("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "TEST.REPORT", True))
    return tmp_path / "out"


def numbers(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def metrics(folder: Path) -> dict:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next(row for row in reversed(rows) if "bbox/AP" in row)


def test_a_training_leaves_its_report(trained, caplog):
    assert (trained / "report.html").is_file()
    found = numbers(trained)
    assert found["run"]["status"] == "finished"
    assert found["notes"] == []
    one = found["sets"]["shapes_val"]
    assert one["iteration"] == 2
    assert len(one["images"]) == 8
    known = metrics(trained)
    assert one["metrics"]["bbox/AP"] == pytest.approx(known["bbox/AP"])
    log = (trained / "log.txt").read_text()
    assert "training started with detframe" in log
    assert "report written to" in log and "seconds" in log
    assert "report.html: how good it is" in log
    assert all("bbox" in row for row in json.loads((trained / "predictions_shapes_val.json").read_text()))


def test_the_command_makes_the_same_report_again(trained):
    before = numbers(trained)
    assert report_run(trained) == trained / "report.html"
    after = numbers(trained)
    assert after["sets"] == before["sets"]
    assert [change["key"] for change in after["config"]] == [change["key"] for change in before["config"]]


def test_without_detections_the_best_weights_predict_again(trained, caplog):
    (trained / "predictions_shapes_val.json").unlink()
    (trained / "report.json").unlink()
    with caplog.at_level(logging.INFO, logger="detframe"):
        report_run(trained)
    assert "predicting again with" in caplog.text
    assert numbers(trained)["sets"]["shapes_val"]["metrics"]["bbox/AP"] == pytest.approx(metrics(trained)["bbox/AP"])
    assert (trained / "predictions_shapes_val.json").is_file()


def test_an_evaluation_leaves_its_report(tiny, trained, tmp_path):
    evaluate(
        tiny("OUTPUT_DIR", str(tmp_path / "e"), "MODEL.WEIGHTS", str(trained / "model_final.pth"), "TEST.REPORT", True)
    )
    found = numbers(tmp_path / "e")
    assert found["run"]["status"] == "evaluation"
    assert "model_final.pth" in found["run"]["status_text"]
    assert len(found["sets"]["shapes_val"]["images"]) == 8


def test_an_evaluation_can_be_reported_again(tiny, trained, tmp_path):
    folder = tmp_path / "e"
    evaluate(tiny("OUTPUT_DIR", str(folder), "MODEL.WEIGHTS", str(trained / "model_final.pth"), "TEST.REPORT", True))
    before = numbers(folder)
    report_run(folder)
    assert numbers(folder)["sets"] == before["sets"]


def test_no_report_where_none_is_wanted(tiny, tmp_path):
    train(tiny("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "TEST.REPORT", False))
    assert not list((tmp_path / "out").glob("report*"))
    assert not list((tmp_path / "out").glob("predictions*"))


def test_a_report_that_fails_spoils_no_training(tiny, tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no page today")

    monkeypatch.setattr(reporting, "write_report", fail)
    found = train(tiny("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "TEST.REPORT", True))
    assert "bbox/AP" in found
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "no report was written (ZeroDivisionError: no page today)" in log
    assert "Traceback" in log
    assert (tmp_path / "out" / "model_final.pth").is_file()


def test_a_training_without_test_data_has_a_report_of_its_training(tiny, tmp_path):
    train(tiny("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "TEST.REPORT", True, "DATASETS.TEST", ()))
    found = numbers(tmp_path / "out")
    assert found["sets"] == {}
    assert any("DATASETS.TEST is empty" in note for note in found["notes"])
    assert found["curves"]["losses"]


def test_the_report_of_an_older_run_goes_with_it(tiny, trained):
    train(tiny("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "TEST.REPORT", False))
    assert not (trained / "report.html").exists()
    (older,) = trained.glob("previous_*")
    assert {"report.html", "report.json", "predictions_shapes_val.json"} <= {path.name for path in older.iterdir()}


# ---------------------------------------------------------------------------------------------- the commands
def test_the_commands(trained, tmp_path, capsys):
    page = tmp_path / "pages" / "mine.html"
    assert main(["report", str(trained), "--output", str(page)]) == 0
    assert page.is_file() and page.with_suffix(".json").is_file()
    both = tmp_path / "both.html"
    assert main(["compare", str(trained), str(trained), "--output", str(both)]) == 0
    assert both.is_file()
    shown = capsys.readouterr().out
    assert "the configs do not differ" in shown
    assert "bbox/AP" in shown


def test_what_is_missing_is_said_in_the_terminal(trained, tmp_path, capsys):
    (trained / "predictions_shapes_val.json").write_text("[{")
    page = tmp_path / "both.html"
    for words in (["report", str(trained)], ["compare", str(trained), str(trained), "--output", str(page)]):
        assert main(words) == 0
        shown = "".join(capsys.readouterr())
        assert "shapes_val could not be looked at" in shown and "is no JSON" in shown
    assert "is no JSON" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "nowhere"], "there is no folder nowhere"),
        (["report", "."], "holds no config.yaml"),
        (["report", "notes.txt"], "notes.txt is a file"),
        (["report", ".", "--output", "page.pdf"], "must be the name of an HTML file"),
        (["compare", "a"], "needs two runs or more"),
        (["compare", "a", "b"], "there is no folder a"),
    ],
)
def test_mistakes_are_one_message(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
