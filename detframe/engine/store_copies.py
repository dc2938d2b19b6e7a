"""Copies on this machine of OUTPUT_DIR on an object store: where a run works, and for a while, what is added to one."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatch
from pathlib import Path

from detframe.config.paths import expanded, runs_in_cache, writing_cache
from detframe.engine.checkpoint import best_name
from detframe.engine.metrics_file import METRICS_FILE
from detframe.engine.output_dir import EVALUATION_FILE
from detframe.errors import MissingFileError
from detframe.files import safe_name
from detframe.parallel.collectives import on_rank_zero
from detframe.storage.folders import StoreFolder, store_of
from detframe.storage.mirror import Mirror

PATIENCE_SECONDS = 120.0  # at the end of a run, for a store that takes nothing
OF_REPORT = ("config.yaml", METRICS_FILE, EVALUATION_FILE, "log.txt", "predictions_*.json")
TEXTS = ("config.yaml", METRICS_FILE, EVALUATION_FILE, "log.txt", "recipe.yaml", "catalog.yaml")


def local_folder(store: StoreFolder) -> Path:
    """Where this machine works on a folder of a store: below the cache, always the same one."""
    digest = hashlib.sha256(store.address.encode()).hexdigest()[:16]
    return runs_in_cache() / digest / safe_name(store.address.rpartition("/")[2] or "run")


def writing_local(store: StoreFolder) -> AbstractContextManager[None]:
    """Around what writes into the `local_folder` of a store: an error says what names another one."""
    return writing_cache(local_folder(store), f"the folder in which this machine works on OUTPUT_DIR {store}")


@contextmanager
def borrowed(
    output_dir: str | Path, wanted: Sequence[str] = TEXTS, needed: str = "", writes: bool = True
) -> Iterator[Path]:
    """A folder in which something is added to what a run has left, as an evaluation does; called by every rank.

    Of OUTPUT_DIR on a store it is a copy of some files for the time of the `with`; what has changed there is then sent.

    Args:
        wanted: names, or patterns of names, of the files that are needed.
        needed: the name of one without which it is no run.
        writes: what has changed is sent; without it, the store is only read.

    Raises:
        OSError, ValueError: the store cannot be read or written, or lacks what is needed.
    """
    store = store_of(output_dir)
    if store is None:
        yield expanded(output_dir)
        return
    folder = on_rank_zero(lambda: _borrow(store, wanted, needed, writes), "to look at OUTPUT_DIR")
    try:
        yield folder
        if writes:
            on_rank_zero(lambda: Mirror(folder, store).finish(PATIENCE_SECONDS), "to write into OUTPUT_DIR")
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _borrow(store: StoreFolder, wanted: Sequence[str], needed: str, writes: bool) -> Path:
    names = store.names()
    if needed and needed not in names:
        raise MissingFileError(f"{store} holds no {needed}, so it is not the OUTPUT_DIR of a run")
    if writes:
        store.check_writable()
    with writing_local(store):
        return _borrow_into(local_folder(store), store, names, wanted)


def _borrow_into(place: Path, store: StoreFolder, names: set[str], wanted: Sequence[str]) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="borrowed-", dir=place.parent)) / place.name
    folder.mkdir()
    bring(Mirror(folder, store), names, wanted)
    if (
        not any(fnmatch(name, "predictions_*.json") for name in names)
        and "predictions_*.json" in wanted
        and best_name(names)
    ):
        Mirror(folder, store).take(best_name(names))
    return folder


def bring(mirror: Mirror, names: set[str], wanted: Sequence[str]) -> None:
    """Fetch those of the names in a store that are, or are like, one that is wanted."""
    for name in sorted(names):
        if any(fnmatch(name, pattern) for pattern in wanted):
            mirror.take(name)
