"""Reading weights from a file, an http(s) address, or a list of published weights.

Nothing that a file says is ever executed: PyTorch files are read with `weights_only`, pickles as `read_pickle` does.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from detframe.compat.body_weights import TORCHVISION, address_of
from detframe.compat.download import download
from detframe.compat.pickles import read_pickle


def read_weights(path_or_url: str | Path) -> Any:
    """The content of a checkpoint, on the CPU.

    Args:
        path_or_url: a local file, an http(s) address (with "#sha256=..." to have it checked; kept in a cache),
            "torchvision://ResNet50_Weights.IMAGENET1K_V1", or another name of `body_weights`, as "msra://R-50".

    Raises:
        FileNotFoundError: no such file, or one that is not in the cache while DETFRAME_OFFLINE is set.
        ValueError: unknown weights, a wrong digest, or a file that is empty, half-written, no checkpoint, or holds
            objects other than tensors and plain values.
        ConnectionError: a failed download.
    """
    name = address_of(str(path_or_url))
    if name.startswith(TORCHVISION):
        name = _torchvision_url(name.removeprefix(TORCHVISION))
    path = download(name) if name.startswith(("http://", "https://")) else Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist (working folder {Path.cwd()})")
    return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> Any:
    """The content of a local PyTorch file or `.pkl`, tensors and plain values only; errors as of `read_weights`."""
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty; the process that wrote it was probably stopped")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is half-written: it begins as a PyTorch file of {size} bytes so far, but has no end")
    if path.suffix == ".pkl" and not is_zip:
        return read_pickle(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} cannot be read safely: it is no PyTorch checkpoint, or it holds Python objects besides tensors "
            f"and plain values ({str(error).splitlines()[0]})"
        ) from None
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged and cannot be read ({str(error).splitlines()[0]})") from None


def _torchvision_url(name: str) -> str:
    from torchvision.models import get_weight

    try:
        return str(get_weight(name).url)
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(
            f"torchvision publishes no weights {name!r} ({error}); "
            f"an example: {TORCHVISION}ResNet50_Weights.IMAGENET1K_V1"
        ) from None
