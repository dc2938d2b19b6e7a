"""`finetune`: from a folder to a detector in one call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detframe.config.paths import expanded
from detframe.engine.checkpoint import best_weights
from detframe.engine.run import train
from detframe.errors import InvalidTypeError, shown
from detframe.inference import Detector
from detframe.recipes.plan import Request, make_plan, output_folder
from detframe.recipes.spelling import as_arguments
from detframe.recipes.writing import check_output, written


def finetune(
    path: str | Path,
    minutes: float | None = None,
    epochs: float | None = None,
    model: str = "",
    weights: str | Path = "",
    output: str | Path = "",
    task: str = "box",
    classes: Sequence[str] | Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | Sequence[Any] = (),
    format: str = "",
    val_data: str | Path = "",
) -> Detector:
    """Train a detector on the data at a path, and return it; `detframe train --data` as a function.

    Args:
        path: a folder, a file of annotations, a data.yaml, or an archive.
        minutes: from now to the end, evaluation included. With neither `minutes` nor `epochs` a length is chosen.
        epochs: of the training.
        model: "small", "medium", "large", or a config by name or path; "" chooses by the machine.
        weights: a file, or a name as of MODEL.WEIGHTS; "" is ImageNet's, "none" begins at random.
        output: OUTPUT_DIR; "" is output/NAME.
        task: "box", "mask" or "keypoint".
        classes: names to select, in the order of the labels, or a mapping that also renames them.
        overrides: config keys and values that win over what is chosen: {"SOLVER.BASE_LR": 1e-4}, or a list of both.
        format: of the data, where it is not to be recognised.
        val_data: a path whose data evaluate, in place of a part of `path`.

    Returns:
        The detector with the best metric on the validation images.

    Raises:
        ValueError, KeyError, FileNotFoundError: a mistake in the data or the arguments; and as `detframe.train`.
        TypeError: an argument of another kind; None is taken as left out.
    """
    if path is None:
        raise InvalidTypeError("path must name a folder, a file of annotations, a data.yaml or an archive, not None")
    request = Request(
        path=_text("path", path), minutes=minutes, epochs=epochs, model=_text("model", model),
        weights=_text("weights", weights), output=_text("output", output), task=_text("task", task) or "box",
        val_data=_text("val_data", val_data), format=_text("format", format), classes=classes,
        overrides=_words(overrides), started=time.time(),
    )  # fmt: skip
    with as_arguments():
        check_output(output_folder(request))
        plan = make_plan(request)
    with written(plan) as recipe:
        train(recipe)
    folder = expanded(recipe.parent)
    return Detector.load(best_weights(folder))


def _text(name: str, value: Any) -> str:
    """A text or a path as a text; "" for None."""
    if value is None or isinstance(value, (str, Path)):
        return "" if value is None else str(value)
    raise InvalidTypeError(f"{name} must be a text or a path, not {shown(value)}")


def _words(overrides: Any) -> list[Any]:
    """[KEY, VALUE, ...] of overrides."""
    if isinstance(overrides, Mapping):
        return [word for pair in overrides.items() for word in pair]
    if not isinstance(overrides, (list, tuple)):
        raise InvalidTypeError(
            f'overrides must be a dict {{"KEY": value}} or a list [KEY, VALUE], not {shown(overrides)}'
        )
    return list(overrides)
