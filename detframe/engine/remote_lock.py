"""One run per OUTPUT_DIR on an object store, where nothing can be locked: an object that the run keeps changing."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from detframe.engine.lock import holder_of, lives, this_process
from detframe.errors import InUseError
from detframe.storage.folders import StoreFolder

logger = logging.getLogger(__name__)
RECORD = ".run.json"  # the object, and its copy in the local folder
BEAT_SECONDS = 10.0  # from one change to the next
_DEAD_BEATS = 3  # after so many without a change, its run counts as dead
_SETTLE_SECONDS = 0.5  # in which another run that starts at the same moment has written
_held: set[str] = set()  # the tokens of runs of this process


class RemoteLock:
    """Who works in a folder on a store. Its `token` stays there after the run, and tells whose files the folder has.

    Between two machines that start in the same half second both may take it; one of them finds that out at its next
    beat, and ends.
    """

    def __init__(self, store: StoreFolder) -> None:
        self.store = store
        self.token = ""
        self._holder = this_process()
        self._beats = 0
        self._lost: Any = None  # the record of another run that has taken the folder
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def record(self, patience: float | None = None) -> dict[str, Any]:
        """What the object says; {} where there is none, or nothing that can be read."""
        content = self.store.read(RECORD, patience)
        try:
            found = json.loads(content or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def refuse_if_taken(self) -> None:
        """Raise InUseError where another run works in the folder. It may take half a minute to see that one is dead."""
        first = self.record()
        holder = holder_of(first)
        if not first or first.get("ended") or holder is None:
            return
        if holder.host == socket.gethostname() and holder.identity:
            own = holder.pid == os.getpid()
            if first.get("token") in _held if own else lives(holder):
                raise self._in_use(first)
            return
        seconds = _DEAD_BEATS * BEAT_SECONDS
        logger.info("%s was in use by %s: looking for up to %.0f s whether it still is", self.store, holder, seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(BEAT_SECONDS / 5)
            now = self.record()
            if not now or now.get("ended"):
                return
            if now != first:
                raise self._in_use(now)

    def wait_until_free(self, seconds: float) -> None:
        """`refuse_if_taken`, but wait so long for the end of the other run."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.refuse_if_taken()
            except InUseError as error:
                if time.monotonic() > deadline:
                    raise
                logger.warning("%s; waiting for its end", error)
            time.sleep(BEAT_SECONDS)

    def take(self) -> dict[str, Any]:
        """Be the run that works in the folder, until `release`; returns the record.

        Raises:
            InUseError: another run was faster.
            OSError: the store does not take it.
        """
        self.token = uuid4().hex
        record = self._record(ended=False)
        self._write(record)
        time.sleep(_SETTLE_SECONDS)
        found = self.record()
        if found.get("token") != self.token:
            raise self._in_use(found)
        _held.add(self.token)
        self._thread = threading.Thread(target=self._beat, name="detframe-lock", daemon=True)
        self._thread.start()
        return record

    def check(self) -> None:
        """Raise InUseError if another run has taken the folder meanwhile."""
        if self._lost is not None:
            raise InUseError(
                f"OUTPUT_DIR {self.store} was taken over by another run ({holder_of(self._lost) or 'unknown'}), while "
                "this one could not be seen there for half a minute. This one ends; what it has made since lies in its "
                "local folder alone"
            )

    def stop(self) -> None:
        """Change the object no more; the folder then counts as free after a while."""
        self._ended.set()
        _held.discard(self.token)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def release(self) -> None:
        """Say that the run has ended. Errors as of `take`."""
        self.stop()
        if self._lost is None and self.token:
            self._write(self._record(ended=True))

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                found = self.record(patience=0.0)
                if found and found.get("token") != self.token:
                    self._lost = found
                    return
                self._beats += 1
                self.store.write(RECORD, json.dumps(self._record(ended=False)).encode())
            except Exception as error:  # of any library: the mirror tells of a store that is away
                logger.debug("%s: no beat: %s", self.store, error)

    def _write(self, record: Mapping[str, Any]) -> None:
        content = json.dumps(record).encode()
        self.store.surely(lambda: self.store.write(RECORD, content))

    def _record(self, ended: bool) -> dict[str, Any]:
        return {**asdict(self._holder), "token": self.token, "beat": self._beats, "ended": ended}

    def _in_use(self, record: dict[str, Any]) -> InUseError:
        return InUseError(
            f"OUTPUT_DIR {self.store} is in use by another run ({holder_of(record) or 'an unnamed process'}). Nothing "
            "was changed. Wait for its end, stop it, or set another OUTPUT_DIR"
        )
