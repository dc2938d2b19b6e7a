"""How often images come: more often with rare classes, where these are rare enough to matter and no accident."""

from __future__ import annotations

import numpy as np

from detframe.recipes.facts import FEWEST_OF_A_CLASS, DataFacts
from detframe.recipes.wish import Picks

RARER = 5  # times as many images, at least, have the most frequent class as the rarest
ODD_CLASSES = 0.25  # of the classes, at most, that hardly any image has: each would be drawn as often as the others
# Where one of these is given, rare classes have their share already
_BY_HAND = ("DATALOADER.REPEAT_THRESHOLD", "DATASETS.TRAIN_WEIGHTS", "MODEL.CLASS_WEIGHTS")


def balance(picks: Picks, facts: DataFacts) -> None:
    """Choose `DATALOADER.SAMPLER` class_balanced where a class is rare.

    Average precision is a mean over classes, and drawing each of them equally often is what brings most to rare ones in
    a training of minutes (docs/recipes.md). Of classes in a few images it would show the same ones over and over.
    """
    images = facts.with_class
    known, odd = np.flatnonzero(images >= FEWEST_OF_A_CLASS), (images > 0) & (images < FEWEST_OF_A_CLASS)
    if len(known) < 2 or odd.sum() > ODD_CLASSES * (images > 0).sum() or any(map(picks.is_given, _BY_HAND)):
        return
    rarest, most = known[images[known].argmin()], images.argmax()
    if images[most] >= RARER * images[rarest]:
        rare = f"{facts.classes[rarest]!r} is in {images[rarest]:g} {facts.views}"
        why = f"{rare}, {facts.classes[most]!r} in {images[most]:g}, and average precision counts both alike"
        picks.set("DATALOADER.SAMPLER", "class_balanced", why)
