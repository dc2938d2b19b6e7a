"""Loggers: what arrives in TensorBoard, wandb, MLflow and a table, what a resume adds, and servers that are away."""

from __future__ import annotations

import csv
import logging
import math
import shutil
import time

import pytest

from detframe.checkpoint import Checkpoint
from detframe.engine import train
from detframe.engine.loggers import processes
from detframe.engine.loggers.__main__ import Replay, main
from detframe.engine.loggers.base import LoggedRun, RunLogger
from detframe.engine.loggers.processes import check_loggers
from detframe.engine.loggers.sent import Sent, Tail, placed
from detframe.engine.metrics_file import MetricsFile
from detframe.registry import LOGGERS
from tests.engine.away import OWN, closed_port, history, silent_server
from tests.engine.written import rows

RUN = ("TEST.EVAL_PERIOD", 4, "SOLVER.BACKBONE_LR_FACTOR", 0.5, "SOLVER.MAX_ITER", 6, "SOLVER.IMAGE_PERIOD", 4)
RUN += ("TEST.LOSS", True, "TEST.REPORT", True)


def with_loggers(*names, more=()):
    return (*RUN, "LOGGERS", names, *more)


def points(folder):
    """(iteration, quantity, value) of metrics.jsonl, in order."""
    return [
        (row["iteration"], key, value)
        for row in rows(folder)
        for key, value in row.items()
        if key != "iteration" and value is not None
    ]


def cut_off(tiny, words, tmp_path, callback_at=5):
    """A run that dies after step 5, whose checkpoint is of step 4; and the config it goes on with."""
    from detframe.engine.trainer import Hook

    class Dies(Hook):
        def after_step(self, trainer):
            if trainer.iteration == callback_at:
                raise ZeroDivisionError

    cfg = tiny(*words, "SOLVER.LOG_PERIOD", 1)
    with pytest.raises(ZeroDivisionError):
        train(cfg, callbacks=[Dies()])
    return cfg


@pytest.fixture
def own(tmp_path):
    """The words that bring a logger of a user's own."""
    (tmp_path / "lines.py").write_text(OWN)
    yield ("CUSTOM_IMPORTS", (str(tmp_path / "lines.py"),))
    LOGGERS._members.pop("lines", None)


def warned(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "LOGGERS" in r.getMessage()]


