"""What is done to training images: flips that leave them true, and other sizes and colours where each comes often."""

from __future__ import annotations

import re

import numpy as np

from detframe.recipes.facts import DataFacts
from detframe.recipes.wish import Picks
from detframe.texts import counted

# Where a training shows each image as often as this, it learns them by heart, unless they look a little different each
# time: blood cells lost AP 4.3 from 10 epochs to 59, and with other sizes and colours 0.2 (docs/recipes.md)
OFTEN = 12.0
SCALES = 0.25  # the shorter side of a training image is so much shorter or longer than that of the evaluation at most
COLOURS = {"BRIGHTNESS": 0.2, "CONTRAST": 0.3, "SATURATION": 0.3}  # but no other hue, which may be what tells classes
# Where one of these is given, sizes are chosen already
_SIZES_BY_HAND = ("MIN_SIZE_TRAIN", "MIN_SIZE_TRAIN_SAMPLING", "MAX_SIZE_TRAIN", "LSJ.ON", "TRANSFORMS")
_COLOURS_BY_HAND = (*COLOURS, "HUE", "TRANSFORMS")

FEWEST_OBJECTS = 100
_SIDES = re.compile(r"(^|[^a-z])(left|right|turn|arrow)([^a-z]|$)", re.IGNORECASE)
_SIGN = re.compile(r"[0-9a-zA-Z]")  # a class that is called by one digit or letter is a sign to be read


def horizontal(facts: DataFacts) -> tuple[float, str]:
    """INPUT.FLIP_PROB, and why."""
    sided = [name for name in facts.classes if _SIDES.search(name)]
    if sided:
        return 0.0, f"mirrored, the class {sided[0]!r} would be another one"
    signs = [name for name in facts.classes if _SIGN.fullmatch(name)]
    if len(signs) * 2 > len(facts.classes) and len(signs) > 1:
        return 0.0, f"classes such as {signs[0]!r} and {signs[1]!r} are signs to be read, and mirrored they are none"
    if facts.keypoints and not facts.mirrored_keypoints:
        return 0.5, "a mirrored object is one too; no two keypoints are called left and right"
    return 0.5, "a mirrored object is one too, and no class is called left or right"


def vertical(facts: DataFacts) -> tuple[float, str]:
    """INPUT.VERTICAL_FLIP_PROB, and why: only where nothing speaks for an upright, as in images from above.

    All of these must hold: enough objects to judge by; they are small beside the image and many in it; as many lie as
    stand; they are spread evenly from top to bottom; and their size does not depend on their height in the image, as it
    does where a camera looks along the ground.
    """
    if horizontal(facts)[0] == 0:
        return 0.0, "upside down, the classes would be others"
    if facts.keypoints:
        return 0.0, "keypoints know left and right, but not what an object upside down is"
    if len(facts.widths) < FEWEST_OBJECTS:
        return 0.0, f"{counted(len(facts.widths), 'object is', 'objects are')} too few to see that they have no upright"
    for is_so, why in _signs_of_an_upright(facts):
        if is_so:
            return 0.0, f"the objects may have an upright: {why}"
    return 0.5, (
        "the objects seem to have no upright: as many lie as stand, and neither their place nor their size depends on "
        "the height in the image (0 if that is wrong)"
    )


def _signs_of_an_upright(facts: DataFacts) -> list[tuple[bool, str]]:
    sizes = facts.sizes_hw[facts.owners]
    shares = np.sqrt(facts.widths * facts.heights / (sizes[:, 0] * sizes[:, 1]))
    share, crowd = float(np.median(shares)), float(np.median(facts.objects[facts.objects > 0]))
    tilt = np.log(facts.ratios())
    lean, low, high = float(np.median(tilt)), *(float(np.quantile(tilt, q)) for q in (0.1, 0.9))
    place = float(np.mean(facts.centres_y))
    trend = _correlation(np.log(shares), facts.centres_y)
    return [
        (share > 0.2, f"the median one is {100 * share:.0f} % of the image wide"),
        (crowd < 3, f"an image holds {crowd:g} of them"),
        (abs(lean) > 0.12, f"most {'stand' if lean > 0 else 'lie'} (median height over width {np.exp(lean):.2f})"),
        (
            abs(low + high) > 0.35,
            f"tall and wide ones differ (height over width {np.exp(low):.2f} to {np.exp(high):.2f})",
        ),
        (abs(place - 0.5) > 0.06, f"on average they are at {100 * place:.0f} % of the image's height"),
        (abs(trend) > 0.2, f"lower ones are {'larger' if trend > 0 else 'smaller'} (correlation {trend:.2f})"),
    ]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def vary(picks: Picks, facts: DataFacts, epochs: float) -> None:
    """Choose training images of other sizes and colours each time, where they come often; after their size is chosen.

    Args:
        epochs: of the training.
    """
    if epochs < OFTEN:
        return
    often = f"each of {facts.images} {facts.views} comes {epochs:.0f} times, and looks a little different each time"
    one_shape = picks.get("MODEL.COMPILE") != "off" and not picks.get("INPUT.BUCKETS")
    if not one_shape and not any(picks.is_given(f"INPUT.{name}") for name in _SIZES_BY_HAND):
        (shorter,), longer = picks.get("INPUT.MIN_SIZE_TRAIN"), picks.get("INPUT.MAX_SIZE_TRAIN")
        picks.set("INPUT.MIN_SIZE_TEST", shorter, picks.reason("INPUT.MIN_SIZE_TRAIN"))
        sides = (round(shorter * (1 - SCALES)), round(shorter * (1 + SCALES)))
        picks.set("INPUT.MIN_SIZE_TRAIN", sides, f"{often}: {1 - SCALES:g} to {1 + SCALES:g} times {shorter}")
        picks.set("INPUT.MIN_SIZE_TRAIN_SAMPLING", "scale", "any size between the two, and the longer side with it")
        picks.set("INPUT.MAX_SIZE_TRAIN", round(longer * (1 + SCALES)), "as much longer")
    if not picks.as_stored and not any(picks.is_given(f"INPUT.{name}") for name in _COLOURS_BY_HAND):
        for name, strength in COLOURS.items():
            picks.set(f"INPUT.{name}", strength, often)
