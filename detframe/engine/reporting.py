"""The report of a run: what a training and an evaluation leave at their end, and `detframe report` makes again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode
from detframe.config.plugins import plugin_lines
from detframe.data import MissingImagesError, Records, load_records
from detframe.engine.commands import given_command
from detframe.engine.evaluating import TestSets
from detframe.engine.logs import log_file
from detframe.engine.metrics_file import MetricsFile
from detframe.engine.output_dir import EVALUATION_FILE, REPORT_FILE
from detframe.engine.terminal import RESULT
from detframe.engine.trainer import Hook, Trainer
from detframe.errors import InvalidValueError, UserError
from detframe.evaluation.analysis import curve_advice
from detframe.evaluation.analysis.types import Advice
from detframe.files import read_text, write_text
from detframe.parallel.collectives import rank
from detframe.report import Curves, Report, SetReport, config_changes, run_curves, run_facts, start_line, write_report
from detframe.report.curves import number
from detframe.report.predictions import predictions_file, read_predictions
from detframe.report.sets import set_report
from detframe.texts import counted

logger = logging.getLogger(__name__)
CONFIG_FILE = "config.yaml"
WITHOUT_CLASSES = ("proposals",)  # evaluators that do not tell classes apart


def log_start(what: str) -> None:
    """The lines of the log that say what runs ("training" or "evaluation"), by which command and with which plugins."""
    logger.info("%s", start_line(what, given_command()))
    for level, line in plugin_lines():
        logger.log(level, "%s", line)


class ReportHook(Hook):
    """Writes the report when the run is complete; a report that fails is a warning, and the run stands.

    Args:
        tests: the data sets that the run evaluates; None where there are none.
    """

    name = "report"

    def __init__(self, cfg: ConfigNode, folder: Path, tests: TestSets | None) -> None:
        self.cfg = cfg
        self.folder = folder
        self.tests = tests

    def after_train(self, trainer: Trainer) -> None:
        """Save what the last evaluation found, and write the page."""
        report_tests(self.cfg, self.folder, self.tests)


def report_tests(cfg: ConfigNode, folder: Path, tests: TestSets | None) -> None:
    """Save the detections of the last evaluation and write the report; called by every rank, and rank 0 does it."""
    if not cfg.TEST.REPORT:
        return
    if tests is not None:
        tests.gather()
    if rank() != 0:
        return
    begun = time.perf_counter()
    try:
        sets = {} if tests is None else tests.sets
        if tests is not None:
            tests.save_predictions(folder)
        if not (folder / CONFIG_FILE).exists():  # of an evaluation, which `detframe report` is to find
            write_text(folder / CONFIG_FILE, cfg.dump())
        path = write_report(folder / REPORT_FILE, build_report(cfg, folder, sets))
    except Exception as error:
        text = error if isinstance(error, (UserError, OSError)) else f"{type(error).__name__}: {error}"
        logger.warning("no report was written (%s); everything else of the run is there", text, exc_info=error)
    else:
        logger.info("report written to %s in %.1f seconds", path, time.perf_counter() - begun, extra=RESULT)


# ---------------------------------------------------------------------------------------------- from files
def build_report(cfg: ConfigNode, folder: Path, loaded: Mapping[str, Records] | None = None) -> Report:
    """The report of what lies in a folder: config, metrics.jsonl, evaluation.json, log.txt and the detections.

    Args:
        cfg: of the run.
        loaded: the data sets, where somebody has them already.
    """
    rows = MetricsFile(folder).rows()
    evaluation, notes = _read_evaluation(folder)
    log = log_file(folder, 0)
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    facts = run_facts(folder.resolve().name, str(folder), cfg, rows, text, evaluation.get("weights", ""))
    sets = []
    for name in cfg.DATASETS.TEST:
        try:
            sets.append(_set(cfg, folder, name, (loaded or {}).get(name), _measured(name, cfg, rows, evaluation)))
        except UserError as error:
            notes.append(f"{name} could not be looked at: {error}")
    if not cfg.DATASETS.TEST:
        notes.append("DATASETS.TEST is empty: the run was not evaluated, so there is nothing here but its training")
    curves = run_curves(rows)
    advised = tuple(replace(one, of_curves=_curve_advice(one.name, curves)) for one in sets)
    return Report(facts, tuple(config_changes(cfg)), curves, advised, tuple(notes))


def _curve_advice(name: str, curves: Curves) -> tuple[Advice, ...]:
    """What the losses in training and on a data set say; its own where several were evaluated."""
    validation = curves.named(f"{name}/val/loss") or curves.named("val/loss")
    training = curves.named("loss")
    if validation is None:
        return ()
    return curve_advice(training.points() if training else [], validation.points())


def _read_evaluation(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """evaluation.json, {} where there is none; and what is wrong with it."""
    path = folder / EVALUATION_FILE
    if not path.is_file():
        return {}, []
    try:
        content = json.loads(read_text(path))
        if isinstance(content, dict) and isinstance(content.get("metrics"), dict):
            return content, []
        return {}, [f"{path.name} is left out: it does not hold the metrics of an evaluation"]
    except (ValueError, OSError) as error:
        return {}, [f"{path.name} is left out: {error}"]


Measured = tuple[dict[str, float | None], int | None]


def _measured(name: str, cfg: ConfigNode, rows: list[dict[str, Any]], evaluation: Mapping[str, Any]) -> Measured:
    """The newest metrics of a data set, and after how many iterations they were measured."""
    several = len(cfg.DATASETS.TEST) > 1
    evaluated = [row for row in rows if any("/" in key for key in row)]
    newest = evaluated[-1]["iteration"] if evaluated else None
    of_newest = [row for row in evaluated if row["iteration"] == newest]  # where tiles are compared, two rows
    candidates = [({key: row[key] for row in of_newest for key in row}, newest)] if evaluated else []
    if evaluation:
        candidates.append((evaluation["metrics"], evaluation.get("iteration")))
    found: Measured = ({}, None)
    for metrics, iteration in candidates:
        prefix = f"{name}/" if several else ""
        own = {k.removeprefix(prefix): number(v) for k, v in metrics.items() if "/" in k and k.startswith(prefix)}
        found = (own, iteration if type(iteration) is int else None) if own else found
    return found


def _set(cfg: ConfigNode, folder: Path, name: str, records: Records | None, measured: Measured) -> SetReport:
    """Raises UserError where there are no detections, or the data are gone."""
    path = predictions_file(folder, name)
    if cfg.TEST.EVALUATOR in WITHOUT_CLASSES:
        raise InvalidValueError(
            f"TEST.EVALUATOR {cfg.TEST.EVALUATOR} judges boxes whatever their class, so there is no analysis by class"
        )
    if not path.is_file():
        raise InvalidValueError(f"{path} is not there; it is written by an evaluation with TEST.REPORT True")
    notes: list[str] = []
    if records is None:
        records, notes = _load(cfg, name)
    results = read_predictions(path, records.metadata.category_ids)
    return set_report(name, records, results, measured, cfg.TEST.DETECTIONS_PER_IMG, notes)


def _load(cfg: ConfigNode, name: str) -> tuple[Records, list[str]]:
    """The records of a data set as far as they are still there."""
    try:
        return load_records([name], cfg.DATASETS.CATALOG, limit=cfg.DATASETS.LIMIT), []
    except MissingImagesError:
        found = load_records([name], cfg.DATASETS.CATALOG, limit=cfg.DATASETS.LIMIT, on_missing="skip")
        count = counted(len(found.missing), "image")
        return found, [f"missing now: {count} of {name}, as {found.missing[0]}; left out of all numbers here"]
