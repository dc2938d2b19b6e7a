"""Where a run writes: a folder, or one on an object store, of which it then has a local copy to work in."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Self

from detframe.config.paths import expanded
from detframe.engine.checkpoint import (
    BEST,
    EVALUATING,
    FINAL,
    LAST,
    best_name,
    best_weights,
    iteration_of,
    periodic_names,
)
from detframe.engine.lock import refuse_if_locked, wait_until_free
from detframe.engine.metrics_file import METRICS_FILE
from detframe.engine.newest import read_training_checkpoint
from detframe.engine.nonfinite import FOLDER as NONFINITE_FOLDER
from detframe.engine.output_dir import (
    LAUNCH_FILE,
    OWN,
    check_place,
    checkpoint_files,
    claimed,
    nothing_to_resume,
    older_names,
    previous_name,
    probe,
    where_older,
)
from detframe.engine.remote_lock import RECORD, RemoteLock
from detframe.engine.store_copies import PATIENCE_SECONDS, TEXTS, bring, local_folder, writing_local
from detframe.engine.trainer import Hook
from detframe.files import write_text
from detframe.parallel.collectives import on_every_rank, on_rank_zero
from detframe.parallel.environment import env_number
from detframe.parallel.joining import attempt_in_work
from detframe.storage.folders import StoreFolder, store_of
from detframe.storage.mirror import Mirror

logger = logging.getLogger(__name__)
_LAST_SECONDS = 5.0  # for the end of the log, at the end of a run


class OutputPlace:
    """OUTPUT_DIR of a training in a folder of this machine; for a `with` around all of the run, its log too.

    Attributes:
        folder: where all that the run makes is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bring_launch(self) -> None:
        """Bring what an earlier attempt of the same launch has left into the folder; on rank 0."""

    def look(self, resume: bool, patience: float = 0.0) -> dict[str, int]:
        """See whether the run can work there, and which checkpoints there are. Called by every rank.

        Args:
            resume: also bring what going on needs into the folder.
            patience: seconds to wait for the end of another run there.

        Raises:
            OSError, ValueError: it cannot be written.
            InUseError: another run works there.
        """

        def work() -> dict[str, int]:
            wait_until_free(self.folder, patience)
            check_place(self.folder)
            return checkpoint_files(self.folder)

        return on_rank_zero(work, "to look at OUTPUT_DIR")

    def __str__(self) -> str:
        return str(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def notes(self) -> list[str]:
        """What `--resume` says where there is no checkpoint; on rank 0."""
        return [nothing_to_resume(self.folder)]

    def complete(self) -> None:
        """Bring what a run that is finished has left in `folder` to where OUTPUT_DIR says; on rank 0."""

    def claimed(
        self, resume: bool, found: Mapping[str, int], weights: str, keep_last: int
    ) -> AbstractContextManager[list[str]]:
        """As `output_dir.claimed`; on rank 0. At the end, everything is where OUTPUT_DIR says."""
        return claimed(self.folder, resume, found, weights)

    def hooks(self) -> list[Hook]:
        """What has to watch the training, on every rank."""
        return []


class RemotePlace(OutputPlace):
    """OUTPUT_DIR on an object store: a local folder that a mirror sends there.

    The local folder stays after the run. A later one takes it up where nobody else has worked in the store since.
    """

    def __init__(self, address: str) -> None:
        self.store = StoreFolder(address)
        super().__init__(local_folder(self.store))
        self.lock = RemoteLock(self.store)
        self._mirror: Mirror | None = None  # that has sent everything but the end of the log

    def __exit__(self, *_: object) -> None:
        """Send the end of the log, with the error that has ended the run, and give the folder back."""
        self.lock.stop()
        if self._mirror is None:
            return
        try:
            self._mirror.finish(_LAST_SECONDS)
            self.lock.release()
        except Exception as error:  # of any library; all but these lines is there
            logger.debug("%s: the end of the log is missing: %s", self.store, error)

    def bring_launch(self) -> None:
        if attempt_in_work() is None:
            return
        content, path = self.store.read(LAUNCH_FILE), self.folder / LAUNCH_FILE
        if content is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def look(self, resume: bool, patience: float = 0.0) -> dict[str, int]:
        def check() -> None:
            self.store.check_writable()
            self.lock.wait_until_free(patience)
            wait_until_free(self.folder, patience)
            with writing_local(self.store):
                probe(self.folder)
            check_place(self.folder)

        on_rank_zero(check, "to look at OUTPUT_DIR")
        if resume:
            on_every_rank(self._bring, "to fetch the run from OUTPUT_DIR")
        return on_rank_zero(lambda: checkpoint_files(self.folder), "to look at OUTPUT_DIR")

    def __str__(self) -> str:
        return str(self.store)

    def complete(self) -> None:
        if Mirror(self.folder, self.store, (LAST,)).left():
            with self._claimed(True, checkpoint_files(self.folder), "", 0):
                return

    def notes(self) -> list[str]:
        names = self.store.names()
        older = older_names({name.partition("/")[0] for name in names})
        whole = {self.store.at(name): any(fnmatch(other, f"{name}/model_*.pth") for other in names) for name in older}
        text = f"resuming: there is no checkpoint in {self.store} yet, so this run starts from the beginning"
        return [f"{text}. {where_older(whole)}" if older else text]

    def hooks(self) -> list[Hook]:
        return [_Watch(self.lock)]

    # ------------------------------------------------------------------ before the run
    def _bring(self) -> None:
        """Bring what going on needs into the local folder of each machine, unless it is there."""
        if env_number("LOCAL_RANK", 0):
            return
        with writing_local(self.store):
            self._bring_here()

    def _bring_here(self) -> None:
        if self._is_current():
            logger.info("%s: the local folder %s has all of it", self.store, self.folder)
            return
        self._retire()
        names = self.store.names()
        if not names:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        mirror = Mirror(self.folder, self.store)
        bring(mirror, names, (*TEXTS, LAST, BEST, EVALUATING))
        for name in _candidates(self.folder, names):
            mirror.take(name)
            if _is_whole(self.folder / name):
                break
        write_text(self.folder / RECORD, json.dumps(self.lock.record()))

    def _is_current(self) -> bool:
        """Whether nobody else has worked in the store since this machine has."""
        try:
            own = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))["token"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(own) and own == self.lock.record().get("token")

    def _retire(self) -> str:
        """Take a local folder away that another run left; returns where it is now, if it holds what was never sent."""
        if not self.folder.exists():
            return ""
        refuse_if_locked(self.folder)
        if not Mirror(self.folder, self.store).left():
            shutil.rmtree(self.folder)
            return ""
        kept = self.folder.with_name(f"{self.folder.name}.unsent-{time.strftime('%Y%m%d-%H%M%S')}")
        self.folder.rename(kept)
        return f"an earlier run has left files in {self.folder} that {self.store} never got; they are now in {kept}"

    # ------------------------------------------------------------------ during the run
    @contextmanager
    def _claimed(self, resume: bool, found: Mapping[str, int], weights: str, keep_last: int) -> Iterator[list[str]]:
        notes = [] if resume else [self._retire()]
        with claimed(self.folder, resume, found, weights) as more:
            record = self.lock.take()
            notes += [*more, *([] if resume else self._set_aside(weights))]
            write_text(self.folder / RECORD, json.dumps(record))
            mirror = Mirror(
                self.folder,
                self.store,
                pointers=(LAST,),
                also=(LAUNCH_FILE,),
                expired=lambda there, here: _expired(there, here, keep_last),
                check=self.lock.check,
            )
            mirror.stored = self.store.names()
            mirror.start()
            logger.info("OUTPUT_DIR %s is written by way of the folder %s", self.store, self.folder)
            try:
                yield [note for note in notes if note]
            except BaseException:
                self._end(mirror, failed=True)
                raise
            self._end(mirror, failed=False)

    def claimed(
        self, resume: bool, found: Mapping[str, int], weights: str, keep_last: int
    ) -> AbstractContextManager[list[str]]:
        return self._claimed(resume, found, weights, keep_last)

    def _end(self, mirror: Mirror, failed: bool) -> None:
        """Send the rest, also after an error, which it does not hide."""
        try:
            mirror.finish(PATIENCE_SECONDS)
            self._mirror = mirror
        except Exception as error:
            if not failed:
                raise
            logger.error("%s", error)
        else:
            logger.info("%s has all of the run", self.store)

    def _move(self, name: str, target: str) -> None:
        self.store.surely(lambda: self.store.move(name, target))

    def _set_aside(self, weights: str) -> list[str]:
        """As `output_dir.set_aside`, in the store; returns notes for the log."""
        names = self.store.names()
        if not any(
            fnmatch(name, pattern) for name in names for pattern in (METRICS_FILE, LAST, "model_*.pth")
        ) and not any(name.startswith(f"{NONFINITE_FOLDER}/") for name in names):
            return []
        target = previous_name(name.partition("/")[0] for name in names)
        old = [name for name in names if any(fnmatch(name.partition("/")[0], pattern) for pattern in OWN)]
        for name in sorted(old, key=lambda name: name != LAST):  # what it names is there as long as it is
            self._move(name, f"{target}/{name}")
        text = (
            f"OUTPUT_DIR {self.store} held an older run, which is now in {self.store.at(target)} (--resume would have "
        )
        moved = next((name for name in old if weights == self.store.at(name)), "")
        went = [f"MODEL.WEIGHTS {weights} went with it, to {self.store.at(f'{target}/{moved}')}"] if moved else []
        return [f"{text}gone on with it)", *went]


class _Watch(Hook):
    """Ends the training when another run has taken OUTPUT_DIR."""

    name = "output_place"

    def __init__(self, lock: RemoteLock) -> None:
        self.lock = lock

    def check(self) -> None:
        self.lock.check()


def output_place(output_dir: str) -> OutputPlace:
    """The place that OUTPUT_DIR names."""
    return RemotePlace(output_dir) if store_of(output_dir) else OutputPlace(expanded(output_dir))


def weights_in(output_dir: str | Path) -> str:
    """What a run offers for use, as `best_weights`: its path or address; "" where there is nothing."""
    store = store_of(output_dir)
    if store is not None:
        name = best_name(store.names())
        return store.at(name) if name else ""
    found = best_weights(expanded(output_dir))
    return str(found) if found.is_file() else ""


def _candidates(folder: Path, names: set[str]) -> list[str]:
    """The checkpoints from which a run may go on, the likeliest first, as `find_newest` tries them."""
    pointed = (folder / LAST).read_text(encoding="utf-8", errors="replace").strip() if (folder / LAST).is_file() else ""
    order = [pointed, *periodic_names(names), FINAL]
    return [name for name in dict.fromkeys(order) if name in names]


def _is_whole(path: Path) -> bool:
    """Whether a run can go on from a file; `find_newest` says why not."""
    try:
        read_training_checkpoint(path)
    except (ValueError, OSError):
        return False
    return True


def _expired(there: set[str], here: set[str], keep_last: int) -> set[str]:
    """The training checkpoints of earlier machines that a store holds beyond SOLVER.KEEP_LAST."""
    own = periodic_names(here)
    if not own or keep_last == 0:
        return set()
    older = [name for name in periodic_names(there | here) if iteration_of(name) <= iteration_of(own[0])]
    return {name for name in older[keep_last:] if name in there and name not in here}