# ---------------------------------------------------------------------------------------------- csv, one's own
def test_the_table_has_every_row_over_a_resume(tiny, tmp_path, caplog):
    cfg = cut_off(tiny, with_loggers("csv"), tmp_path)
    train(cfg, resume=True)
    with open(tmp_path / "out" / "metrics.csv", newline="") as file:
        found = list(csv.DictReader(file))
    written = rows(tmp_path / "out")
    assert [row["iteration"] for row in written if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert len(found) == len(written)
    for row, line in zip(written, found, strict=True):
        assert {key: float(value) for key, value in line.items() if value} == pytest.approx(
            {key: value for key, value in row.items() if value is not None}
        )
    assert not (tmp_path / "out" / "tensorboard").exists() and not warned(caplog)


def test_rates_of_groups_are_in_every_row(tiny, tmp_path):
    train(tiny(*with_loggers(), "DATASETS.TEST", ()))
    for row in rows(tmp_path / "out"):
        assert row["lr_x0.5"] == pytest.approx(row["lr"] / 2)
    assert not (tmp_path / "out" / "tensorboard").exists() and not (tmp_path / "out" / "loggers").exists()


def test_a_logger_of_ones_own_hears_each_thing_once_over_a_crash(tiny, tmp_path, caplog, own):
    cfg = cut_off(tiny, with_loggers("lines", more=own), tmp_path)
    out = tmp_path / "out"
    first = (out / "lines.txt").read_text().splitlines()
    assert first[-1] == "failed" and "row 5 True" in first
    train(cfg, resume=True)
    lines = (out / "lines.txt").read_text().splitlines()
    assert lines[: len(first)] == first and lines[-1] == "finished"
    (identity,) = {line for line in lines if line.startswith("run")}
    assert identity.endswith(" out 6") and len(identity.split()[1]) == 12
    heard = [line for line in lines if line.startswith("row")]
    assert heard == [f"row {row['iteration']} {'loss' in row}" for row in rows(out)]
    shown = [line for line in lines if line.startswith("picture")]
    assert len(shown) == len(set(shown)) == len(list((out / "images").glob("*.png"))) > 4
    assert not warned(caplog)
    # the id is in the checkpoint, too, and in a new folder nothing is told again
    state = Checkpoint.read(out / "model_0000004.pth").state
    assert state["hooks"]["loggers"]["id"] == identity.split()[1]
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("model_0000004.pth", "metrics.jsonl"):
        shutil.copy(out / name, parts)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(parts)
    train(cfg, resume=True)
    lines = (parts / "lines.txt").read_text().splitlines()
    assert lines[0].split()[1] == identity.split()[1]
    assert [line for line in lines if line.startswith("row")] == ["row 5 True", "row 6 True", "row 6 False"]


def test_an_older_run_in_the_folder_is_another_run(tiny, tmp_path, own):
    words = with_loggers("lines", more=(*own, "DATASETS.TEST", ()))
    ids = []
    for _ in range(2):
        train(tiny(*words))
        ids.append((tmp_path / "out" / "loggers" / "run_id").read_text())
    assert ids[0] != ids[1]
    assert (tmp_path / "out" / "lines.txt").read_text().count("row 6") == 2  # a file that is the user's stays


# ---------------------------------------------------------------------------------------------- real libraries
def test_tensorboard_has_every_point(tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny(*with_loggers("tensorboard")))
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    for iteration, key, value in points(tmp_path / "out"):
        series = {e.step: e.value for e in events.Scalars(key if "/" in key else f"train/{key}")}
        assert series[iteration] == pytest.approx(value, rel=1e-5)
    assert events.Tags()["images"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of its library's own
def test_mlflow_has_every_point_once_over_a_crash(tiny, tmp_path, monkeypatch, caplog):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)  # where artifacts go
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(processes, "CLOSE_SECONDS", 120.0)
    cfg = cut_off(tiny, with_loggers("mlflow"), tmp_path)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("detframe").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"
    train(cfg, resume=True)
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED" and run.info.run_name == "out"
    assert run.data.params["SOLVER.BASE_LR"] == "0.01" and run.data.params["LOGGERS"] == "['mlflow']"
    found = {
        (m.step, key, m.value) for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)
    }
    speed = ("images_per_s", "data_wait", "memory_mb")  # of step 5, which was made twice
    wanted = {(step, key.replace("@", "_"), value) for step, key, value in points(tmp_path / "out")}
    assert {p for p in found if p[1] not in speed} == {p for p in wanted if p[1] not in speed}
    assert {"bbox/AP-disc", "val/loss", "lr_x0.5"} <= {key for _, key, _ in found} | {"bbox/AP-disc"}
    for key in run.data.metrics:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, key)]
        assert len(steps) == len(set(steps))
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "report.html", "images"} <= files
    assert len(client.list_artifacts(run.info.run_id, "images")) == len(list((tmp_path / "out/images").glob("*.png")))
    assert not warned(caplog)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_every_point_once_over_a_crash(tiny, tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(processes, "CLOSE_SECONDS", 120.0)
    cfg = cut_off(tiny, with_loggers("wandb"), tmp_path)
    out = tmp_path / "out"
    train(cfg, resume=True)
    ids, config, rows, files = history(out / "loggers")
    assert ids == {(out / "loggers" / "run_id").read_text().strip()}
    assert config["SOLVER"]["BASE_LR"] == 0.01
    speed = ("images_per_s", "data_wait", "memory_mb")
    own = [(row["iteration"], key, value) for row in rows for key, value in row.items() if key[0] != "_"]
    left_out = ("iteration", *speed)
    found = [p for p in own if p[1] not in left_out and not p[1].startswith("images/")]
    assert sorted(found) == sorted(point for point in points(out) if point[1] not in speed)
    kinds = [value for _, key, value in own if key.startswith("images/") and key.endswith("/_type")]
    assert kinds == ["image-file"] * len(list((out / "images").glob("*.png")))
    assert {"config.yaml", "report.html"} <= files
    assert not warned(caplog)


# ---------------------------------------------------------------------------------------------- servers that are away
AWAY = {"mlflow": {"MLFLOW_TRACKING_URI": "http://127.0.0.1:{port}"}}
AWAY["wandb"] = {"WANDB_BASE_URL": "http://127.0.0.1:{port}", "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}


@pytest.mark.slow
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "closed"])
@pytest.mark.parametrize("name", AWAY)
def test_a_run_ends_in_time_without_the_server(tiny, tmp_path, monkeypatch, caplog, name, silent):
    pytest.importorskip(name)
    monkeypatch.setattr(processes, "CLOSE_SECONDS", 2.0)
    with silent_server() as port:
        for key, value in AWAY[name].items():
            monkeypatch.setenv(key, value.format(port=port if silent else closed_port()))
        begun = time.monotonic()
        train(tiny(*with_loggers(name, "csv"), "DATASETS.TEST", ()))
        assert time.monotonic() - begun < 40
    (text,) = [line for line in warned(caplog) if "are missing" in line]
    assert text.startswith(f"LOGGERS {name} ") and "3 of 3 rows of metrics.jsonl are missing there" in text
    assert f"python -m detframe.engine.loggers {tmp_path / 'out'} {name}" in text
    assert (tmp_path / "out" / "model_final.pth").is_file()
    with open(tmp_path / "out" / "metrics.csv") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_what_is_missing_is_sent_by_the_command(tiny, tmp_path, monkeypatch, caplog, own):
    needs_a_file = '        open(run.folder / "allowed").close()\n        self.write(f"run'
    (tmp_path / "lines.py").write_text(OWN.replace('        self.write(f"run', needs_a_file))
    monkeypatch.setattr(processes, "CLOSE_SECONDS", 10.0)
    out = tmp_path / "out"
    train(tiny(*with_loggers("lines", more=(*own, "DATASETS.TEST", ()))))
    complaint, missing = warned(caplog)
    assert "LOGGERS lines: FileNotFoundError" in complaint and "this is tried again" in complaint
    assert "ended with code 1: 3 of 3 rows" in missing
    (out / "allowed").touch()
    words = [str(out), "lines"]
    assert main(words) == 0
    lines = (out / "lines.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("row")] == [f"row {i} True" for i in (2, 4, 6)]
    assert lines[-1] == "finished"


# ---------------------------------------------------------------------------------------------- at the start
def test_what_cannot_be_is_refused_before_anything_is_written(tiny, tmp_path, monkeypatch):
    with pytest.raises(KeyError, match=r"LOGGERS has no 'wandbb'.*did you mean 'wandb'\?"):
        train(tiny("LOGGERS", ("wandbb",)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"LOGGERS: mlflow needs mlflow, .* pip install 'detframe\[loggers\]', or"):
        train(tiny("LOGGERS", ("csv", "mlflow")))
    assert not (tmp_path / "out").exists()


def test_a_logger_that_no_other_process_can_import_is_refused(monkeypatch):
    class Own(RunLogger):
        pass

    monkeypatch.setitem(LOGGERS._members, "own", Own)
    check_loggers(["own"])
    Own.__module__ = "__main__"
    with pytest.raises(TypeError, match=r"own is the class Own of the script that runs.*CUSTOM_IMPORTS"):
        check_loggers(["own"])
    monkeypatch.setitem(LOGGERS._members, "own", dict)
    with pytest.raises(TypeError, match=r"not a class derived from detframe\.engine.loggers.base.RunLogger"):
        check_loggers(["own"])


def test_a_folder_that_holds_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "csv"])
    assert "holds no run" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- parts
