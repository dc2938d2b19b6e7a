"""The folder of a study: what the study is about, whose turn it is, and which trials lie there."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode
from detframe.config.key import FREE
from detframe.config.keys import all_keys
from detframe.engine.lock import is_locked, locked
from detframe.engine.output_dir import prepare
from detframe.errors import InUseError, InvalidValueError, shown
from detframe.files import read_text, write_text
from detframe.tuning.space import Space

STUDY_FILE = "study.json"
_STORE_FILE = "study.db"
_TRIAL_LOCK = ".trial"  # held as long as the trial's process lives; the lock of its training is another
_STUDY_LOCK = ".study"
_LONGEST_WAIT = 600.0  # seconds for the turns of others, each of which takes a fraction of one
_PASSWORD = re.compile(r"(://[^:/@]*):[^@]*@")
_TRIAL = re.compile(r"trial_(\d{4,})")
_MOST_SHOWN = 8  # keys of a message
_OTHER_FOLDER = "set another OUTPUT_DIR to begin another study"


@dataclass(frozen=True)
class StudyPlace:
    """Where a study lies.

    Attributes:
        folder: OUTPUT_DIR of the study.
        storage: the address of its store; "" is a file in the folder.
        name: of the study in its store.
    """

    folder: Path
    storage: str
    name: str

    @property
    def address(self) -> str:
        """The address of the store, as Optuna has it."""
        return self.storage or f"sqlite:///{(self.folder / _STORE_FILE).resolve().as_posix()}"

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one of the study's processes that looks at its trials, takes one, or writes its tables."""
        deadline = time.monotonic() + _LONGEST_WAIT
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(locked(self.folder, _STUDY_LOCK))
                    break
                except InUseError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(random.uniform(0.02, 0.1))
            yield

    def trial_folder(self, number: int) -> Path:
        """OUTPUT_DIR of a trial."""
        return self.folder / f"trial_{number:04d}"

    def claim(self, folder: Path, again: bool) -> ExitStack:
        """Make a trial's folder this process's own until the returned stack is closed.

        Args:
            again: the trial goes on from what another process has left there.

        Raises:
            InUseError: another process works there.
            InvalidValueError: something is there that is not this trial's.
        """
        if not again and folder.exists() and any(folder.iterdir()):
            raise InvalidValueError(
                f"{folder} is there already, and it is not this study's ({self.name} in {shown_address(self)}): two "
                f"trials cannot share a folder. If the study's store was deleted or moved, put it back; else "
                f"{_OTHER_FOLDER}"
            )
        prepare(folder)
        held = ExitStack()
        held.enter_context(locked(folder, _TRIAL_LOCK))
        return held


@contextmanager
def begun(folder: Path) -> Iterator[None]:
    """Where a study that has no file yet cannot begin inside of the `with`, it leaves none: a corrected start may.

    Nor does it leave folders that were not there.
    """
    path = folder / STUDY_FILE
    fresh, absent = not path.is_file(), [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        if fresh:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # something else was put there meanwhile, or it was not made
            for place in absent:
                place.rmdir()
        raise


def is_at_work(folder: Path) -> bool:
    """Whether a process works on the trial in a folder."""
    return is_locked(folder, _TRIAL_LOCK)


def shown_address(place: StudyPlace) -> str:
    """The address of a study's store without a password."""
    return _PASSWORD.sub(r"\1:***@", place.address)


# ---------------------------------------------------------------------------------------------- study.json
def open_place(cfg: ConfigNode, space: Space, folder: Path, storage: str = "", name: str = "") -> StudyPlace:
    """The place of a study that begins, or goes on in its folder; to be called in nobody else's turn.

    Raises:
        InvalidValueError: the folder holds another study, or this one with another config or space; says which.
    """
    prepare(folder)
    path = folder / STUDY_FILE
    with StudyPlace(folder, storage, name).turn():
        before = _read(path)
        if before is None:
            place = StudyPlace(folder, storage, name or folder.resolve().name)
            _refuse_strange_trials(folder)
            write_text(path, json.dumps(_record(place, cfg, space), indent=1) + "\n")
            return place
        place = StudyPlace(folder, storage, name or before["study"])
        _check_same(path, before, _record(place, cfg, space))
        return place


def _record(place: StudyPlace, cfg: ConfigNode, space: Space) -> dict[str, Any]:
    record = {
        "study": place.name,
        "storage": shown_address(place) if place.storage else "",
        "metric": cfg.SOLVER.BEST_METRIC,
        "space": {key: dimension.record() for key, dimension in space.items()},
        "config": dict(cfg.leaves()),
    }
    return dict(json.loads(json.dumps(record)))  # tuples as lists, as they are read back


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        record = json.loads(read_text(path))
    except ValueError as error:
        raise InvalidValueError(f"{path} cannot be read ({error}); {_OTHER_FOLDER}") from None
    forms = {"study": str, "storage": str, "space": dict, "config": dict}
    if not isinstance(record, dict) or any(not isinstance(record.get(key), form) for key, form in forms.items()):
        raise InvalidValueError(f"{path} does not describe a study of detframe's; {_OTHER_FOLDER}")
    return record


def _check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises InvalidValueError: the study in the folder is another one; names what differs."""
    for word, what in (("study", "the study"), ("storage", "the store")):
        if before[word] != now[word]:
            old, new = (f"{record[word]!r}" if record[word] else "a file in its folder" for record in (before, now))
            raise InvalidValueError(
                f"{path.parent} holds another study: {what} of its trials is {old}, not {new}. Two studies cannot "
                f"share a folder: give what it began with, or {_OTHER_FOLDER}"
            )
    known = all_keys()
    wrong = _differing("the space", before["space"], now["space"], "is not in it")
    # a key that came with a newer version has its default, which is what the trials before had
    config = {**{key: value for key, value in now["config"].items() if key not in before["config"]}, **before["config"]}
    free = {key for key in config if key == "OUTPUT_DIR" or (key in known and _is_free(key))}
    kept = [{key: value for key, value in tree.items() if key not in free} for tree in (config, now["config"])]
    wrong += _differing("the config", kept[0], kept[1], "is not there")
    if wrong:
        more = f"\n  and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
        raise InvalidValueError(
            f"the study in {path.parent} began with other settings, and its trials could not be compared:\n"
            + "\n".join(wrong[:_MOST_SHOWN])
            + f"{more}\nGive those it began with, or {_OTHER_FOLDER}"
        )


def _is_free(key: str) -> bool:
    """Whether a key changes nothing that is learned or measured."""
    resume = all_keys()[key].resume
    return resume is not None and resume.kind == FREE and key not in ("MODEL.WEIGHTS", "TEST.EVAL_PERIOD")


def _differing(what: str, before: Mapping[str, Any], now: Mapping[str, Any], absent: str) -> list[str]:
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [
        f"  {key} of {what}: "
        + ", ".join(
            f"{when} {shown(tree[key]) if key in tree else absent}" for when, tree in (("then", before), ("now", now))
        )
        for key in keys
    ]


def _refuse_strange_trials(folder: Path) -> None:
    strange = sorted(path.name for path in folder.glob("trial_*") if _TRIAL.fullmatch(path.name) and path.is_dir())
    if strange:
        raise InvalidValueError(
            f"{folder} holds {strange[0]} of a study whose {STUDY_FILE} is gone; put that back, or {_OTHER_FOLDER}"
        )
