"""A local folder whose files appear on an object store: whole, in the background, the pointers to others last."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from detframe.errors import FileAccessError, InUseError, UnreachableError
from detframe.files import write_text
from detframe.storage.faults import reason
from detframe.storage.folders import StoreFolder

logger = logging.getLogger(__name__)
NOTES = ".uploaded.json"  # in the local folder: what was sent, so that a later process sends only the rest
LOOK_SECONDS = 2.0  # from one look at the folder to the next
GROWN_SECONDS = 30.0  # from one copy of a file that grows, as log.txt, to the next
LONGEST_PAUSE = 60.0  # between tries while the store does not answer


class Mark(NamedTuple):
    """What tells one content of a file from another."""

    size: int
    changed_ns: int
    number: int  # of the file: another one where it was replaced, the same where it has grown


class Mirror:
    """Sends what changes in a folder to a store, until `finish`.

    A store that does not answer is one warning: what was not sent stays in the folder, and is sent later. Names that
    begin with a dot, as of temporary files, are left out. What is deleted in the folder is deleted in the store.

    Args:
        folder: the local one.
        pointers: small files that name others; they are sent when everything else is there.
        also: names that are sent though they begin with a dot.
        expired: which of the names in the store, given these and the names in the folder, are to be deleted though they
            never were in the folder.
        check: called before anything is sent; raises where the store is no longer ours to write.
    """

    def __init__(
        self,
        folder: Path,
        store: StoreFolder,
        pointers: Sequence[str] = (),
        also: Sequence[str] = (),
        expired: Callable[[set[str], set[str]], set[str]] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self.store, self.pointers, self.also = folder, store, pointers, also
        self.expired, self.check = expired, check
        self.stored: set[str] = set()  # the names that the store is known to have
        self._marks = _read_notes(folder)
        self._pointed: dict[str, bytes] = {}  # the content of pointers that was sent
        self._sent_at: dict[str, float] = {}
        self._failing = self._noteless = False  # which have been said
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ what the run calls
    def start(self) -> None:
        """Begin to send, in a thread."""
        self._thread = threading.Thread(target=self._run, name="detframe-mirror", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is being sent is sent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self, patience: float) -> None:
        """Stop, and send everything that is left.

        Args:
            patience: seconds without any success after which that is given up.

        Raises:
            OSError: something is not there; says where it lies. What will not pass by itself, as a refusal, is told
                after as long. InUseError: the store is not ours any more.
        """
        self.stop()
        left = self.left()
        if left:
            size = sum((self.folder / name).stat().st_size for name in left if (self.folder / name).is_file())
            logger.info("sending %d files, %.1f MB, to %s before the end", len(left), size / 2**20, self.store)
        last = time.monotonic()
        while self.left():
            try:
                if self._round(hurry=True):
                    last = time.monotonic()
            except Exception as error:  # of any library
                if isinstance(error, InUseError):
                    raise
                self._say_failure(error)
                if time.monotonic() - last > patience:
                    raise self._given_up(error, patience) from None
                time.sleep(min(LOOK_SECONDS, patience / 4))

    def left(self) -> list[str]:
        """The files that the store does not have as they are."""
        found = self._found()
        pointed = {name: self._content(name) for name in self.pointers}
        late = [name for name, content in pointed.items() if content and self._pointed.get(name) != content]
        gone = self._marks.keys() - found.keys()
        return [name for name in found if name not in self.pointers and self._marks.get(name) != found[name]] + [
            *late,
            *sorted(gone),
        ]

    def take(self, name: str) -> None:
        """Fetch an object into the folder, whole or not at all; it then counts as sent."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            self.store.fetch(name, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self._marks[name] = _mark(path)
        self._write_notes()

    # ------------------------------------------------------------------ the thread
    def _run(self) -> None:
        pause = LOOK_SECONDS
        while not self._ended.wait(pause):
            try:
                self._round()
                pause = LOOK_SECONDS
            except Exception as error:  # of any library; the run goes on, and so does this
                self._say_failure(error)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _round(self, hurry: bool = False) -> int:
        """Send what has changed, then the pointers, and delete what is gone; returns how many things were done.

        Args:
            hurry: send files that grow, too.

        Raises:
            Exception: the store does not take something; what was sent until then counts.
        """
        if self.check is not None:
            self.check()
        pointed, found = self._look()
        # a checkpoint is not to be named before what was written down until then is there too
        hurry = hurry or any(self._pointed.get(name) != content for name, content in pointed.items())
        changed = [name for name in found if name not in self.pointers and self._is_due(name, found[name], hurry)]
        done, whole = 0, True
        for name in sorted(changed, key=lambda name: found[name].size):
            sent = self._send(name, found[name])
            done, whole = done + sent, whole and sent
        if whole:
            for name, content in pointed.items():
                if self._pointed.get(name) != content:
                    self.store.write(name, content)
                    self._pointed[name] = content
                    done += 1
            done += self._remove(found)
        if done:
            self._write_notes()
        if self._failing:
            self._failing = False
            logger.info("%s answers again, and has what was missing", self.store)
        return done

    def _look(self) -> tuple[dict[str, bytes], dict[str, Mark]]:
        """The pointers and the files at one moment: files are there before a pointer names them, and go after it."""
        while True:
            pointed = {name: self._content(name) for name in self.pointers}
            found = self._found()
            if all(self._content(name) == content for name, content in pointed.items()):
                return {name: content for name, content in pointed.items() if content}, found

    def _is_due(self, name: str, mark: Mark, hurry: bool) -> bool:
        before = self._marks.get(name)
        if before == mark:
            return False
        grown = before is not None and before.number == mark.number
        return hurry or not grown or time.monotonic() - self._sent_at.get(name, 0.0) > GROWN_SECONDS

    def _send(self, name: str, mark: Mark) -> bool:
        """Whether a file was sent; it may have been deleted meanwhile."""
        path = self.folder / name
        try:
            self.store.put(path, name)
        except Exception:
            if not path.exists():
                return False
            raise
        self._marks[name], self._sent_at[name] = mark, time.monotonic()
        self.stored.add(name)
        return True

    def _remove(self, found: dict[str, Mark]) -> int:
        gone = self._marks.keys() - found.keys()
        expired = self.expired(self.stored, set(found)) if self.expired is not None else set()
        for name in sorted(gone | expired):
            self.store.remove(name)
            self._marks.pop(name, None)
            self.stored.discard(name)
        return len(gone | expired)

    def _say_failure(self, error: Exception) -> None:
        if self._failing:
            return
        self._failing = True
        logger.warning(
            "%s takes nothing at the moment (%s). The run goes on; what is missing there lies in %s, and is sent later",
            *(self.store, reason(error), self.folder),
        )

    def _given_up(self, error: Exception, patience: float) -> Exception:
        known = self.store.refusal(error)
        return UnreachableError(
            f"{known}\n{len(self.left())} files of the run could not be sent to {self.store} for {patience:.0f} s. "
            f"Nothing is lost: all of it is in {self.folder}. When the store answers, start the run again here with "
            "--resume, which sends it; or copy that folder there yourself"
        )

    # ------------------------------------------------------------------ files
    def _found(self) -> dict[str, Mark]:
        """The files of the folder, by their names with slashes."""
        found: dict[str, Mark] = {}
        for path in self.folder.rglob("*"):
            parts = path.relative_to(self.folder).parts
            if any(part.startswith(".") for part in parts) and parts not in {(name,) for name in self.also}:
                continue
            try:
                if path.is_file():
                    found["/".join(parts)] = _mark(path)
            except FileNotFoundError:  # deleted just now
                continue
        return found

    def _content(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return b""

    def _write_notes(self) -> None:
        """Note what was sent. Where that fails, as on a full disk, the store is not at fault: it is sent once more."""
        try:
            write_text(self.folder / NOTES, json.dumps({name: list(mark) for name, mark in self._marks.items()}))
        except FileAccessError as error:
            if not self._noteless:
                logger.warning(
                    "what was sent to %s cannot be noted in %s (%s), and is sent again when the run goes on",
                    *(self.store, self.folder, reason(error)),
                )
            self._noteless = True


def _mark(path: Path) -> Mark:
    facts = path.stat()
    return Mark(facts.st_size, facts.st_mtime_ns, facts.st_ino)


def _read_notes(folder: Path) -> dict[str, Mark]:
    try:
        content = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        return {str(name): Mark(*(int(number) for number in mark)) for name, mark in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or cut off
        return {}
