"""detframe's own loggers: csv, wandb and mlflow. Their libraries are imported when a logger is made."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from detframe.engine.loggers import CSV_FILE, FOLDER
from detframe.engine.loggers.base import LoggedRun, RunLogger
from detframe.engine.metrics_file import MetricsFile
from detframe.files import write_text
from detframe.registry import LOGGERS

PROJECT = "detframe"  # where the environment names none
_REPORT = "report.html"
_CONFIG = "config.yaml"
_RUN_TAG = "detframe.run"
_NOT_IN_A_KEY = re.compile(r"[^\w\-. /:]")  # of MLflow
_NO_PART = re.compile(r"(?:(?<=/)|^)\.{0,2}(?=/|$)")  # of a path, as which MLflow reads a key: "", "." and ".."
_LONGEST_KEY = 250
_LONGEST_PARAMETER = 6000
_MOST_PARAMETERS = 100  # of one request


@LOGGERS.register("csv")
class CsvLogger(RunLogger):
    """metrics.csv: metrics.jsonl as a table, one column for each quantity, made anew when there is something new."""

    def __init__(self, run: LoggedRun) -> None:
        self.path = run.folder / CSV_FILE
        self.file = MetricsFile(run.folder)

    def flush(self) -> None:
        """Write the table: a row for each of metrics.jsonl, empty where it has no such quantity."""
        rows = self.file.rows()
        columns = dict.fromkeys(["iteration", *(key for row in rows for key in row)])
        text = io.StringIO()
        table = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(self.path, text.getvalue())


@LOGGERS.register("wandb")
class WandbLogger(RunLogger):
    """Weights & Biases. WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_API_KEY and the like are read by its library."""

    packages = ("wandb",)
    extra = "loggers"

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        self.library, self.folder = wandb, run.folder
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or run.name,
            id=run.id,
            resume="allow",
            config=_nested(run.config),
            dir=str(run.folder / FOLDER),
            settings=wandb.Settings(console="off"),
        )
        self.run.define_metric("*", step_metric="iteration")  # what is sent again after a resume has its own place

    def row(self, iteration: int, values: Mapping[str, float]) -> None:
        """A point of each curve."""
        self.run.log({"iteration": iteration, **values})

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """A picture of the series of its name."""
        self.run.log({"iteration": iteration, f"images/{name}": self.library.Image(str(path))})

    def finish(self, status: str) -> None:
        """Hand over the files, and wait until all is sent."""
        for name in (_CONFIG, _REPORT):
            if (self.folder / name).is_file():
                self.run.save(str(self.folder / name), base_path=str(self.folder), policy="now")
        self.run.finish(exit_code=1 if status == "failed" else 0)


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        *sections, last = key.split(".")
        inner = out
        for name in sections:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return out


@LOGGERS.register("mlflow")
class MlflowLogger(RunLogger):
    """MLflow. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the like are read from the environment."""

    packages = ("mlflow",)
    extra = "loggers"

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the run is told, and then it is tried again
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self.entities, self.folder = entities, run.folder
        self.client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found is not None else self.client.create_experiment(name)
        known = self.client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{run.id}'", max_results=1)
        own = known[0] if known else self.client.create_run(experiment, run_name=run.name, tags={_RUN_TAG: run.id})
        self.id = own.info.run_id
        self.client.update_run(self.id, status="RUNNING")
        self._parameters(run.config, own.data.params)

    def _parameters(self, config: Mapping[str, Any], there: Mapping[str, str]) -> None:
        """The config with which the run began: a parameter never changes, and config.yaml has the newest."""
        keys = _keys(config)
        texts = {keys[name]: str(value)[:_LONGEST_PARAMETER] for name, value in config.items()}
        new = [self.entities.Param(key, text) for key, text in texts.items() if text and key not in there]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self.client.log_batch(self.id, params=new[start : start + _MOST_PARAMETERS])

    def row(self, iteration: int, values: Mapping[str, float]) -> None:
        """A point of each curve, all in one request."""
        now = int(time.time() * 1000)
        keys = _keys(values)
        points = [self.entities.Metric(keys[name], value, now, iteration) for name, value in values.items()]
        for start in range(0, len(points), 1000):
            self.client.log_batch(self.id, metrics=points[start : start + 1000])

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """A file below images/."""
        self.client.log_artifact(self.id, str(path), "images")

    def finish(self, status: str) -> None:
        """Hand over the files, and say how it ended."""
        for name in (_CONFIG, _REPORT):
            if (self.folder / name).is_file():
                self.client.log_artifact(self.id, str(self.folder / name))
        ended = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
        self.client.set_terminated(self.id, ended[status])


def _keys(names: Iterable[str]) -> dict[str, str]:
    """Names as MLflow takes them: of the classes of somebody's data, everything may be there.

    Names of one row that become the same are kept apart by a digest. In a folder, MLflow writes each into a file of its
    name, so none lies below another.
    """
    clean = {name: _NO_PART.sub("_", _NOT_IN_A_KEY.sub("_", name))[:_LONGEST_KEY].rstrip("/") for name in names}
    taken = set(clean.values())
    keys = {name: _beside(key, taken) for name, key in clean.items()}
    times = Counter(keys.values())
    return {name: key if times[key] == 1 else _with_digest(key, name) for name, key in keys.items()}


def _beside(key: str, taken: Collection[str]) -> str:
    """A key that would be a file below another: its first part that is taken, then no more slashes."""
    above = next((key[: slash.start()] for slash in re.finditer("/", key) if key[: slash.start()] in taken), key)
    return above + key[len(above) :].replace("/", "_")


def _with_digest(key: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{key[: _LONGEST_KEY - 9]}-{digest}"
