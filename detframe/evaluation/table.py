"""Tables of metrics as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

_TITLES = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP small", "APm": "AP medium", "APl": "AP large"}
# Classes from which the table of classes is folded into two, then three blocks beside each other
_FOLD = (12, 40)


def format_metric(value: float) -> str:
    """A metric with one decimal, or N/A where there was nothing to measure."""
    return "N/A" if math.isnan(value) else f"{value:.1f}"


def metrics_table(metrics: dict[str, float], class_names: Sequence[str], num_objects: Sequence[int]) -> str:
    """Two tables: the summary, one row per kind of metric, and AP of every class with its number of objects."""
    kinds = [kind for kind in ("bbox", "segm", "keypoints") if f"{kind}/AP" in metrics]
    summary = [["", *_TITLES.values()]]
    for kind in kinds:
        summary.append([kind, *(format_metric(metrics.get(f"{kind}/{key}", math.nan)) for key in _TITLES)])
    header = ["class", "objects", *("AP" if len(kinds) == 1 else f"{kind} AP" for kind in kinds)]
    rows = [
        [name, str(int(count)), *(format_metric(metrics[f"{kind}/AP-{name}"]) for kind in kinds)]
        for name, count in zip(class_names, num_objects, strict=True)
    ]
    text = text_table(summary)
    return f"{text}\n\n{_folded(header, rows)}" if rows else text


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as aligned columns, the first row as header; the first column is flush left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(w.rjust(width) for w, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])


def _folded(header: list[str], rows: list[list[str]]) -> str:
    """The rows as one to three tables beside each other."""
    blocks = 1 + sum(len(rows) > limit for limit in _FOLD)
    height = math.ceil(len(rows) / blocks)
    texts = [text_table([header, *rows[i : i + height]]).splitlines() for i in range(0, len(rows), height)]
    widths = [max(len(line) for line in text) for text in texts]
    lines = [
        "    ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*texts, fillvalue="")
    ]
    return "\n".join(lines)
