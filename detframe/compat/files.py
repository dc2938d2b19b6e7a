"""Reading weights from a file, an http(s) address, or torchvision's list of published weights.

Nothing that a file says is ever executed: PyTorch files are read with `weights_only`.
"""

from __future__ import annotations

import logging
import os
import pickle
import urllib.error
import urllib.parse
import zipfile
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

TORCHVISION = "torchvision://"


def read_weights(path_or_url: str | Path) -> Any:
    """The content of a checkpoint, on the CPU.

    Args:
        path_or_url: a local file, an http(s) address (kept in PyTorch's hub cache), or
            "torchvision://ResNet50_Weights.IMAGENET1K_V1".

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown torchvision weights, or a file that is empty, half-written, no PyTorch file, or holds
            objects other than tensors and plain values.
        ConnectionError: a failed download.
    """
    name = str(path_or_url)
    if name.startswith(TORCHVISION):
        name = _torchvision_url(name.removeprefix(TORCHVISION))
    path = _download(name) if name.startswith(("http://", "https://")) else Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights file {path} does not exist (working folder {Path.cwd()})")
    return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> Any:
    """The content of a local PyTorch file, tensors and plain values only; errors as `read_weights` has them."""
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty; the process that wrote it was probably stopped")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is half-written: it begins as a PyTorch file of {size} bytes so far, but has no end")
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


def _download(url: str) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / os.path.basename(urllib.parse.urlparse(url).path)
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    logger.info("downloading %s to %s", url, path)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (urllib.error.URLError, OSError) as error:
        raise ConnectionError(
            f"cannot download {url}: {error}. Put the file at {path}, or set MODEL.WEIGHTS to a local file, "
            'or to "" to train from random weights'
        ) from None
    return path
