"""What a study leaves: a table of its trials, which keys matter, and the best config."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence

from detframe.config import ConfigNode, read_config
from detframe.engine.commands import program_name
from detframe.engine.run_configs import short_names
from detframe.files import read_text, write_text
from detframe.texts import counted, format_share, text_table
from detframe.tuning.place import StudyPlace
from detframe.tuning.study import FINISHED, PRUNED, TrialRow, best_row

CSV_FILE, MARKDOWN_FILE, BEST_FILE = "results.csv", "results.md", "best.yaml"
_MOST_ROWS = 20  # of the table in the terminal
_WIDEST = 24  # characters of a cell there


def write_results(
    place: StudyPlace, cfg: ConfigNode, rows: Sequence[TrialRow], importances: Mapping[str, float]
) -> None:
    """results.csv, results.md and, once a trial has finished, best.yaml; each whole or as it was."""
    ranked = ranking(rows)
    write_text(place.folder / CSV_FILE, _csv(cfg, ranked))
    write_text(place.folder / MARKDOWN_FILE, _markdown(place, cfg, ranked, importances))
    best = best_row(rows)
    if best is not None:
        _write_best(place, cfg, best)


def ranking(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The finished trials, the best first; then the pruned ones, then the others."""
    group = {FINISHED: 0, PRUNED: 1}
    return sorted(rows, key=lambda row: (group.get(row.state, 2), -(row.value or 0.0), row.name))


def _csv(cfg: ConfigNode, rows: Sequence[TrialRow]) -> str:
    keys = _keys(rows)
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["trial", "state", cfg.SOLVER.BEST_METRIC, "evaluations", "seconds", *keys, "reason"])
    for row in rows:
        value = "" if row.value is None else f"{row.value:.4f}"
        settings = [row.settings.get(key, "") for key in keys]
        table.writerow([row.name, row.state, value, row.evaluations, f"{row.seconds:.1f}", *settings, row.reason])
    return out.getvalue()


def _markdown(place: StudyPlace, cfg: ConfigNode, rows: Sequence[TrialRow], importances: Mapping[str, float]) -> str:
    table = _cells(cfg, rows, reasons=True)
    lines = [f"# Study {place.name}", "", summary(rows), ""]
    lines += [_markdown_row(table[0]), _markdown_row(["---"] * len(table[0])), *map(_markdown_row, table[1:])]
    if importances:
        lines += ["", "How much of the differences between the finished trials a key explains:", ""]
        lines += [f"- {key}: {format_share(share)}" for key, share in importances.items()]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cells(cfg: ConfigNode, rows: Sequence[TrialRow], reasons: bool) -> list[list[str]]:
    keys = _keys(rows)
    out = [["trial", cfg.SOLVER.BEST_METRIC, "state", "s", *short_names(keys), *(["reason"] if reasons else [])]]
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.2f}"
        settings = [row.settings.get(key, "-") for key in keys]
        cells = [row.name, value, row.state, f"{row.seconds:.0f}" if row.seconds else "-", *settings]
        out.append([*cells, *([row.reason] if reasons else [])])
    return out


def _keys(rows: Sequence[TrialRow]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.settings))


def summary(rows: Sequence[TrialRow]) -> str:
    """How many trials there are, and what became of them: "12 trials: 8 finished, 4 pruned"."""
    states = Counter(row.state for row in rows)
    return f"{counted(len(rows), 'trial')}: {', '.join(f'{number} {state}' for state, number in states.most_common())}"


def as_text(place: StudyPlace, cfg: ConfigNode, rows: Sequence[TrialRow], importances: Mapping[str, float]) -> str:
    """The results for the terminal."""
    ranked = ranking(rows)
    cells = [[_cut(cell) for cell in line] for line in _cells(cfg, ranked[:_MOST_ROWS], reasons=False)]
    parts = [text_table(cells)]
    if len(ranked) > _MOST_ROWS:
        parts.append(f"{len(ranked) - _MOST_ROWS} more are in {place.folder / CSV_FILE}")
    if importances:
        shares = ", ".join(f"{key} {format_share(share)}" for key, share in importances.items())
        parts.append(f"what the differences come from: {shares}")
    parts.append(summary(rows))
    best = best_row(rows)
    if best is None:
        parts.append("no trial has finished, so there is no best config")
    else:
        command = f"{program_name('train', 'train_net.py')} --config-file {place.folder / BEST_FILE}"
        parts.append(f"best: {best.name}, {cfg.SOLVER.BEST_METRIC} {best.value:.2f}; to train it again\n  {command}")
    return "\n".join(parts) + "\n"


def _cut(cell: str) -> str:
    return cell if len(cell) <= _WIDEST else f"{cell[: _WIDEST - 3]}..."


def _write_best(place: StudyPlace, cfg: ConfigNode, best: TrialRow) -> None:
    """The config of the best trial, as its own config.yaml has it, for a folder of its own."""
    path = place.folder / BEST_FILE
    head = f"# {best.name} of the study {place.name}: {cfg.SOLVER.BEST_METRIC} {best.value:.2f}\n"
    if path.is_file() and read_text(path).startswith(head):
        return
    own = read_config(place.folder / best.name / "config.yaml")
    write_text(path, head + own.changed([("OUTPUT_DIR", str(place.folder / "best"))]).dump())
