"""What a run was, from its config, metrics and log."""

from __future__ import annotations

import pytest

from detframe.config import get_cfg
from detframe.report.changes import config_changes, differences
from detframe.report.curves import MOST_POINTS, run_curves
from detframe.report.facts import current_versions, run_facts, start_line
from tests.report.runs import LOG, ROWS, train_row


def facts(rows=ROWS, log=LOG, evaluated="", overrides=()):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 40, *overrides])
    return run_facts("out", "/runs/out", cfg, rows, log, evaluated)


def test_the_facts_of_a_finished_run():
    known = facts()
    assert (known.status, known.iteration, known.max_iter, known.best_iteration) == ("finished", 40, 40, 20)
    assert known.command == "detframe train --data x"
    assert known.versions == {"detframe": "0.1.0", "torch": "2.6.0", "Python": "3.11.7"}
    assert (known.started, known.seconds) == ("2026-11-26 09:00:00", 101.0)
    assert dict(known.facts)["Trained on"] == "toy_train: 20 images, 0 of them without objects"


def test_the_line_of_the_start_is_read_back():
    line = start_line("training", "detframe train\n  A, b; command: c")
    known = facts(log=f"2026-11-26 09:00:00 {line}\n")
    assert known.command == "detframe train A, b; command: c"
    assert known.versions == current_versions()
    assert {"detframe", "torch", "torchvision", "numpy", "Python"} == set(known.versions)


def test_the_time_between_two_processes_does_not_count():
    resumed = LOG + LOG.replace(" 09:", " 15:")
    assert facts(log=resumed).seconds == 2 * 101.0


def test_an_evaluation_afterwards_is_no_part_of_the_training():
    later = (
        LOG.replace("training started", "evaluation started").replace(" 09:", " 15:").replace("train --", "evaluate --")
    )
    known = facts(log=LOG + later)
    assert (known.seconds, known.command) == (101.0, "detframe train --data x")


def test_an_evaluation_alone_has_its_own_command_and_time():
    log = LOG.replace("training started", "evaluation started").replace("train --", "evaluate --")
    known = facts(rows=[], log=log, evaluated="model_best.pth")
    assert (known.status, known.seconds, known.command) == ("evaluation", 101.0, "detframe evaluate --data x")
    assert "model_best.pth" in known.status_text


@pytest.mark.parametrize(
    ("rows", "log", "status", "word"),
    [
        ([train_row(20)], LOG, "cut", "cut after iteration 20 of 40"),
        (
            [train_row(20)],
            f"{LOG}2026-11-26 09:02:00 WARNING: stopped by SIGTERM at iteration 20 of 40; x\n",
            "cut",
            "signal",
        ),
        (
            [train_row(20)],
            f"{LOG}2026-11-26 09:02:00 stopped early at iteration 20: bbox/AP has not risen\n",
            "stopped early",
            "has not risen",
        ),
        ([], LOG, "cut", "no step"),
    ],
)
def test_how_a_run_ended(rows, log, status, word):
    known = facts(rows, log)
    assert known.status == status
    assert word in known.status_text


@pytest.mark.parametrize(
    ("more", "status", "text"),
    [
        ("", "cut", "cut after iteration 60 of a run of 30 minutes: its process ended"),
        (
            "SOLVER.MAX_MINUTES 30: the last iteration was 60, and the run took 0:29:50\n",
            "finished",
            "trained 60 of 60",
        ),
    ],
)
def test_a_run_whose_time_ends_it_is_finished_when_it_says_so(more, status, text):
    stamp = "2026-11-26 09:02:00 " if more else ""
    known = facts(
        [train_row(60)], f"{LOG}{stamp}{more}", overrides=("SOLVER.MAX_MINUTES", 30)
    )  # beyond MAX_ITER, its schedule's unit
    assert known.status == status and known.status_text.startswith(text)


@pytest.mark.parametrize(
    "log", ["", "no stamp at all\n", "2026-11-26 09:00:00", "2026-99-99 09:00:00 x\n", "\x00\udcff"]
)
def test_a_log_that_says_nothing(log):
    known = facts(log=log)
    assert (known.command, known.status) == ("", "finished")
    assert known.seconds in (None, 0.0)


