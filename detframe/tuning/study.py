"""The trials of a study in Optuna's store: which is tried next, what became of each, which died and are tried again."""

from __future__ import annotations

import hashlib
import logging
import math
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode
from detframe.errors import FileAccessError, InvalidValueError, MissingModuleError, UnknownNameError
from detframe.registry import nearest
from detframe.tuning.place import StudyPlace, is_at_work, shown_address
from detframe.tuning.space import Options, Range, Space

logger = logging.getLogger(__name__)
PRUNERS = ("median", "hyperband", "none")
MOST_ATTEMPTS = 3  # of a trial whose process dies: it may be the trial that ends it
_LOCK_SECONDS = 60  # that SQLite waits for another process
_STARTUP = 5  # trials whose values are drawn by chance, before the sampler learns from them
_FEWEST_FINISHED = 20  # of which it is said which keys matter
# What the store knows of a trial beside its values
FOLDER = "folder"  # its name; of the study, the full path where the store is not in it
STATE, REASON, SECONDS = "state", "reason", "seconds"
HOST = "host"
FIRST = "as_it_is"  # it tries the config's own values
ATTEMPT, AGAIN = "attempt", "again"  # which attempt it is, and the number of the one before it
# What has become of it
FINISHED, PRUNED, DIVERGED, FAILED = "finished", "pruned", "diverged", "failed"
INTERRUPTED, DIED, RUNNING, WAITING = "interrupted", "died", "running", "waiting"


def import_optuna() -> Any:
    """The library.

    Raises:
        MissingModuleError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingModuleError(f"a study needs Optuna ({error}): pip install 'detframe[tune]'") from None
    return optuna


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's own lines on the terminal: the study says what there is to say."""
    optuna = import_optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def store_errors(place: StudyPlace) -> Iterator[None]:
    """A store that fails is the user's to mend."""
    optuna = import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ or error
        raise FileAccessError(
            f"the store of the study, {shown_address(place)}, failed: {str(cause).splitlines()[0]}. What was written "
            "is kept; when it works again, the same command goes on"
        ) from error


@dataclass
class Taken:
    """A trial that this process is to run.

    Attributes:
        trial: Optuna's, to report to.
        settings: the values that it tries, by keys.
        again: it goes on from what another process has left in its folder.
        as_it_is: it tries the config's own values.
        held: holds the lock of the folder.
    """

    trial: Any
    folder: Path
    settings: dict[str, Any]
    again: bool
    as_it_is: bool
    held: ExitStack


