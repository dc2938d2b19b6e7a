"""The model against the data: what sizes its objects have after resizing, which of them training can assign to the
detector's anchors or locations, and which settings would change that. Nothing is trained, and no image is read.

Attainable recall is the share of objects that training assigns as it is meant to: an anchor overlaps them by
FG_IOU_THRESHOLD, or a location is their own. It says what can be learned at all, not how well: anchors far below most
objects reach all of them, and have cost nearly all AP (8 to 128 pixels: AP 0.9 on cars, where 32 to 512 gave 32.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detframe.config import ConfigNode, import_modules
from detframe.data.findings import NOTE, WARNING, Finding
from detframe.data.records import Records
from detframe.data.tiles import tiled
from detframe.engine.fit import (
    COMMON,
    MISSED,
    MISSED_OF_SIZE,
    SHRUNK,
    SMALL,
    Misfit,
    View,
    below_a_cell,
    eval_view,
    misfits,
    percent,
    place_objects,
    reach_words,
    reached,
    room_for,
    sampled,
    small_by_shrinking,
    training_views,
)
from detframe.engine.inputs import with_classes
from detframe.modeling.build import build_outline
from detframe.ops.reach import Objects, Reached
from detframe.recipes.options import Settings, head_options, options
from detframe.recipes.reach_table import SizeClass, class_lines, pixels, wrapped, written
from detframe.texts import counted

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
BOUNDS = (8.0, 16.0, 32.0, 96.0)  # between the sizes, pixels of the side after resizing
WORTH = 0.02  # what a setting must add to attainable recall, or take from the objects out of reach, to be named
CAVEAT = "Attainable recall counts what training can assign, not what it will learn"
CAVEAT_ANCHORS = "anchors far below most objects have cost nearly all AP. Change in small steps."


@dataclass(frozen=True)
class Sides:
    """Percentiles (PERCENTILES) of the objects' sides after one resizing, in pixels."""

    view: View
    root: tuple[float, ...]  # square roots of the areas
    shorter: tuple[float, ...]
    longer: tuple[float, ...]


@dataclass(frozen=True)
class Option:
    """A change of settings, and what it would give."""

    settings: Settings
    recall: float
    missed: float  # share of the objects
    pixels: float  # of the training images, over those of today: what a step costs grows about as much

    @property
    def text(self) -> str:
        """Keys and values as one would write them on a command line."""
        return " ".join(f"{key} {written(value)}" for key, value in self.settings)