# ---------------------------------------------------------------------------------------------- curves
def test_curves_by_what_they_are():
    rows = [
        {"iteration": 1, "loss": 2.0, "loss_cls": 1.5, "lr": 0.1, "images_per_s": 3.0},
        {"iteration": 2, "loss": None, "loss_cls": float("nan"), "lr": 0.1},
        {"iteration": 2, "bbox/AP": 10.0, "bbox/AP-ball": 10.0, "val/loss": 2.5, "val/loss_cls": 2.0},
    ]
    curves = run_curves(rows)
    assert [c.name for c in curves.losses] == ["loss", "loss_cls"]
    assert [c.name for c in curves.validation] == ["val/loss", "val/loss_cls"]
    assert [c.name for c in curves.metrics] == ["bbox/AP"]
    assert curves.named("loss").values == (2.0, None)
    assert curves.named("loss_cls").values == (1.5, None)
    assert curves.named("val/loss").iterations == (2,)


def test_validation_losses_of_several_data_sets():
    rows = [{"iteration": 2, "a/val/loss": 2.5, "b/val/loss": 2.0, "a/bbox/AP": 1.0}]
    curves = run_curves(rows)
    assert [c.name for c in curves.validation] == ["a/val/loss", "b/val/loss"]
    assert [c.name for c in curves.metrics] == ["a/bbox/AP"]


@pytest.mark.parametrize("count", [1, MOST_POINTS, MOST_POINTS + 1, 3 * MOST_POINTS + 5])
def test_a_long_curve_is_thinned_and_keeps_its_ends(count):
    curve = run_curves([train_row(i) for i in range(1, count + 1)]).named("loss")
    assert curve.iterations[0] == 1
    assert curve.iterations[-1] == count
    assert min(count, MOST_POINTS // 2) <= len(curve.iterations) <= MOST_POINTS + 1


def test_no_rows_make_no_curves():
    curves = run_curves([])
    assert (curves.losses, curves.metrics, curves.named("loss")) == ([], [], None)


# ---------------------------------------------------------------------------------------------- configs
def test_changes_name_key_value_default_and_meaning():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.005, "OUTPUT_DIR", "elsewhere", "INPUT.MIN_SIZE_TRAIN", (240, 320)])
    changes = {change.key: change for change in config_changes(cfg)}
    assert set(changes) == {"SOLVER.BASE_LR", "INPUT.MIN_SIZE_TRAIN"}
    assert changes["SOLVER.BASE_LR"].values == ("0.02", "0.005")
    assert changes["INPUT.MIN_SIZE_TRAIN"].values == ("[800]", "[240, 320]")
    assert changes["SOLVER.BASE_LR"].meaning
    assert changes["SOLVER.BASE_LR"].source == "an override"


def test_differences_between_runs():
    configs = [get_cfg() for _ in range(3)]
    configs[1].merge_from_list(["SOLVER.BASE_LR", 0.1])
    configs[2].merge_from_list(["MODEL.WEIGHTS", "x.pth"])
    found = {change.key: change.values for change in differences(configs)}
    assert found == {"SOLVER.BASE_LR": ("0.02", "0.1", "0.02"), "MODEL.WEIGHTS": ("''", "''", "x.pth")}


def test_what_compares_tiles_with_whole_images_is_no_curve():
    """They are measured once, and have a table; a data set may have their name."""
    one = {"bbox/AP": 10.0, "tiles/pixels": 1e6, "whole/bbox/AP": 5.0, "whole/pixels": 1e5, "whole/seconds": 0.1}
    rows = [{"iteration": 20, **one}, {"iteration": 20, "whole_equal_pixels/bbox/AP": 4.0}]
    rows[1]["whole_equal_pixels/pixels"] = 1e6
    assert [curve.name for curve in run_curves(rows).metrics] == ["bbox/AP"]
    several = {f"{name}/{key}": value for name in ("tiles", "whole") for key, value in one.items()}
    names = [curve.name for curve in run_curves([{"iteration": 20, **several}]).metrics]
    assert names == ["tiles/bbox/AP", "whole/bbox/AP"]