class Trials:
    """The trials of one study, shared by all processes that work on it.

    Args:
        trials: how many the study is to have.
        pruner: one of `PRUNERS`.

    Raises:
        InvalidValueError: the store cannot be opened, or holds the study of another folder.
    """

    def __init__(self, place: StudyPlace, space: Space, cfg: ConfigNode, trials: int, pruner: str = "median") -> None:
        self.place, self.space, self.cfg, self.trials = place, space, cfg, trials
        self.optuna = import_optuna()
        with place.turn():
            self.study = self._open(pruner)

    # ------------------------------------------------------------------ opening
    def _open(self, pruner: str) -> Any:
        study = self.optuna.create_study(
            storage=_store(self.optuna, self.place),
            study_name=self.place.name,
            direction="maximize",
            pruner=_pruner(self.optuna, pruner),
            load_if_exists=True,
        )
        if not self.place.storage:
            where = ""  # the study may be moved with its folder
        else:
            where = str(self.place.folder.resolve())
        other = study.user_attrs.get(FOLDER)
        if other is None:
            if study.get_trials(deepcopy=False):
                raise InvalidValueError(
                    f"the study {self.place.name} in {shown_address(self.place)} is not one of detframe's; give "
                    "the study another name"
                )
            study.set_user_attr(FOLDER, where)
            self._enqueue_first(study)
        elif other != where:
            raise InvalidValueError(
                f"the study {self.place.name} in {shown_address(self.place)} keeps its trials in {other}, not in "
                f"{where}: set OUTPUT_DIR to that, or give the study another name"
            )
        return study

    def _enqueue_first(self, study: Any) -> None:
        """The first trial is the config as it is, as far as the space has its values."""
        given = {key: self.cfg.at(key) for key in self.space}
        inside = {key: self._stored(key, value) for key, value in given.items() if self.space[key].holds(value)}
        for key in given.keys() - inside.keys():
            logger.warning(
                "the first trial is not quite the config as it is: its %s %s is not in the space (%s)",
                *(key, given[key], self.space[key].describe()),
            )
        study.enqueue_trial(inside, user_attrs={FIRST: len(inside) == len(given)})

    def _stored(self, key: str, value: Any) -> Any:
        dimension = self.space[key]
        return dimension.text(value) if isinstance(dimension, Options) else dimension.number(value)

    # ------------------------------------------------------------------ taking and ending
    def take(self) -> Taken | None:
        """The next trial, its folder claimed; None where the study has as many as it is to have."""
        with self.place.turn():
            self._bury_dead()
            if sum(row.state != WAITING for row in self.rows()) >= self.trials:
                return None
            trial = self._ask()
            attrs = trial.user_attrs
            again = FOLDER in attrs
            folder = self.place.folder / attrs[FOLDER] if again else self.place.trial_folder(trial.number)
            try:
                held = self.place.claim(folder, again)
            except Exception as error:
                self._end(trial, FAILED, str(error))
                raise
            trial.set_user_attr(FOLDER, folder.name)
            trial.set_user_attr(HOST, socket.gethostname())
        return Taken(trial, folder, self._settings(trial.params), again, bool(attrs.get(FIRST)), held)

    def _ask(self) -> Any:
        # A seed of its own for each trial: two processes with one seed, or one that was started again with it, would
        # try the same values twice
        number = len(self.study.get_trials(deepcopy=False))
        digest = hashlib.sha256(f"{max(self.cfg.SEED, 0)} {number}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP)
        forms = {key: _distribution(self.optuna, dimension) for key, dimension in self.space.items()}
        return self.study.ask(fixed_distributions=forms)

    def _settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        out = {}
        for key, dimension in self.space.items():
            out[key] = dimension.values[params[key]] if isinstance(dimension, Options) else dimension.value(params[key])
        return out

    def end(self, taken: Taken, state: str, reason: str = "", seconds: float = 0.0, value: float | None = None) -> None:
        """Write down what became of a trial; one that was interrupted waits to be gone on with."""
        with self.place.turn():
            taken.trial.set_user_attr(SECONDS, seconds)
            self._end(taken.trial, state, reason, value)
            if state == INTERRUPTED:
                frozen = self.study.get_trials(deepcopy=False)[taken.trial.number]
                self._try_again(frozen, frozen.user_attrs.get(ATTEMPT, 1))
            taken.held.close()

    def _end(self, trial: Any, state: str, reason: str = "", value: float | None = None) -> None:
        states = self.optuna.trial.TrialState
        trial.set_user_attr(STATE, state)
        trial.set_user_attr(REASON, reason)
        if state == FINISHED:
            self.study.tell(trial.number, value)
        else:  # the sampler learns nothing from what has failed; that values diverge, it learns
            pruned = state in (PRUNED, DIVERGED)
            self.study.tell(trial.number, state=states.PRUNED if pruned else states.FAIL)

    def _bury_dead(self) -> None:
        """Trials whose process is gone are marked, and wait to be tried again."""
        states = self.optuna.trial.TrialState
        for frozen in self.study.get_trials(deepcopy=True, states=(states.RUNNING,)):
            attrs = frozen.user_attrs
            folder = self.place.folder / attrs[FOLDER] if FOLDER in attrs else None
            elsewhere = attrs.get(HOST, socket.gethostname()) != socket.gethostname()
            if folder is not None and (is_at_work(folder) or (elsewhere and not folder.is_dir())):
                continue
            self.study.tell(frozen.number, state=states.FAIL)
            attempt = attrs.get(ATTEMPT, 1)
            name = self.place.trial_folder(frozen.number).name if folder is None else folder.name
            if attempt < MOST_ATTEMPTS:
                logger.warning("%s: its process died, so it is tried again", name)
                self._try_again(frozen, attempt + 1)
            else:
                logger.warning("%s: its process died %d times; it is given up", name, attempt)

    def _try_again(self, frozen: Any, attempt: int) -> None:
        kept = {key: value for key, value in frozen.user_attrs.items() if key in (FOLDER, FIRST)}
        self.study.enqueue_trial(frozen.params, user_attrs={**kept, ATTEMPT: attempt, AGAIN: frozen.number})

    # ------------------------------------------------------------------ looking
    def rows(self) -> list[TrialRow]:
        """Every trial, in the order of their folders; of one that was tried again, the last attempt."""
        found = self.study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get(AGAIN) for trial in found}
        rows = [self._row(trial) for trial in found if trial.number not in replaced]
        return sorted(rows, key=lambda row: row.name)

    def _row(self, trial: Any) -> TrialRow:
        attrs, state = trial.user_attrs, trial.state.name
        known = {"COMPLETE": FINISHED, "RUNNING": RUNNING, "WAITING": WAITING}.get(state)
        measured = {int(step): float(value) for step, value in trial.intermediate_values.items()}
        best = max(measured.values(), default=None)
        return TrialRow(
            name=attrs.get(FOLDER) or self.place.trial_folder(trial.number).name,
            state=known or attrs.get(STATE, DIED),
            value=trial.value if state == "COMPLETE" else best,
            evaluations=len(measured),
            seconds=float(attrs.get(SECONDS, 0.0)),
            reason=str(attrs.get(REASON, "")),
            settings={key: shown_setting(trial.params[key]) for key in self.space if key in trial.params},
        )

    def importances(self) -> dict[str, float]:
        """How much of the differences between finished trials each key explains, from 0 to 1, the largest first.

        {} where too few have finished to say so.
        """
        finished = [row for row in self.rows() if row.state == FINISHED]
        if len(finished) < _FEWEST_FINISHED or len(self.space) < 2 or len({row.value for row in finished}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self.optuna.importance.get_param_importances(self.study)
        return {str(key): float(value) for key, value in found.items()}


@dataclass(frozen=True)
class TrialRow:
    """What is known of a trial.

    Attributes:
        name: of its folder.
        value: the best metric of its evaluations, None without any.
        seconds: that it took, 0 while it runs.
        reason: why it ended early; "" where it did not.
        settings: the values that it tries, as texts by keys.
    """

    name: str
    state: str
    value: float | None
    evaluations: int
    seconds: float
    reason: str
    settings: Mapping[str, str]


def best_row(rows: Sequence[TrialRow]) -> TrialRow | None:
    """The finished trial with the highest metric, of equal ones the first; None where none has finished."""
    finished = [row for row in rows if row.state == FINISHED and row.value is not None]
    return max(finished, key=lambda row: row.value or 0.0, default=None)


def shown_setting(value: Any) -> str:
    """A value that is tried, for logs and tables."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _store(optuna: Any, place: StudyPlace) -> Any:
    address = place.address
    if "://" not in address:
        raise InvalidValueError(
            f"the store {address!r} is not an address; give one as sqlite:////data/study.db (four slashes before a "
            "full path) or postgresql://user@host/database, or leave it out"
        )
    options = {"connect_args": {"timeout": _LOCK_SECONDS}} if address.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(address, engine_kwargs=options)
    except Exception as error:  # SQLAlchemy's, those of the driver, and a driver that is not there
        raise InvalidValueError(
            f"the store {shown_address(place)} cannot be opened: {type(error).__name__}: {str(error).splitlines()[0]}; "
            "is the address right, the database there, and Python's driver for it installed (psycopg2 for postgresql://)?"
        ) from error


def check_pruner(name: str) -> None:
    """Raises UnknownNameError: there is no such pruner."""
    if name not in PRUNERS:
        raise UnknownNameError(f"there is no pruner {name!r}; {nearest(str(name), list(PRUNERS))}")


def _pruner(optuna: Any, name: str) -> Any:
    check_pruner(name)
    pruners = {"median": optuna.pruners.MedianPruner, "hyperband": optuna.pruners.HyperbandPruner}
    return pruners.get(name, optuna.pruners.NopPruner)()


def _distribution(optuna: Any, dimension: Range | Options) -> Any:
    forms = optuna.distributions
    if isinstance(dimension, Options):
        return forms.CategoricalDistribution(tuple(dimension.values))
    low, high, step = dimension.low, dimension.high, dimension.step
    if step:  # the last step that fits
        high = low + step * math.floor((high - low) / step + 1e-9)
    if dimension.whole:
        return forms.IntDistribution(int(low), int(high), log=dimension.log, step=int(step) or 1)
    return forms.FloatDistribution(low, high, log=dimension.log, step=step or None)