@dataclass(frozen=True)
class Images:
    """Some of the images, and the most extreme number among all."""

    count: int
    most: float
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Reach:
    """What `reach` found.

    Attributes:
        num_objects: those looked at, crowds not counted; of very many a fixed sample.
        words: what it is to be reached and to be out of reach, in clauses about objects.
        sides: of the middle training size, then of the smallest and largest training size and of the test size where
            these differ.
        classes: by size, from small to large.
        misfits: where a rule that ranks anchors fits the objects badly.
        total: all objects as one class; its `full` is the attainable recall.
        options: the changes that are worth it, best first.
        shrunk: images that the resizing of training shrinks threefold or more, and the largest factor.
        small_by_shrinking: objects in such images that are below 16 pixels (SMALL) then.
        resized_by: the keys of the config that decide it.
        crowded: images with more objects than DETECTIONS_PER_IMG, and the largest number.
        limit: DETECTIONS_PER_IMG.
        lost: share of all objects that are too many for that limit.
    """

    num_images: int
    num_objects: int
    words: tuple[str, str]
    sides: tuple[Sides, ...]
    classes: tuple[SizeClass, ...]
    total: SizeClass
    misfits: tuple[Misfit, ...]
    options: tuple[Option, ...]
    shrunk: Images
    small_by_shrinking: int
    resized_by: str
    crowded: Images
    limit: int
    lost: float

    @property
    def recall(self) -> float:
        """Attainable recall, 0 to 1; NaN where the detector cannot tell or there is no object."""
        return self.total.full

    def findings(self) -> tuple[Finding, ...]:
        """What is worth a warning, each with the setting that changes it."""
        ill = [Finding("ill-fitting", WARNING, m.count, m.text, (), m.remedy) for m in self.misfits]
        return (*self._out_of_reach(), *ill, *self._narrow(), *self._shrunk(), *self._crowded())

    def _out_of_reach(self) -> Iterator[Finding]:
        low = [
            c for c in self.classes if c.missed >= MISSED_OF_SIZE and c.missed * c.count >= COMMON * self.num_objects
        ]
        if not low and not self.total.missed >= MISSED:
            return
        for c in low or [self.total]:
            count = round(c.missed * c.count)
            text = f"of {c.count} objects {c.name} after resizing ({percent(c.missed)}) {self.words[1]}"
            yield Finding("out-of-reach", WARNING, count, text, (), self.remedy())

    def remedy(self) -> str:
        """The change that reaches most, in a clause; "" where none was found that is worth it."""
        if not self.options:
            return ""
        best = self.options[0]
        missed = f"{percent(best.missed)} of all objects missed instead of {percent(self.total.missed)}"
        work = f", for {best.pixels:.1f} times the pixels" if best.pixels > 1 else ""
        change = f"raises attainable recall from {self.recall:.2f} to {best.recall:.2f}"
        return f"{best.text} {change} ({missed}{work})"

    def _narrow(self) -> Iterator[Finding]:
        if self.total.below_cell >= MISSED_OF_SIZE:
            count = round(self.total.below_cell * self.num_objects)
            text = (
                f"of {self.num_objects} objects ({percent(self.total.below_cell)}) are narrower than one cell of the "
                "map that the second stage pools them from"
            )
            remedy = "a larger INPUT.MIN_SIZE_TRAIN and MIN_SIZE_TEST, or a pyramid with a finer level"
            yield Finding("below-a-cell", WARNING, count, text, (), remedy)

    def _shrunk(self) -> Iterator[Finding]:
        if self.shrunk.count:
            share = self.small_by_shrinking / max(1, self.num_objects)
            text = (
                f"of {self.num_images} images are shrunk {SHRUNK:.0f} times or more by the resizing, at most "
                f"{self.shrunk.most:.1f} times; {percent(share)} of all objects lie in them and are below {SMALL:.0f} "
                "pixels then"
            )
            severity, remedy = NOTE, ""
            if share >= COMMON:
                severity, remedy = WARNING, f"a larger {self.resized_by}, or images cut into tiles"
            yield Finding("shrunk", severity, self.shrunk.count, text, self.shrunk.examples, remedy)

    def _crowded(self) -> Iterator[Finding]:
        if self.crowded.count:
            most = int(self.crowded.most)
            text = (
                f"of {self.num_images} images hold more than TEST.DETECTIONS_PER_IMG {self.limit} objects, at most "
                f"{most}: {percent(self.lost)} of all objects can never be found"
            )
            remedy = f"TEST.DETECTIONS_PER_IMG {room_for(most)}"
            yield Finding("crowded", WARNING, self.crowded.count, text, self.crowded.examples, remedy)

    def lines(self) -> list[str]:
        """All of it for a screen of 80 columns."""
        if not self.num_objects:
            return [f"{counted(self.num_images, 'image')} without an object: nothing to reach"]
        return [*_side_lines(self.sides), *class_lines(self.classes, self.total, self.words), *self._option_lines()]

    def _option_lines(self) -> Iterator[str]:
        if not self.options:
            return
        yield f"settings that raise attainable recall from {self.recall:.2f}, each row alone"
        yield "  recall  missed  pixels  setting"
        for option in self.options:
            numbers = f"{option.recall:>8.2f}{percent(option.missed):>8}{f'x {option.pixels:.1f}':>8}"
            yield from wrapped(f"{numbers}  {option.text}".replace("],[", "], ["), indent=26)
        anchors = "anchor" in self.words[0]
        yield f"  {CAVEAT}{':' if anchors else '.'}"
        if anchors:
            yield f"  {CAVEAT_ANCHORS}"


