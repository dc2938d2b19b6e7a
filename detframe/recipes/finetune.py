"""`finetune`: from a folder to a detector in one call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detframe.config.paths import expanded
from detframe.engine.checkpoint import best_weights
from detframe.engine.run import train
from detframe.inference import Detector
from detframe.recipes.plan import Request, make_plan, output_folder
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
    """
    words = [word for pair in overrides.items() for word in pair] if isinstance(overrides, Mapping) else list(overrides)
    request = Request(
        path=str(path), minutes=minutes, epochs=epochs, model=str(model), weights=str(weights), output=str(output),
        task=task, val_data=str(val_data), format=format, classes=classes, overrides=words, started=time.time(),
    )  # fmt: skip
    check_output(output_folder(request))
    with written(make_plan(request)) as recipe:
        train(recipe)
    folder = expanded(recipe.parent)
    return Detector.load(best_weights(folder))
