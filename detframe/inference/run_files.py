"""The numbers that a run left about some weights: what a model card says of how well they work."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError, MissingFileError
from detframe.files import read_text
from detframe.report import RunFacts, run_facts

EVALUATION, METRICS, LOG = "evaluation.json", "metrics.jsonl", "log.txt"
_KINDS = ("bbox", "segm", "keypoints", "proposals", "tt100k")  # what the metrics of an evaluation begin with


@dataclass(frozen=True)
class RunNumbers:
    """How well some weights work.

    Args:
        metrics: as metrics.jsonl has them, "bbox/AP" or "NAME/bbox/AP", from 0 to 100; finite ones alone.
        iteration: of the weights; None where nobody says.
        source: where the metrics stood, for the reader.
        facts: of the run; None where its folder was not given.
    """

    metrics: Mapping[str, float]
    iteration: int | None = None
    source: str = ""
    facts: RunFacts | None = field(default=None)

    @classmethod
    def of_checkpoint(cls, meta: Mapping[str, Any]) -> RunNumbers:
        """What a checkpoint says of itself."""
        return cls(finite_metrics(meta.get("metrics", {})), meta.get("iteration"), "the checkpoint")


def run_numbers(folder: Path, cfg: ConfigNode, meta: Mapping[str, Any]) -> RunNumbers:
    """The numbers of a checkpoint in the OUTPUT_DIR of its training or evaluation.

    evaluation.json counts where it is of the same iteration, else the line of metrics.jsonl of that iteration, else
    what the checkpoint says: numbers of other weights would praise or blame the wrong ones.

    Args:
        cfg: of the training.
        meta: what the checkpoint says about itself.

    Raises:
        FileNotFoundError: no such folder, or none of a run.
        ValueError: its evaluation.json is damaged.
    """
    if not folder.is_dir():
        raise MissingFileError(f"there is no folder {folder} of a run (working folder {Path.cwd()})")
    if not any((folder / name).is_file() for name in (EVALUATION, METRICS, LOG)):
        raise MissingFileError(
            f"{folder} is no OUTPUT_DIR of a run: it holds neither {EVALUATION}, {METRICS} nor {LOG}"
        )
    own = RunNumbers.of_checkpoint(meta)
    rows, evaluation = list(_rows(folder / METRICS)), _evaluation(folder / EVALUATION)
    log = folder / LOG
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    countable = cfg if isinstance(cfg.SOLVER.MAX_ITER, int) else cfg.changed([("SOLVER.MAX_ITER", own.iteration or 1)])
    facts = run_facts(folder.resolve().name, "", countable, [row for row in rows if "loss" in row], text)
    for iteration, metrics, source in _measured(rows, evaluation):
        if metrics and iteration == own.iteration:
            return RunNumbers(metrics, iteration, source, facts)
    return replace(own, facts=facts)


def finite_metrics(values: Any) -> dict[str, float]:
    """The metrics of an evaluation among some values; not those that do not apply (NaN), nor losses."""
    if not isinstance(values, Mapping):
        return {}
    return {
        str(key): float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value) and set(str(key).split("/")) & set(_KINDS)
    }


def _measured(
    rows: list[dict[str, Any]], evaluation: Mapping[str, Any]
) -> Iterator[tuple[int | None, dict[str, float], str]]:
    """(iteration, metrics, where they stand), the best source first."""
    yield evaluation.get("iteration"), finite_metrics(evaluation.get("metrics")), EVALUATION
    for row in reversed(rows):
        yield row.get("iteration"), finite_metrics(row), METRICS


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; one that was cut off by the end of the process is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            yield row


def _evaluation(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise InvalidValueError(f"{path} is no JSON ({error}); delete it, or evaluate again") from None
    return content if isinstance(content, dict) else {}