def reach(cfg: ConfigNode, records: Records, with_options: bool = True) -> Reach:
    """Set a config against some data, or their tiles (INPUT.TILES); NUM_CLASSES 0 is taken from them.

    Args:
        with_options: try other settings too, which takes most of the time (about a second).

    Raises:
        ValueError, KeyError: the config describes no model.
    """
    import_modules(cfg)
    cfg, records = with_classes(cfg, records.metadata), tiled(cfg, records)
    some = sampled(records, cfg)
    view, model = training_views(cfg)[0], build_outline(cfg)
    objects = place_objects(model, some, view)
    found = reached(model, objects) if len(objects.image) else None
    classes, total = _classes(objects, found, below_a_cell(model, objects))
    counts = records.num_objects
    limit = cfg.TEST.DETECTIONS_PER_IMG
    return Reach(
        num_images=len(records),
        num_objects=len(objects.image),
        words=reach_words(cfg),
        sides=tuple(_sides(model, some, v) for v in _views(cfg)) if len(objects.image) else (),
        classes=classes,
        total=total,
        misfits=tuple(misfits(cfg, objects, found)),
        options=_worthwhile(cfg, model, some, objects, total) if with_options and found is not None else (),
        shrunk=_images(records, view.factors(records), SHRUNK),
        small_by_shrinking=small_by_shrinking(some, view, objects),
        resized_by=view.keys,
        crowded=_images(records, counts, limit + 1),
        limit=limit,
        lost=float(np.maximum(counts - limit, 0).sum() / max(1, counts.sum())),
    )


def _views(cfg: ConfigNode) -> list[View]:
    """The resizings that differ; the first is the middle one of the training."""
    out: list[View] = []
    for view in (*training_views(cfg), eval_view(cfg)):
        same = [v for v in out if (v.min_size, v.max_size) == (view.min_size, view.max_size)]
        if not same:
            out.append(view)
        elif view.name == "test" and same[0] is out[0]:
            out[0] = replace(out[0], name="training and test")
    return out


def _sides(model: Any, records: Records, view: View) -> Sides:
    objects = place_objects(model, records, view)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    columns = (objects.sides, sides.amin(1), sides.amax(1))
    root, shorter, longer = (tuple(np.percentile(column.numpy(), PERCENTILES).tolist()) for column in columns)
    return Sides(view, root, shorter, longer)


def _classes(objects: Objects, found: Reached | None, below: Tensor | None) -> tuple[tuple[SizeClass, ...], SizeClass]:
    """The size classes, and all objects as one."""
    limits = [0.0, *BOUNDS, float("inf")]
    names = [f"below {BOUNDS[0]:.0f} px", *(f"{a:.0f} to {b:.0f} px" for a, b in pairwise(BOUNDS))]
    names.append(f"from {BOUNDS[-1]:.0f} px on")
    out = [
        _size_class(name, (objects.sides >= low) & (objects.sides < high), found, below)
        for name, (low, high) in zip(names, pairwise(limits), strict=True)
    ]
    return tuple(out), _size_class("of any size", torch.ones(len(objects.image), dtype=torch.bool), found, below)


def _size_class(name: str, rows: Tensor, found: Reached | None, below: Tensor | None) -> SizeClass:
    columns = (None, None, None) if found is None else (found.full, found.weak, found.missed)
    full, weak, missed, below_cell = (_mean(column, rows) for column in (*columns, below))
    out = SizeClass(name, int(rows.sum()), full, weak, missed, below_cell)
    fit = None if found is None else found.fit
    if fit is None:
        return out
    some = rows & (fit.positives > 0)
    scale = float(fit.scale[some].median()) if some.any() else float("nan")
    return replace(out, positives=_mean(fit.positives, rows), overlap=_mean(fit.overlap, some), scale=scale)


