"""What the files of runs say of them, whole or not."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from detframe.config import get_cfg
from detframe.engine import run_list
from detframe.engine.lock import locked
from detframe.engine.run_list import list_runs, run_folders, sorted_runs
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError

START = "2026-01-01 10:00:00 training started with detframe 0.1.0, torch 2.14; command: detframe train"
TRAINED = "2026-01-01 10:30:00 trained 6 iterations in 30.0 minutes\nfinal model: bbox/AP 20.00"


def make(folder: Path, log: str = f"{START}\n{TRAINED}\n", values=(10.0, 30.0, 20.0), **settings) -> Path:
    """A run of six iterations, evaluated after every second."""
    folder.mkdir(parents=True)
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 6, "OUTPUT_DIR", str(folder)])
    cfg.merge_from_list([word for key, value in settings.items() for word in (key.replace("__", "."), value)])
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    (folder / "log.txt").write_text(log, encoding="utf-8")
    rows = []
    for index, value in enumerate(values, start=1):
        rows += [{"iteration": 2 * index, "loss": 1.0, "lr": 0.1}]
        rows += [{"iteration": 2 * index, "bbox/AP": value, "bbox/AP50": None if value is None else 2 * value}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_what_a_finished_run_says(tmp_path: Path):
    make(tmp_path / "a")
    (row,) = list_runs(tmp_path)
    assert (row.name, row.state, row.iteration, row.max_iter, row.seconds) == ("a", "finished", 6, 6, 1800.0)
    assert (row.metric, row.best, row.best_iteration, row.last) == ("bbox/AP", 30.0, 4, 20.0)
    assert row.metrics == {"bbox/AP": 20.0, "bbox/AP50": 40.0}
    assert [(r.metric, r.best) for r in list_runs(tmp_path / "a", "bbox/AP50")] == [("bbox/AP50", 60.0)]


@pytest.mark.parametrize(
    ("lines", "state", "note"),
    [
        ([START, TRAINED], "finished", ""),
        ([START, "2026-01-01 10:10:00 stopped early at iteration 4: no gain", TRAINED], "early", "no gain"),
        ([START, "2026-01-01 10:10:00 WARNING: stopped by SIGTERM at iteration 4 of 6; saved"], "stopped", ""),
        ([START, "2026-01-01 10:10:00 ERROR: loss is nan", "Traceback"], "failed", "loss is nan"),
        ([START, "2026-01-01 10:10:00 iter 4/6"], "died", ""),
        ([START, "2026-01-01 10:10:00 ERROR: disk full", START, TRAINED], "finished", ""),
        ([START, TRAINED, START, "2026-01-01 11:00:00 iter 4/6"], "died", ""),
        (
            [START, TRAINED, "2026-01-01 12:00:00 evaluation started with detframe; command: x",
             "2026-01-01 12:00:01 ERROR: no data"],
            "finished", "",
        ),
        ([], "died", ""),
    ],
)  # fmt: skip
def test_how_a_run_stands_is_what_its_log_says_last(tmp_path: Path, lines: list[str], state: str, note: str):
    make(tmp_path / "a", "".join(f"{line}\n" for line in lines))
    (row,) = list_runs(tmp_path)
    assert (row.state, row.note) == (state, note)


def test_a_stopped_run_is_at_the_step_that_is_saved(tmp_path: Path):
    """There may be no row of that step yet."""
    folder = make(tmp_path / "a", START)
    for text, iteration in (("model_0000009.pth\n", 9), ("model_0000002.pth", 6), ("nonsense", 6), ("", 6)):
        (folder / "last_checkpoint").write_text(text)
        assert list_runs(tmp_path)[0].iteration == iteration


def test_of_losses_the_lowest_is_best(tmp_path: Path):
    for name, losses in {"a": (3.0, 1.0, 2.0), "b": (4.0, 0.5, 0.75), "c": (1.5,)}.items():
        rows = [{"iteration": number + 1, "val/loss": value} for number, value in enumerate(losses)]
        (make(tmp_path / name) / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    rows = sorted_runs(list_runs(tmp_path, "val/loss"), "best")
    assert [(row.name, row.best, row.best_iteration) for row in rows] == [("b", 0.5, 2), ("a", 1.0, 2), ("c", 1.5, 1)]


def test_a_run_at_work_is_known_by_its_lock(tmp_path: Path):
    folder = make(tmp_path / "a", START)
    with locked(folder):
        assert list_runs(tmp_path)[0].state == "running"
    (folder / ".lock").write_text('{"host": "x", "pid": 1, "since": "y"}')  # of a process that was killed
    assert list_runs(tmp_path)[0].state == "died"


def test_an_older_log_without_an_end_and_an_evaluation(tmp_path: Path):
    old = make(tmp_path / "old", "2020-01-01 00:00:00 something\n")
    (old / "model_final.pth").touch()
    other = tmp_path / "evaluated"
    other.mkdir()
    (other / "evaluation.json").write_text('{"iteration": 7, "metrics": {"bbox/AP": 3, "bbox/AP50": 5}}')
    rows = {row.name: row for row in list_runs(tmp_path)}
    assert rows["old"].state == "finished"
    row = rows["evaluated"]
    assert (row.state, row.best, row.last, row.best_iteration, row.metrics["bbox/AP50"]) == ("evaluation", 3, 3, 7, 5)
    for damaged in (
        "",
        "[]",
        '{"metrics": 3}',
        '{"iteration": "x", "metrics": {}}',
        '{"iteration": 1e999, "metrics": {}}',
    ):
        (other / "evaluation.json").write_text(damaged)
        row = {row.name: row for row in list_runs(tmp_path)}["evaluated"]
        assert (row.state, row.best) == ("evaluation", None)
    assert rows["evaluated"].note == "config.yaml is missing or cannot be read"


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "log.txt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "gone", "folder"])
def test_files_that_are_half_written_or_broken(tmp_path: Path, name: str, damage: str):
    path = make(tmp_path / "a") / name
    (tmp_path / "a" / "last_checkpoint").write_text("model_0000006.pth")
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"cut": content[: len(content) // 2 - 3], "empty": b"", "noise": os.urandom(500)}[damage])
    (row,) = list_runs(tmp_path)
    assert row.name == "a" and row.iteration in (0, 2, 4, 6)
    if name == "metrics.jsonl":
        assert row.note == ("metrics.jsonl cannot be read" if damage in ("noise", "folder") else "")


def test_rows_that_hold_no_metric_are_no_metric(tmp_path: Path):
    folder = make(tmp_path / "a", values=(None, None))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 5, "bbox/AP": "high"}\n{"iteration": 6, "bbox/AP": true}\n{"bbox/AP": 3}\n[1]\n{"it')
    (row,) = list_runs(tmp_path)
    assert (row.best, row.best_iteration, row.last, row.iteration) == (None, None, None, 6)


def test_of_several_data_sets_the_first_one_counts(tmp_path: Path):
    folder = make(tmp_path / "a")
    rows = [{"iteration": i, "val/bbox/AP": 10.0 * i, "other/bbox/AP": 90.0} for i in (2, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list_runs(tmp_path)[0].best == 40.0


def test_times_of_a_run_in_two_parts_are_added(tmp_path: Path):
    second = START.replace("10:00:00", "15:00:00")
    make(tmp_path / "a", f"{START}\n2026-01-01 10:10:00 iter 2/6\n{second}\n2026-01-01 15:05:00 iter 4/6\n")
    assert list_runs(tmp_path)[0].seconds == 900.0


def test_runs_lie_at_any_depth_and_in_one_another(tmp_path: Path):
    for name in ("b/trial_0000", "b/trial_0001", "a", "a/previous_20260101-000000"):
        make(tmp_path / name) if not (tmp_path / name).exists() else None
    (tmp_path / "a" / "images").mkdir()
    (tmp_path / "a" / "images" / "metrics.jsonl").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in run_folders(tmp_path)] == [
        *("a", "a/previous_20260101-000000", "b/trial_0000", "b/trial_0001"),
    ]


def test_sorting(tmp_path: Path):
    for name, value, rate in (("a", 10.0, 0.1), ("b", 30.0, 0.01), ("c", None, 1e-5), ("d", 20.0, 1.0)):
        make(tmp_path / name, values=(value,), SOLVER__BASE_LR=rate)
    rows = list_runs(tmp_path)

    def order(column: str) -> str:
        return "".join(row.name for row in sorted_runs(rows, column))

    assert order("best") == "bdac" and order("run") == "abcd" and order("SOLVER.BASE_LR") == "cbad"
    with pytest.raises(UnknownNameError, match="no column 'bets' to sort by; did you mean 'best'"):
        order("bets")
    with pytest.raises(UnknownNameError, match=r"did you mean 'SOLVER\.BASE_LR'"):
        order("SOLVER.BASE_RL")


def test_what_is_no_folder_of_runs(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(MissingFileError, match="nowhere does not exist; name a folder with runs"):
        list_runs(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="file is a file"):
        list_runs(tmp_path / "file")
    with pytest.raises(MissingFileError, match="there is no run in"):
        list_runs(tmp_path)
    with pytest.raises(InvalidValueError, match=r"^s3://bucket/runs is on an object store, and runs are"):
        list_runs(Path("s3://bucket/runs"))


def test_a_thousand_runs_take_seconds(tmp_path: Path):
    """2 ms a run; the limit leaves room for a busy machine."""
    first = make(tmp_path / "run_0000")
    for index in range(1, 1000):
        folder = tmp_path / f"run_{index:04d}"
        folder.mkdir()
        for name in ("config.yaml", "log.txt", "metrics.jsonl"):
            os.link(first / name, folder / name)
    begun = time.process_time()
    assert len(run_list.differences(list_runs(tmp_path))[1]) == 1000
    assert time.process_time() - begun < 20


def test_runs_of_many_values_are_compared_in_seconds(tmp_path: Path):
    """About 4 ms a config beside what the files take."""
    row = list_runs(make(tmp_path / "a"))[0]
    rates = [
        {**row.config, "SOLVER.BASE_LR": f"{0.001 * i:g}", "INPUT.TILES.OVERLAP": f"{i / 1000}"} for i in range(500)
    ]
    begun = time.process_time()
    keys, rows = run_list.differences([replace(row, config=config) for config in rates])
    assert time.process_time() - begun < 10
    assert keys == ["SOLVER.BASE_LR"] and rows[7].config["INPUT.TILES.OVERLAP"] == "0.007"


def test_a_run_that_its_time_ends_has_no_last_iteration(tmp_path: Path):
    make(tmp_path / "a", SOLVER__MAX_MINUTES=30)
    assert [(row.state, row.iteration, row.max_iter) for row in list_runs(tmp_path)] == [("finished", 6, None)]


@pytest.mark.parametrize("text", ["x: [", "", "%", "SOLVERS:\n  MAX_ITER: 3\n"])
def test_a_config_of_which_nothing_is_known_is_not_one_of_defaults(tmp_path: Path, text: str):
    make(tmp_path / "a")
    (make(tmp_path / "b") / "config.yaml").write_text(text)
    keys, rows = run_list.differences(list_runs(tmp_path))
    assert keys == [] and rows[1].config == {} and rows[1].note == "config.yaml is missing or cannot be read"
