"""The weights that a recipe starts from: a file that was named, or those of ImageNet that torchvision publishes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from detframe.compat.body_weights import imagenet_weights
from detframe.compat.download import cache_path, download
from detframe.compat.files import address_of_weights
from detframe.config.paths import expanded
from detframe.errors import MissingFileError
from detframe.recipes.spelling import option
from detframe.registry import nearest

NONE = "none"  # --weights none: start at random
TIMEOUT = 10.0  # seconds without an answer: somebody waits for the first sign of a training
COST = (
    "training starts from random weights, which costs accuracy: 400 steps on 205 images of blood cells gave AP 52 "
    "without, and 59 with weights of ImageNet (docs/quick_results.md)"
)


@dataclass(frozen=True)
class FoundWeights:
    """What MODEL.WEIGHTS becomes, and why.

    Attributes:
        value: of MODEL.WEIGHTS; "" starts at random.
        reason: a clause for people.
        remedy: what would give weights, where there are none.
    """

    value: str
    reason: str
    remedy: str = ""


def find_weights(conv_body: str, wanted: str = "", fetch: bool = True) -> FoundWeights:
    """The weights for a backbone: those that are wanted, else torchvision's of ImageNet from a cache or the network.

    Args:
        conv_body: MODEL.BACKBONE.CONV_BODY.
        wanted: a file, an address or a name as MODEL.WEIGHTS takes them; "none" for random weights; "" for ImageNet's.
        fetch: ask the network for those that no cache has.

    Raises:
        FileNotFoundError: the file that is wanted does not exist.
        ValueError: a name that nobody knows, or a file in the cache that is damaged.
    """
    if wanted.lower() == NONE:
        return FoundWeights("", f"as {option('weights', NONE)} asks, {COST}")
    if wanted:
        return FoundWeights(_checked(wanted), "the weights that were named")
    named = imagenet_weights(conv_body)
    if not named:
        return FoundWeights(
            "", f"nobody is known to publish weights for {conv_body}; {COST}", f"{option('weights', 'FILE')} names some"
        )
    return _imagenet(named, fetch)


def _checked(wanted: str) -> str:
    address = address_of_weights(wanted)
    if address != wanted or "://" in wanted:
        return wanted
    path = expanded(wanted)
    if not os.path.isfile(path):
        there = sorted(p.name for p in path.parent.glob("*.pt*")) if path.parent.is_dir() else []
        hint = f"; {nearest(path.name, there)}" if there else ""
        raise MissingFileError(f"{option('weights', wanted)}: there is no such file{hint}")
    return str(path.absolute())


def _imagenet(value: str, fetch: bool) -> FoundWeights:
    address = address_of_weights(value)
    cached = cache_path(address)
    if cached.is_file():
        download(address)  # checks its digest
        return FoundWeights(value, f"torchvision's weights of ImageNet, found in {cached.parent}")
    hub = Path(torch.hub.get_dir()) / "checkpoints" / cached.name
    if hub.is_file():
        return FoundWeights(str(hub), f"torchvision's weights of ImageNet, found in {hub.parent}")
    if not fetch:
        return FoundWeights("", f"{cached.name} is not in {cached.parent}")
    remedy = f"put {cached.name} into {cached.parent} (from {address}), or name it with {option('weights', 'FILE')}"
    try:
        download(address, TIMEOUT)
    except MissingFileError:
        return FoundWeights("", f"DETFRAME_OFFLINE is set and {cached.name} is not in {cached.parent}; {COST}", remedy)
    except OSError as error:
        why = str(error).partition(f". Put the file at {cached}")[0]  # which the remedy says, for a recipe
        return FoundWeights("", f"torchvision's weights could not be had ({why}); {COST}", remedy)
    return FoundWeights(value, f"torchvision's weights of ImageNet, fetched from {address}")
