"""Where Label Studio says that the images of a task are, and which file names that may mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from detframe.data.listing import IMAGE_SUFFIXES

_IMAGE_FIELDS = ("image", "img", "image_url", "url", "picture", "photo")
_ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]*://|/data/)", re.IGNORECASE)
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)", re.IGNORECASE)


def references(data: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(field, number in a list, what stands there) of each image in the data of a task."""
    found = []
    for key, value in data.items():
        items = value if isinstance(value, list) else [value]
        texts = [(index, item) for index, item in enumerate(items) if isinstance(item, str) and item.strip()]
        found += [(key, index, item) for index, item in texts if basename(item) or key.lower() in _IMAGE_FIELDS]
    return found


def path_of(reference: str) -> str:
    """The path in a reference: `/data/local-files/?d=a/b.jpg` and `s3://bucket/a/b.jpg` are a/b.jpg."""
    reference = reference.strip()
    if not _ADDRESS.match(reference):
        return reference
    try:
        parts = urlsplit(reference)
        local = parse_qs(parts.query).get("d")
    except ValueError:  # no address that can be read
        return reference
    return (local[0] if local and parts.path.rstrip("/").endswith("local-files") else unquote(parts.path)).lstrip("/")


def basename(reference: str) -> str:
    """The file name of an image in a reference; "" where it does not end as that of an image."""
    if len(reference) > 4096 or reference.startswith("data:"):
        return ""
    name = path_of(reference).replace("\\", "/").rpartition("/")[2]
    return name if name.lower().endswith(IMAGE_SUFFIXES) else ""


def names_of(reference: str, with_folders: bool = False) -> list[str]:
    """The names that the image of a reference may have, the likeliest first.

    Args:
        with_folders: the folders count, since other images have the same file name.
    """
    path = path_of(reference)[:4096]
    folder, slash, name = path.replace("\\", "/").rpartition("/")
    start = folder + slash if with_folders else ""
    bare = _UPLOAD.sub("", name)
    return [start + name or "an image without a name", *([start + bare] if bare != name else [])]