def _mean(column: Tensor | None, rows: Tensor) -> float:
    return float("nan") if column is None or not rows.any() else float(column[rows].double().mean())


def _images(records: Records, values: np.ndarray, least: float) -> Images:
    """The images whose value is at least that much, the most extreme first in the examples."""
    chosen = np.flatnonzero(values >= least)
    first = chosen[np.argsort(-values[chosen], kind="stable")][:3]
    most = float(values.max()) if len(values) else 0.0
    return Images(len(chosen), most, tuple(Path(records.file_name(int(i))).name for i in first))


# ---------------------------------------------------------------------------------------------- other settings
def _worthwhile(cfg: ConfigNode, model: Any, records: Records, objects: Objects, now: SizeClass) -> tuple[Option, ...]:
    """The settings that reach clearly more, best first; a larger input also with anchors that suit it."""
    tried = [_try(cfg, model, records, settings) for settings in options(cfg, model, *_shapes(objects))]
    good = [
        o for o in tried if o.recall >= now.full + WORTH or (o.missed <= now.missed - WORTH and o.recall >= now.full)
    ]
    larger = [o for o in good if o.pixels > 1]
    if larger:
        good += _with_a_larger_input(cfg, records, max(larger, key=_merit), max(good, key=_merit))
    return tuple(sorted(good, key=_merit, reverse=True))


def _with_a_larger_input(cfg: ConfigNode, records: Records, larger: Option, best: Option) -> Iterator[Option]:
    """Settings of the RPN head that make more of a larger input than any change alone."""
    other = cfg.changed(larger.settings)
    model = build_outline(other)
    shapes = _shapes(place_objects(model, records, training_views(other)[0]))
    tried = [_try(cfg, model, records, (*larger.settings, *more)) for more in head_options(other, model, *shapes)]
    better = [option for option in tried if option.recall >= best.recall + WORTH]
    if better:
        yield max(better, key=_merit)


def _merit(option: Option) -> tuple[float, ...]:
    """By what the better of two is the larger: what it reaches, and of those that reach as much, what it costs."""
    return round(option.recall, 2), -round(option.missed, 2), -option.pixels


def _shapes(objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """Sides and heights over widths of objects, as `options` wants them."""
    wh = (objects.boxes[:, 2:] - objects.boxes[:, :2]).numpy()
    return objects.sides.numpy(), wh[:, 1] / np.maximum(wh[:, 0], 1e-6)


def _try(cfg: ConfigNode, model: Any, records: Records, settings: Settings) -> Option:
    other = cfg.changed(settings)
    if not all(key.startswith("INPUT.") for key, _ in settings):
        model = build_outline(other)
    objects = place_objects(model, records, training_views(other)[0])
    found = reached(model, objects)
    recall, missed = (found.full, found.missed) if found is not None else (torch.full((1,), torch.nan),) * 2
    pixels = float(objects.sizes_hw.prod(1).sum() / training_views(cfg)[0].sizes_hw(records).prod(1).sum())
    return Option(settings, float(recall.double().mean()), float(missed.double().mean()), pixels)


# ---------------------------------------------------------------------------------------------- text
def _side_lines(sides: Sequence[Sides]) -> Iterator[str]:
    yield f"  {'sides of objects, px':<24}" + "".join(f"{f'{p} %':>7}" for p in PERCENTILES)
    for row in sides:
        limit = f", at most {row.view.max_size}" if row.view.max_size else ""
        yield f"  {row.view.name}: " + (
            f"shorter side {row.view.min_size}{limit}" if row.view.min_size else "as they are"
        )
        for name, values in (("square root of area", row.root), ("shorter", row.shorter), ("longer", row.longer)):
            yield f"    {name:<22}" + "".join(f"{pixels(value):>7}" for value in values)
