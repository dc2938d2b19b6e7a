"""`report_run`: the report of a run that is over, from what lies in its folder."""

from __future__ import annotations

import logging
from pathlib import Path

from detframe.config import ConfigNode, read_config
from detframe.engine.checkpoint import best_weights
from detframe.engine.output_dir import EVALUATION_FILE, REPORT_FILE
from detframe.engine.reporting import CONFIG_FILE, WITHOUT_CLASSES, build_report
from detframe.engine.run import evaluate
from detframe.errors import MissingFileError, UserError
from detframe.report import Report, write_report
from detframe.report.predictions import predictions_file
from detframe.storage import refuse_address

logger = logging.getLogger(__name__)


def report_run(folder: Path, output: Path | None = None) -> Path:
    """Write the report of the run in a folder.

    Where the run has left no detections, they are predicted again with its best weights, which also writes
    evaluation.json; a run without weights, or whose data are gone, gives a page that says so. What the page says is
    missing is a warning as well.

    Args:
        folder: OUTPUT_DIR of a training or of an evaluation.
        output: the file; None: report.html in the folder.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no config.yaml.
        ValueError, KeyError: its config.yaml cannot be read.
        OSError: the page cannot be written.
    """
    report = collect_report(folder)[1]
    for note in report.all_notes:
        logger.warning("%s", note)
    return write_report(output or folder / REPORT_FILE, report)


def collect_report(folder: Path) -> tuple[ConfigNode, Report]:
    """The config and the report of the run in a folder; predicts again where it must. Errors as of `report_run`."""
    cfg = run_config(folder)
    failed = _predict_again(cfg, folder)
    report = build_report(cfg, folder)
    return cfg, report if not failed else report.with_notes(failed)


def run_config(folder: Path) -> ConfigNode:
    """The config of the run in a folder, with this folder as OUTPUT_DIR; errors as of `report_run`."""
    if folder.exists() and not folder.is_dir():
        raise MissingFileError(f"{folder} is a file; name the folder of a run (its OUTPUT_DIR), as {folder.parent}")
    if not folder.is_dir():
        refuse_address(folder, "download the folder of the run, and name the copy")
        raise MissingFileError(f"there is no folder {folder}; name the OUTPUT_DIR of a run")
    path = folder / CONFIG_FILE
    if not path.is_file():
        inside = sorted(str(found.parent) for found in folder.glob(f"*/{CONFIG_FILE}"))
        where = f"; runs lie in {', '.join(inside[:5])}" if inside else ""
        raise MissingFileError(f"{folder} holds no {CONFIG_FILE}, so it is not the OUTPUT_DIR of a run{where}")
    return read_config(path).changed([("OUTPUT_DIR", str(folder))])


def _predict_again(cfg: ConfigNode, folder: Path) -> str:
    """Evaluate the best weights where detections are missing; returns why that was not possible, "" where it was."""
    if cfg.TEST.EVALUATOR in WITHOUT_CLASSES or not cfg.DATASETS.TEST:
        return ""
    if all(predictions_file(folder, name).is_file() for name in cfg.DATASETS.TEST):
        return ""
    weights = _weights(cfg, folder)
    if not weights:
        return f"{folder} holds no checkpoint either, so nothing can be predicted again"
    logger.info("%s holds no detections of %s: predicting again with %s", folder, *(cfg.DATASETS.TEST[0], weights))
    try:
        evaluate(cfg.changed([("MODEL.WEIGHTS", weights), ("TEST.REPORT", True)]))
    except UserError as error:
        return f"predicting again with {weights} failed: {error}"
    return ""


def _weights(cfg: ConfigNode, folder: Path) -> str:
    """The best weights of a training, or those of which an evaluation in this folder speaks; "" without any."""
    best = best_weights(folder)
    if best.is_file():
        return str(best)
    return str(cfg.MODEL.WEIGHTS) if (folder / EVALUATION_FILE).is_file() else ""
