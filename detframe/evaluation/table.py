"""Tables of metrics as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from detframe.texts import text_table

# COCO's ranges of areas, in pixels of the original image
_SIZES = {"APs": "small (below 32x32)", "APm": "medium (32x32 to 96x96)", "APl": "large (above 96x96)"}
_MOST_NAMES = 5
_TITLES = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "APs": "AP small", "APm": "AP medium", "APl": "AP large"}
# Classes from which the table of classes is folded into two, then three blocks beside each other
_FOLD = (12, 40)


def format_metric(value: float) -> str:
    """A metric with one decimal, or N/A where there was nothing to measure."""
    return "N/A" if math.isnan(value) else f"{value:.1f}"


def metrics_table(metrics: Mapping[str, float], class_names: Sequence[str], num_objects: Sequence[int]) -> str:
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
    parts = [
        text_table(summary),
        *([_folded(header, rows)] if rows else []),
        *_not_measured(metrics, kinds, num_objects),
    ]
    return "\n\n".join(parts)


def _not_measured(metrics: Mapping[str, float], kinds: Sequence[str], num_objects: Sequence[int]) -> list[str]:
    """Why something reads N/A, in one line for each kind of metric; none where all was measured."""
    if not sum(num_objects):
        return ["N/A: there are no objects in these images (crowd regions do not count), so nothing can be measured"]
    out = []
    for kind in kinds:
        what = {"bbox": "objects", "segm": "objects with a mask", "keypoints": "objects with keypoints"}[kind]
        missing = [name for key, name in _SIZES.items() if math.isnan(metrics.get(f"{kind}/{key}", 0.0))]
        unknown = [key for key in _SIZES if f"{kind}/{key}" not in metrics]
        classes = [key for key, value in metrics.items() if key.startswith(f"{kind}/AP-") and math.isnan(value)]
        reasons = [f"no {what} that are {' or '.join(missing)}"] if missing else []
        if unknown and kind == "keypoints":
            reasons.append("COCO has no AP of small keypoints")
        if classes:
            reasons.append(f"no {what} of {_some([key.removeprefix(f'{kind}/AP-') for key in classes])}")
        if reasons:
            out.append(f"N/A of {kind}: {'; '.join(reasons)}")
    return out


def _some(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"class {names[0]!r}"
    return f"{len(names)} classes ({', '.join(names[:_MOST_NAMES])}{', ...' if len(names) > _MOST_NAMES else ''})"


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
