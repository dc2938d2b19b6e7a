"""A note beside cached annotations that all their images were there, as long as no folder of theirs has changed.

To look for a million files takes seconds at every start; to look at the folders that they lie in, nothing.
"""

from __future__ import annotations

import json
import logging
import os
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from detframe.files import write_text

logger = logging.getLogger(__name__)
_NAME = "images.json"
_SETTLED_NS = 3 * 10**9  # a folder that has changed since then may change again without its time telling
Stamp = tuple[int, int]  # the folder's number, and the time of its last change


def stamps_of(folders: Iterable[str]) -> dict[str, Stamp]:
    """What changes when a file comes into one of these folders or leaves it; without those that are not there."""
    found: dict[str, Stamp] = {}
    for folder in folders:
        try:
            facts = os.stat(folder)
        except (OSError, ValueError):
            continue
        found[folder] = (facts.st_ino, facts.st_mtime_ns)
    return found


def note_present(cache: Path, stamps: Mapping[str, Stamp]) -> None:
    """Note beside the arrays in a folder of the cache that all images are there.

    Args:
        stamps: of the folders of the images, from before they were listed.
    """
    newest = max((changed for _, changed in stamps.values()), default=0)
    if newest > time.time_ns() - _SETTLED_NS:
        return
    content = json.dumps(stamps)
    try:
        write_text(cache / _NAME, json.dumps({"checksum": zlib.crc32(content.encode()), "content": content}))
    except OSError as error:
        logger.debug("%s: that all images are there cannot be noted: %s", cache, error)


def known_present(cache: Path) -> bool:
    """Whether it was noted that all images are there, and no folder of theirs has changed since."""
    path = cache / _NAME
    try:
        if not path.is_file():
            return False
        text = json.loads(path.read_bytes())
        if text["checksum"] != zlib.crc32(text["content"].encode()):
            return False
        noted = {folder: tuple(stamp) for folder, stamp in json.loads(text["content"]).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.info("%s cannot be used: %s", path, error)
        return False
    return noted == stamps_of(noted)
