"""The channels of images: their mean and standard deviation, and whether those of a config are of these images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from detframe.data.findings import ERROR, NOTE, WARNING, Finding, sentence
from detframe.data.screen.pictures import Picture
from detframe.texts import counted

FAR = 1.0  # in measured deviations, of a mean; and in powers of 2, of a deviation


def measured(pictures: Iterable[Picture]) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel over all pixels of the images, as with `np.std`; None without pixels.

    A channel of one value has a deviation of 1, by which it can be divided.
    """
    moments = [picture.moments for picture in pictures if picture.moments is not None]
    if not moments:
        return None
    count, total, squares = np.sum(moments, axis=0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return _rounded(mean), _rounded(np.where(deviation > 0, deviation, 1.0))


def check_mean(
    pictures: Sequence[Picture], where: str, mean: Sequence[float], deviation: Sequence[float]
) -> list[Finding]:
    """Whether INPUT.PIXEL_MEAN and PIXEL_STD are of these images; with the words that set those that were measured."""
    found = measured(pictures)
    if found is None:
        return []
    looked = sum(picture.moments is not None for picture in pictures)
    words = f"INPUT.PIXEL_MEAN {_listed(found[0])} INPUT.PIXEL_STD {_listed(found[1])}"
    remedy, of = f"set {words}", f"measured over the pixels of {counted(looked, 'image')}"
    channels = len(found[0])
    if len(mean) != channels or len(deviation) != channels:
        none = f"there is no default for {counted(channels, 'channel')}"
        text = f"INPUT.PIXEL_MEAN and PIXEL_STD are not set, and {none}; {of}"
        return [sentence("pixel-mean", ERROR, text, remedy=remedy, where=where)]
    own, stds = np.array([mean, deviation]), np.array(found[1])
    apart = np.abs(own[0] - found[0]) / stds > FAR
    other = np.abs(np.log2(own[1] / stds)) > FAR
    if (apart | other).any():
        text = f"INPUT.PIXEL_MEAN and PIXEL_STD are far from those of the images; {of}"
        return [sentence("pixel-mean", WARNING, text, remedy=remedy, where=where)]
    text = f"INPUT.PIXEL_MEAN and PIXEL_STD fit the images: {_listed(found[0])} and {_listed(found[1])}, {of}"
    return [sentence("pixel-mean", NOTE, text, where=where)]


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.10g}" for value in values)
