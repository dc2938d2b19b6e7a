"""The forms of what a training saves: its state in a checkpoint, and the bundle of a non-finite step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from detframe.errors import InvalidValueError
from detframe.structures.forms import (
    ANYTHING,
    COUNT,
    DICT,
    NUMBER,
    NUMBERS,
    RATE,
    TENSOR,
    TENSORS,
    TEXT,
    WHOLE,
    YES_NO,
    Kind,
    is_plain,
)


def _is_torch_state(value: Any) -> bool:
    return is_plain(value) and value.dtype == torch.uint8 and value.shape == torch.get_rng_state().shape


def _is_numpy_state(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 5 or value[0] != "MT19937":
        return False
    words, position = value[1], value[2]
    whole = is_plain(words) and words.dtype == torch.int64 and words.shape == (624,)
    return whole and all(NUMBER.holds(v) and v == v for v in value[2:]) and 0 <= position <= 624


def _is_python_state(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3 or not isinstance(value[1], list | tuple):
        return False
    words = value[1]
    whole = len(words) == 625 and all(type(word) is int and 0 <= word < 2**32 for word in words)
    return value[0] == 3 and type(value[0]) is int and whole and words[-1] <= 624 and RATE.holds(value[2])


def _is_optimizer_state(value: Any) -> bool:
    """Numbers and tensors by their names, for each trained parameter by its number."""
    return all(type(number) is int and DICT.holds(entries) for number, entries in value.items()) and all(
        isinstance(name, str) and _is_numbers(entry) for entries in value.values() for name, entry in entries.items()
    )


def _is_numbers(value: Any) -> bool:
    """Numbers and tensors, and lists and dicts of them, as optimizers of a user's own may have."""
    if isinstance(value, list | tuple):
        return all(map(_is_numbers, value))
    if isinstance(value, dict):
        return all(map(_is_numbers, value.values()))
    return value is None or isinstance(value, int | float) or is_plain(value)


RNG = {
    "torch": Kind("the state of PyTorch's random numbers", _is_torch_state),
    "numpy": Kind("the state of NumPy's random numbers", _is_numpy_state),
    "python": Kind("the state of Python's random numbers", _is_python_state),
    "cuda?": TENSOR,
}
TRAINING = {
    "iteration": COUNT,
    "max_iter": COUNT,
    "finished": YES_NO,
    "stop_reason": TEXT,
    "optimizer": {
        "state?": Kind(
            "a dict of the state of each parameter by its number",
            lambda value: DICT.holds(value) and _is_optimizer_state(value),
        ),
        "param_groups?": [{"params": [COUNT]}],
    },
    "optimizer_names?": [TEXT],
    "scaler": DICT,
    "rng": [RNG],
    "infinite_buffers?": [TEXT],
    "images_seen?": COUNT,
    "max_images?": COUNT,
    "model?": TENSORS,
    "ema_updates?": COUNT,
    "swa_updates?": COUNT,
    "statistics?": TENSORS,
    "place?": {
        "stretches": [Kind("three whole numbers", lambda value: isinstance(value, list | tuple))],
        "pending": [COUNT],
        "origin": COUNT,
        "begun_at": COUNT,
        "grouped": YES_NO,
        "data": DICT,
    },
    "hooks": {
        "log?": {"losses?": TENSORS, "count?": COUNT},
        "evaluation?": {"last?": WHOLE, "begun?": WHOLE},
        "best?": {"best": NUMBER, "best_iteration": WHOLE, "reference": NUMBER, "waited": COUNT},
        "checkpoint?": {"interim?": ANYTHING},
    },
}


def _is_mask(value: Any) -> bool:
    lazy = DICT.holds(value) and isinstance(value.get("segmentations"), list | tuple) and _is_size(value.get("size_hw"))
    return lazy or (is_plain(value) and value.ndim == 3)


def _is_image(value: Any) -> bool:
    return is_plain(value) and value.ndim == 3 and value.shape[0] == 3 and value.numel() > 0


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(COUNT.holds(side) for side in value)


ROWS = Kind("a plain tensor (N,)", lambda value: is_plain(value) and value.ndim == 1)
BUNDLE = {
    "config": TEXT,
    "model": TENSORS,
    "images": [Kind("an image, a plain tensor (3, H, W)", _is_image)],
    "targets": [
        {
            "boxes": Kind("a plain tensor (N, 4)", lambda value: is_plain(value) and value.shape[1:] == (4,)),
            "labels": ROWS,
            "masks?": Kind("a plain tensor or a dict of segmentations and their size", _is_mask),
            "keypoints?": Kind("a plain tensor (N, P, 3)", lambda value: is_plain(value) and value.shape[2:] == (3,)),
            "iscrowd?": ROWS,
            "area?": ROWS,
            "ignore_boxes?": Kind("a plain tensor (I, 4)", lambda value: is_plain(value) and value.shape[1:] == (4,)),
            "orig_size_hw?": Kind("two whole numbers", _is_size),
            "seed?": COUNT,
        }
    ],
    "rng": RNG,
    "losses": NUMBERS,
    "amp": Kind('"", "bfloat16" or "float16"', lambda value: value in ("", "bfloat16", "float16")),
    "accumulate_steps": Kind("a whole number above 0", lambda value: COUNT.holds(value) and value > 0),
    "rank": COUNT,
    "world_size": COUNT,
}


def check_rows(target: Mapping[str, Any], where: str) -> None:
    """Check that everything in a target has a row for each of its boxes.

    Raises:
        ValueError: the numbers of rows.
    """
    rows = {key: len(target[key]) for key in ("labels", "keypoints", "iscrowd", "area") if key in target}
    masks = target.get("masks")
    if masks is not None:
        rows["masks"] = len(masks["segmentations"] if isinstance(masks, Mapping) else masks)
    if any(count != len(target["boxes"]) for count in rows.values()):
        raise InvalidValueError(f"{where} contradicts itself: {len(target['boxes'])} boxes, but the rows are {rows}")