def test_a_tail_reads_whole_lines_as_they_come(tmp_path):
    tail, file = Tail(tmp_path), tmp_path / "metrics.jsonl"
    assert tail.read() == []
    file.write_text('{"iteration": 1}\n{"itera')
    assert tail.read() == [{"iteration": 1}]
    with file.open("a") as more:
        more.write('tion": 2}\n\n[3]\n')
    assert tail.read() == [{"iteration": 1}, {"iteration": 2}]
    with file.open("a") as more:
        more.write('{"iteration": 2, "a": null}\n')
    assert [place for place, _ in placed(tail.read())] == [(1, 1), (2, 1), (2, 2)]


def test_an_evaluation_that_comes_late_is_sent_as_well(tmp_path):
    (tmp_path / "loggers").mkdir()
    file, logger = MetricsFile(tmp_path), Flaky(None)
    logger.row = lambda iteration, values: logger.taken.append((iteration, *values))
    replay = Replay(LoggedRun(tmp_path, "x", {}), "late", lambda run: logger, str)
    for iteration, name in ((2, "loss"), (4, "loss"), (2, "bbox/AP"), (2, "compared/AP"), (6, "loss"), (4, "bbox/AP")):
        file.append(iteration, {name: 1.0})
        assert replay.send()
    assert logger.taken[2:] == [(2, "bbox/AP"), (2, "compared/AP"), (6, "loss"), (4, "bbox/AP")]
    assert Sent.read(tmp_path, "late") == Sent.everything(tmp_path) == Sent([6, 1], [4, 1], [])


class Flaky(RunLogger):
    """Takes nothing at every other call."""

    def __init__(self, run):
        self.taken, self.calls, self.ended = [], 0, ""

    def row(self, iteration, values):
        self.calls += 1
        if self.calls % 2:
            raise ConnectionError("away")
        self.taken.append((iteration, values))


def test_what_fails_is_tried_again_and_said_once(tmp_path):
    (tmp_path / "loggers").mkdir()
    file = MetricsFile(tmp_path)
    for iteration in (1, 2, 3):
        file.append(iteration, {"loss": 1.0 * iteration, "bad": math.nan})
    said, logger = [], Flaky(None)
    replay = Replay(LoggedRun(tmp_path, "x", {}), "flaky", lambda run: logger, said.append)
    assert [replay.send() for _ in range(4)] == [False, False, False, True]
    assert logger.taken == [(1, {"loss": 1.0}), (2, {"loss": 2.0}), (3, {"loss": 3.0})]
    assert said == ["ConnectionError: away"]
    assert Sent.read(tmp_path, "flaky") == Sent([3, 1], [-1, 0], [])
    (tmp_path / "loggers" / "flaky.json").write_text("[]")
    assert Sent.read(tmp_path, "flaky") is None
