"""Draw the curves of a run from its metrics.jsonl: losses on the left, AP on the right."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.cli.media import write_image

PANEL_WH = (620, 420)
MARGIN = {"left": 64, "right": 16, "top": 40, "bottom": 44}
# RGB, told apart also by those who do not see red or green
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
GREY, DARK = (205, 205, 205), (60, 60, 60)
METRICS = ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP")

Curve = list[tuple[float, float]]


def read_curves(path: Path) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """(losses, AP) of a metrics.jsonl: name -> (iteration, value) points; values that are no numbers are left out."""
    losses: dict[str, Curve] = {}
    scores: dict[str, Curve] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            if name == "loss" or name.startswith("loss_"):
                losses.setdefault(name, []).append((row["iteration"], value))
            elif name in METRICS:
                scores.setdefault(name, []).append((row["iteration"], value))
    return losses, scores


def draw_curves(metrics: Path, output: Path) -> Path:
    """Write the curves of `metrics` (a metrics.jsonl) as a picture and return its path."""
    losses, scores = read_curves(metrics)
    panels = [_panel("losses", losses), _panel("AP on the validation images", scores, top=100.0)]
    write_image(output, np.concatenate(panels, axis=1))
    return output


def _panel(title: str, curves: dict[str, Curve], top: float | None = None) -> np.ndarray:
    width, height = PANEL_WH
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    points = [point for curve in curves.values() for point in curve]
    _text(canvas, title, (MARGIN["left"], 24), DARK, 0.55)
    if not points:
        _text(canvas, "nothing was recorded", (MARGIN["left"] + 20, height // 2), DARK)
        return canvas
    right = max(x for x, _ in points) or 1.0
    top = top or max(y for _, y in points) * 1.05 or 1.0
    _axes(canvas, right, top)
    # Losses fall and AP rises: the legend takes the corner that stays empty
    legend = MARGIN["top"] + 16 if top != 100.0 else height - MARGIN["bottom"] - 18 * len(curves)
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        _line(canvas, [_pixel(x / right, y / top) for x, y in curve], colour)
        _text(canvas, f"{name} {curve[-1][1]:.3g}", (width - 200, legend + 18 * number), colour)
    return canvas


def _pixel(x: float, y: float) -> tuple[int, int]:
    """Pixel of a point given as fractions of the axes."""
    width, height = PANEL_WH
    inner_w = width - MARGIN["left"] - MARGIN["right"]
    inner_h = height - MARGIN["top"] - MARGIN["bottom"]
    return MARGIN["left"] + round(x * inner_w), height - MARGIN["bottom"] - round(min(y, 1.0) * inner_h)


def _axes(canvas: np.ndarray, right: float, top: float) -> None:
    import cv2

    for value in _ticks(top):
        start, end = _pixel(0, value / top), _pixel(1, value / top)
        cv2.line(canvas, start, end, GREY, 1)
        _text(canvas, f"{value:g}", (8, start[1] + 4), DARK)
    for value in _ticks(right):
        x, y = _pixel(value / right, 0)
        cv2.line(canvas, (x, y), (x, y + 4), DARK, 1)
        _text(canvas, f"{value:g}", (x - 12, y + 20), DARK)
    cv2.line(canvas, _pixel(0, 0), _pixel(1, 0), DARK, 1)
    cv2.line(canvas, _pixel(0, 0), _pixel(0, 1), DARK, 1)
    _text(canvas, "iteration", (PANEL_WH[0] // 2, PANEL_WH[1] - 6), DARK)


def _ticks(top: float) -> list[float]:
    """About five round values from 0 to `top`."""
    raw = top / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def _line(canvas: np.ndarray, points: Sequence[tuple[int, int]], colour: tuple[int, int, int]) -> None:
    import cv2

    if len(points) == 1:
        cv2.circle(canvas, points[0], 4, colour, -1, cv2.LINE_AA)
        return
    cv2.polylines(canvas, [np.array(points, dtype=np.int32)], False, colour, 2, cv2.LINE_AA)


def _text(canvas: np.ndarray, text: str, at: tuple[int, int], colour: Any, scale: float = 0.42) -> None:
    import cv2

    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
