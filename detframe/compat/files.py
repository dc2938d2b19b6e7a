"""Reading weights from a file, an http(s) address, or a list of published weights.

Nothing that a file says is ever executed: PyTorch files are read with `weights_only`, pickles as `read_pickle` does,
and safetensors by their own library, which knows nothing but numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detframe.backends import FORMATS, is_exported
from detframe.compat.body_weights import TORCHVISION, address_of
from detframe.compat.download import download
from detframe.compat.pickles import numpy_globals, read_pickle, reason_of
from detframe.config.paths import expanded
from detframe.errors import InvalidValueError
from detframe.storage.folders import copy_of
from detframe.torch_files import DAMAGE, beginning, is_torch_file, read_torch_file

_PICKLE = b"\x80"  # of protocol 2 or newer
_SAFETENSORS = re.compile(rb"[\0-\xff]{4}\0{4}\{[\"}]")  # the length of its table in eight bytes, and a table of JSON


def read_weights(path_or_url: str | Path) -> Any:
    """The content of a checkpoint, on the CPU.

    Args:
        path_or_url: a local file, an http(s) address (with "#sha256=..." to have it checked; kept in a cache),
            an object in a store ("s3://bucket/run/model_best.pth"), "torchvision://ResNet50_Weights.IMAGENET1K_V1", or
            another name of `body_weights`, as "msra://R-50".

    Raises:
        FileNotFoundError: no such file, or one that is not in the cache while DETFRAME_OFFLINE is set.
        ValueError: unknown weights, a wrong digest, or a file that is empty, half-written, no checkpoint, or holds
            objects other than tensors and plain values.
        ConnectionError: a failed download.
    """
    name = address_of_weights(str(path_or_url))
    if name.startswith(("http://", "https://")):
        return read_checkpoint(download(name))
    with copy_of(name) as path:
        return read_checkpoint(expanded(path))


def address_of_weights(name: str) -> str:
    """The http(s) address or path behind any name that `read_weights` takes; errors are those for unknown weights."""
    name = address_of(name)
    return _torchvision_url(name.removeprefix(TORCHVISION)) if name.startswith(TORCHVISION) else name


def read_checkpoint(path: str | Path) -> Any:
    """The content of a local file of PyTorch, `.pkl` or safetensors, tensors and plain values only.

    Errors as of `read_weights`.
    """
    path = Path(path)
    start = beginning(path)
    _refuse_others(path, start)
    if _SAFETENSORS.match(start) or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if is_torch_file(start):
        return read_torch_file(path, numpy_globals())
    if path.suffix == ".pkl" or start.startswith(_PICKLE):
        return read_pickle(path)
    raise InvalidValueError(f"{path} is no PyTorch checkpoint: it begins with {start[:16]!r}")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; errors as of `read_weights`."""
    try:
        # copies: the library's tensors are the file itself, whoever writes to it
        return {name: value.clone() for name, value in load_file(path).items()}
    except (*DAMAGE, OSError, SafetensorError) as error:
        raise InvalidValueError(f"{path} is damaged or half-written and cannot be read ({reason_of(error)})") from None


def _refuse_others(path: Path, start: bytes) -> None:
    """What failed downloads leave, and files of other kinds.

    Raises:
        ValueError: an exported detector, a web page, or a pointer of Git LFS.
    """
    if is_exported(path):
        raise InvalidValueError(
            f"{path} is an exported detector ({FORMATS[path.suffix.lower()]}): it predicts and can be evaluated, but "
            "holds no weights that a model could take; name the checkpoint (.pth) that it was exported from"
        )
    begin = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    line = begin.partition(b"\n")[0].decode("utf-8", "replace")
    if begin.startswith(b"<"):
        raise InvalidValueError(
            f"{path} is a web page, not weights (it begins with {line!r}): the download failed. Delete it, and "
            "download it again, or by a browser where the page asks for something"
        )
    if begin.startswith(b"version https://git-lfs"):
        raise InvalidValueError(
            f"{path} is a pointer of Git LFS, not the file itself; run git lfs pull in its repository"
        )


def _torchvision_url(name: str) -> str:
    from torchvision.models import get_weight

    try:
        return str(get_weight(name).url)
    except (ValueError, AttributeError, KeyError) as error:
        raise InvalidValueError(
            f"torchvision publishes no weights '{TORCHVISION}{name}' ({error}); "
            f"an example: {TORCHVISION}ResNet50_Weights.IMAGENET1K_V1"
        ) from None
