"""Loss, learning rate and AP of a run as one picture."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from detframe.errors import FileAccessError, InvalidValueError
from detframe.visualization.drawing import class_colour

logger = logging.getLogger(__name__)

Series = Mapping[str, Sequence[tuple[float, float]]]  # name -> (iteration, value)

_WIDTH, _HEIGHT = 1000, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 210, 40, 44
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PALE, _GRID = (50, 50, 50), (120, 120, 120), (228, 228, 228)
_MAX_SERIES = 12
# Sub-pixel bits of the curves
_SHIFT = 4


def draw_curves(metrics_path: str | Path, output_path: str | Path) -> Path:
    """Draw metrics.jsonl as a picture: losses, AP and learning rate over the iterations, one panel each.

    Raises:
        FileNotFoundError: no metrics file.
        ValueError: nothing in it to draw.
        OSError: the picture cannot be written.
    """
    series = read_metrics(metrics_path)
    groups = {
        "loss": {name: points for name, points in series.items() if _is_loss(name)},
        "AP": {name: points for name, points in series.items() if _is_summary(name)},
        "learning rate": {name: points for name, points in series.items() if name == "lr"},
    }
    panels = [_panel(title, group) for title, group in groups.items() if group]
    if not panels:
        raise InvalidValueError(f"{metrics_path} has no loss, lr or AP to draw; it has {sorted(series) or 'no rows'}")
    output = Path(output_path)
    output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(output), np.concatenate(panels)[:, :, ::-1]):
        raise FileAccessError(f"cannot write the picture {output}")
    return output


def read_metrics(path: str | Path) -> dict[str, list[tuple[float, float]]]:
    """name -> (iteration, value) of all finite numbers in a metrics.jsonl, by iteration; of a repeated one the last.

    A last line that is cut off (the run is writing, or was stopped) is left out.
    """
    points: dict[str, dict[float, float]] = defaultdict(dict)
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                logger.warning("%s:%d is no JSON and is left out", path, number)
            continue
        for name, value in row.items():
            if name != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                points[name][float(row.get("iteration", number))] = float(value)
    return {name: sorted(values.items()) for name, values in points.items()}


def _is_loss(name: str) -> bool:
    """loss and loss_* of training, and val/loss and val/loss_*, also behind the name of a data set."""
    *_, kind, metric = ("", *name.split("/"))
    return kind in ("", "val") and (metric == "loss" or metric.startswith("loss_"))


def _is_summary(name: str) -> bool:
    """bbox/AP, proposals/AR@1000 and the like, also behind the name of a data set."""
    *_, kind, metric = ("", *name.split("/"))
    if kind == "proposals":
        return metric.endswith("@1000") or metric == "AR@100"
    return kind in ("bbox", "segm", "keypoints") and metric in ("AP", "AP50", "AP75", "APs", "APm", "APl")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that cover a range."""
    span = (high - low) or abs(high) or 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(f for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    return [step * i for i in range(first, math.ceil(high / step - 1e-9) + 1)] or [low]


def _panel(title: str, series: Series) -> np.ndarray:
    """One plot with axes, grid and legend; the legend lists the last value of each curve."""
    names = sorted(series, key=lambda name: (name.count("_"), name))[:_MAX_SERIES]
    xs = [x for name in names for x, _ in series[name]]
    ys = [y for name in names for _, y in series[name]]
    x_ticks, y_ticks = ticks(0, max(xs), 8), ticks(min(0.0, min(ys)), _upper(ys))
    x_range, y_range = (0.0, max(max(xs), 1.0)), (y_ticks[0], max(y_ticks[-1], y_ticks[0] + 1e-12))
    canvas = np.full((_HEIGHT, _WIDTH, 3), 255, dtype=np.uint8)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (min(y, y_range[1]) - y_range[0]) / (y_range[1] - y_range[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    _axes(canvas, title, [x for x in x_ticks if x <= x_range[1]], y_ticks, place)
    for index, name in enumerate(names):
        _curve(canvas, [place(x, y) for x, y in series[name]], _colour(index), thick=index == 0)
        _legend(canvas, index, f"{name}  {_number(series[name][-1][1])}", _colour(index))
    return canvas


def _upper(values: Iterable[float]) -> float:
    """The top of the axis: the largest value, unless a few early spikes would flatten everything else."""
    ordered = np.sort(np.asarray(list(values)))
    typical = float(np.quantile(ordered, 0.98)) * 1.25
    return float(ordered[-1]) if ordered[-1] <= 2 * typical or len(ordered) < 20 else typical


def _axes(
    canvas: np.ndarray,
    title: str,
    x_ticks: list[float],
    y_ticks: list[float],
    place: Callable[[float, float], tuple[float, float]],
) -> None:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for value in y_ticks:
        y = round(place(0, value)[1])
        cv2.line(canvas, (_LEFT, y), (right, y), _GRID, 1)
        _write(canvas, _number(value), (_LEFT - 8, y + 4), align="right")
    for value in x_ticks:
        x = round(place(value, y_ticks[0])[0])
        cv2.line(canvas, (x, bottom), (x, bottom + 4), _PALE, 1)
        _write(canvas, _number(value), (x, bottom + 19), align="centre")
    cv2.line(canvas, (_LEFT, bottom), (right, bottom), _PALE, 1)
    cv2.putText(canvas, title, (_LEFT, _TOP - 14), _FONT, 0.55, _INK, 1, cv2.LINE_AA)
    _write(canvas, "iteration", (right, bottom + 36), align="right")


def _curve(canvas: np.ndarray, points: list[tuple[float, float]], colour: tuple[int, int, int], thick: bool) -> None:
    corners = np.round(np.array(points) * 2**_SHIFT).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [corners], False, colour, 2 if thick else 1, cv2.LINE_AA, _SHIFT)
    if len(points) <= 30:
        for x, y in points:
            cv2.circle(canvas, (round(x), round(y)), 3, colour, -1, cv2.LINE_AA)


def _legend(canvas: np.ndarray, index: int, text: str, colour: tuple[int, int, int]) -> None:
    x, y = _WIDTH - _RIGHT + 18, _TOP + 8 + index * 20
    cv2.line(canvas, (x, y - 4), (x + 16, y - 4), colour, 3, cv2.LINE_AA)
    _write(canvas, text, (x + 22, y))


def _write(canvas: np.ndarray, text: str, at: tuple[int, int], align: str = "left") -> None:
    (width, _), _ = cv2.getTextSize(text, _FONT, 0.4, 1)
    shift = {"left": 0, "centre": width // 2, "right": width}[align]
    cv2.putText(canvas, text, (at[0] - shift, at[1]), _FONT, 0.4, _INK, 1, cv2.LINE_AA)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def _colour(index: int) -> tuple[int, int, int]:
    red, green, blue = class_colour(index)
    return round(red * 0.8), round(green * 0.8), round(blue * 0.8)  # darker: these stand on white
