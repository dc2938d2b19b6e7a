"""Checksums of detframe's own checkpoints: what was written is what is read.

A checkpoint keeps in meta["checksum"] a CRC-32 of each of its parts ("model", "training", ...): of the names, types,
shapes and bytes of its tensors and of every plain value. Files without it, as those of other programs, are read as they
are; a part that somebody took out, as "training", is not missed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detframe.errors import InvalidValueError

KEY = "checksum"
_META = "meta"


def with_checksum(content: Any) -> Any:
    """The content of a checkpoint, with checksums in its "meta"; content without such a part stays as it is."""
    if not isinstance(content, Mapping) or not isinstance(content.get(_META), Mapping):
        return content
    return {**content, _META: {**content[_META], KEY: checksums(content)}}


def checksums(content: Mapping[str, Any]) -> dict[str, str]:
    """Eight hexadecimal digits for each part; those of "meta" leave out the checksums that it may hold already."""
    parts = dict(content)
    meta = parts.get(_META)
    if isinstance(meta, Mapping):
        parts[_META] = {key: value for key, value in meta.items() if key != KEY}
    return {str(name): f"{_add(part, 0):08x}" for name, part in parts.items()}


def verify(content: Any, path: Path) -> None:
    """Compare a checkpoint with the checksums that it holds, if it holds any.

    Raises:
        ValueError: a part is not what was written.
    """
    meta = content.get(_META) if isinstance(content, Mapping) else None
    written = meta.get(KEY) if isinstance(meta, Mapping) else None
    if not isinstance(written, Mapping):
        return
    found = checksums(content)
    wrong = [name for name, value in found.items() if written.get(name, value) != value]
    if wrong:
        parts = " and of its ".join(map(repr, wrong))
        raise InvalidValueError(
            f"{path} was damaged after it was written and cannot be used: the checksum of its {parts} is "
            f"{found[wrong[0]]}, and it was {written[wrong[0]]}. Copy it again from where it is whole, or use another "
            f"one (if you changed it on purpose, remove {KEY!r} from its {_META!r})"
        )


def _add(value: Any, crc: int) -> int:
    """The CRC so far, gone on with a value; lists and tuples count as the same."""
    if isinstance(value, Tensor):
        whole = value.detach().cpu().contiguous()
        flat = whole.as_strided((whole.numel(),), (1,))  # of one number or none, steps may be 0, as NumPy's are
        crc = _text(f"tensor {value.dtype} {tuple(value.shape)}", crc)
        return zlib.crc32(flat.view(torch.uint8).numpy().data, crc)
    if isinstance(value, Mapping):
        crc = _text(f"dict {len(value)}", crc)
        for key, entry in value.items():
            crc = _add(entry, _add(key, crc))
        return crc
    if isinstance(value, (list, tuple)):
        crc = _text(f"list {len(value)}", crc)
        for entry in value:
            crc = _add(entry, crc)
        return crc
    return _text(f"{type(value).__name__} {value!r}", crc)


def _text(text: str, crc: int) -> int:
    return zlib.crc32(text.encode("utf-8", "backslashreplace") + b"\0", crc)
