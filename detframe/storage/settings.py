"""How this process reads from other machines: where copies are kept, how many, and how long a store may be away."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.config.paths import cache_home, cache_is_off, expanded, writing_cache
from detframe.storage.addresses import Secret, keep_secrets, secrets

GB = 10**9
TRUSTED_SECONDS = 24 * 3600.0
"""Seconds after which what was seen elsewhere is looked at again."""


@dataclass(frozen=True)
class Settings:
    """The keys of DATALOADER that are about files on other machines, with their defaults."""

    cache_dir: str = ""
    cache_gb: float = 50.0
    retry_seconds: float = 300.0

    @classmethod
    def of(cls, cfg: Any) -> Settings:
        """Those of a config."""
        return cls(cfg.DATALOADER.CACHE_DIR, cfg.DATALOADER.CACHE_GB, cfg.DATALOADER.RETRY_SECONDS)

    @property
    def folder(self) -> Path:
        """Where copies lie: `cache_dir`, else below the cache of packed annotations."""
        if self.cache_dir:
            return expanded(self.cache_dir).absolute()
        if cache_is_off():
            user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
            return Path(tempfile.gettempdir()) / f"detframe-{user}" / "remote"
        return cache_home().absolute() / "remote"

    @property
    def limit(self) -> int:
        """Bytes."""
        return int(self.cache_gb * GB)


@dataclass(frozen=True)
class Knowledge:
    """What a worker process has to know to read as its parent does."""

    settings: Settings
    secrets: dict[str, Secret]
    answered: frozenset[str]


_settings = Settings()
answered: set[str] = set()  # the buckets and servers that have answered this process or its parent


def storage_folder() -> Path:
    """Where this process keeps what it has from other machines."""
    return _settings.folder


def writing_here(folder: Path) -> AbstractContextManager[None]:
    """Around what writes below `storage_folder`: an error says what names another one."""
    what, fewer = "the folder of copies from other machines", "a lower DATALOADER.CACHE_GB keeps fewer of them"
    if _settings.cache_dir:  # the variable would change nothing
        return writing_cache(folder, what, fewer, "DATALOADER.CACHE_DIR")
    return writing_cache(folder, what, f"DATALOADER.CACHE_DIR moves these copies alone, and {fewer}")


def mark_seen(mark: Path) -> None:
    """Make an empty file that says by its time when something was seen.

    Where it is there and cannot be changed, as in a cache that is only read, it stays, and the next start looks again.

    Raises:
        OSError: it cannot be made; says what names another folder.
    """
    if mark.is_file():
        with contextlib.suppress(OSError):
            mark.touch()
        return
    with writing_here(mark.parent):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def current() -> Settings:
    """The settings of this process."""
    return _settings


@contextlib.contextmanager
def using(settings: Settings) -> Iterator[None]:
    """Read with other settings for a while."""
    global _settings
    before, _settings = _settings, settings
    try:
        yield
    finally:
        _settings = before


def knowledge() -> Knowledge:
    """What to send to a worker process."""
    return Knowledge(_settings, secrets(), frozenset(answered))


def take(known: Knowledge) -> None:
    """In a worker process: read as the parent does."""
    global _settings
    _settings = known.settings
    keep_secrets(known.secrets)
    answered.update(known.answered)
