"""The loggers of wandb and MLflow with their real libraries, whose stores are read back: no server, no training."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from PIL import Image

from detframe.engine.loggers.base import LoggedRun
from detframe.engine.loggers.members import MlflowLogger, WandbLogger
from tests.engine.away import history

pytestmark = pytest.mark.filterwarnings("ignore")  # of their libraries' own
CONFIG = {"SOLVER.BASE_LR": 0.01, "SOLVER.STEPS": [3, 4], "OUTPUT_DIR": "out", "NOTE": ""}


@pytest.fixture
def run(tmp_path: Path) -> LoggedRun:
    """A run whose folder holds its config and no report yet."""
    folder = tmp_path / "cells"
    (folder / "loggers").mkdir(parents=True)
    (folder / "config.yaml").write_text("SOLVER: {BASE_LR: 0.01}\n", encoding="utf-8")
    return LoggedRun(folder, "0123456789ab", CONFIG)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "boxes_2.png"
    Image.new("RGB", (4, 3), (255, 0, 0)).save(path)
    return path


# ---------------------------------------------------------------------------------------------- MLflow
@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """MLflow on a folder; a database takes ten seconds to be made."""
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # which the logger sets
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return tracking.MlflowClient()


def runs(client, experiment: str = "detframe"):
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def test_mlflow_goes_on_with_the_run_of_an_id(client, run: LoggedRun):
    first = MlflowLogger(run)
    first.row(1, {"loss": 2.0, "lr": 0.5})
    first.finish("stopped")
    assert [one.info.status for one in runs(client)] == ["KILLED"]
    again = MlflowLogger(LoggedRun(run.folder, run.id, {**CONFIG, "SOLVER.BASE_LR": 0.5, "SOLVER.GAMMA": 0.1}))
    again.row(2, {"loss": 1.0})
    (found,) = runs(client)
    assert found.info.status == "RUNNING" and found.info.run_name == "cells"
    # a parameter of MLflow cannot change: it stays the one of the start, and a key that is new is added
    wanted = {"SOLVER.BASE_LR": "0.01", "SOLVER.STEPS": "[3, 4]", "OUTPUT_DIR": "out", "SOLVER.GAMMA": "0.1"}
    assert found.data.params == wanted
    points = client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.0)]
    MlflowLogger(LoggedRun(run.folder, "another", CONFIG))
    assert len(runs(client)) == 2


@pytest.mark.parametrize(("status", "ended"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")])
def test_mlflow_has_the_end_and_the_files_that_are_there(
    client, run: LoggedRun, picture: Path, status: str, ended: str
):
    logger = MlflowLogger(run)
    logger.picture(2, "boxes", picture)
    if status == "finished":
        (run.folder / "report.html").write_text("<p>", encoding="utf-8")
    logger.finish(status)
    (found,) = runs(client)
    assert found.info.status == ended and found.info.end_time >= found.info.start_time
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {"config.yaml", "images"} | ({"report.html"} if status == "finished" else set())
    assert [file.path for file in client.list_artifacts(found.info.run_id, "images")] == ["images/boxes_2.png"]


def test_mlflow_takes_more_than_fits_into_one_request(client, run: LoggedRun):
    """It refuses more than 100 parameters or 1,000 metrics at once, and values of more than 6,000 characters."""
    config = {f"A.KEY_{n}": n for n in range(230)} | {"LONG": "x" * 7000}
    logger = MlflowLogger(LoggedRun(run.folder, run.id, config))
    logger.row(3, {f"bbox/AP-class {n}": float(n) for n in range(1100)})
    (found,) = runs(client)
    assert found.data.params == {key: str(value)[:6000] for key, value in config.items()}
    assert found.data.metrics == {f"bbox/AP-class {n}": float(n) for n in range(1100)}


def test_mlflow_takes_names_of_classes_that_it_refuses(client, run: LoggedRun):
    logger = MlflowLogger(run)
    logger.row(1, {"bbox/AP-déjà vu@0.5 (a:b)": 1.0, "bbox/AP-" + "long" * 100: 2.0, "val/loss": math.inf})
    metrics = runs(client)[0].data.metrics
    assert metrics["bbox/AP-déjà vu_0.5 _a:b_"] == 1.0
    assert metrics[("bbox/AP-" + "long" * 100)[:250]] == 2.0


def test_mlflow_keeps_classes_apart_whose_names_it_refuses(client, run: LoggedRun):
    """Each class has a metric of its own, also where a store of files has no place for a name below another."""
    same = ["b,c", "b;c", "b\nc", "x" * 300, "x" * 301]
    names = ["猫", "犬", "a", "a/b", "a/b/c", "a//b", "a/../b", "a/", "", "..", "/a", *same]
    MlflowLogger(run).row(1, {f"bbox/AP-{name}": float(number) for number, name in enumerate(names)})
    metrics = runs(client)[0].data.metrics
    assert sorted(metrics.values()) == list(range(len(names)))
    assert (metrics["bbox/AP-猫"], metrics["bbox/AP-犬"], metrics["bbox/AP-a"]) == (0.0, 1.0, 2.0)


def test_mlflow_uses_the_experiment_that_the_environment_names(client, run: LoggedRun, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells of May")
    MlflowLogger(run)
    MlflowLogger(LoggedRun(run.folder, "another", {}))
    assert len(runs(client, "cells of May")) == 2
    assert client.get_experiment_by_name("detframe") is None


# ---------------------------------------------------------------------------------------------- wandb
@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    pytest.importorskip("wandb")
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_ENTITY", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return monkeypatch


def written(run: LoggedRun):
    """What is in its files, once the process that writes them has ended, as it does with the process of a logger."""
    import wandb

    wandb.teardown()
    return history(run.folder / "loggers")


def test_wandb_has_the_config_as_a_tree_the_rows_and_the_files(offline, run: LoggedRun, picture: Path):
    logger = WandbLogger(run)
    assert (logger.run.project, logger.run.name, logger.run.id) == ("detframe", "cells", run.id)
    logger.row(1, {"loss": 2.0, "bbox/AP-disc": 30.5})
    logger.picture(2, "boxes", picture)
    (run.folder / "report.html").write_text("<p>", encoding="utf-8")
    logger.finish("finished")
    ids, config, rows, files = written(run)
    assert ids == {run.id}
    own = {key: value for key, value in config.items() if key != "_wandb"}
    assert own == {"SOLVER": {"BASE_LR": 0.01, "STEPS": [3, 4]}, "OUTPUT_DIR": "out", "NOTE": ""}
    first, second = ({key: value for key, value in row.items() if key[0] != "_"} for row in rows)
    assert first == {"iteration": 1, "loss": 2.0, "bbox/AP-disc": 30.5}
    assert second["iteration"] == 2 and second["images/boxes/_type"] == "image-file"
    assert (second["images/boxes/width"], second["images/boxes/height"]) == (4, 3)
    assert {"config.yaml", "report.html"} <= files
    assert (run.folder / "config.yaml").read_text() == "SOLVER: {BASE_LR: 0.01}\n"  # wandb has one of this name, too


def test_wandb_goes_on_with_the_run_of_an_id_and_names_it_as_the_environment_does(offline, run: LoggedRun):
    offline.setenv("WANDB_PROJECT", "microscopy")
    offline.setenv("WANDB_NAME", "third try")
    for iteration, status in ((1, "failed"), (2, "stopped")):
        logger = WandbLogger(run)
        assert (logger.run.project, logger.run.name) == ("microscopy", "third try")
        logger.row(iteration, {"loss": 1.0 / iteration})
        logger.finish(status)
        ids, _, rows, files = written(run)
        assert ids == {run.id}
        assert [(row["iteration"], row["loss"]) for row in rows] == [(iteration, 1.0 / iteration)]
        assert "config.yaml" in files and "report.html" not in files
        shutil.rmtree(run.folder / "loggers" / "wandb")  # whose folders have the second in their names
