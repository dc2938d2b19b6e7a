"""Studies whose trainings take no time, with the real Optuna; and the tiny detector for the real ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import datasets, one_thread, tiny  # noqa: F401 - fixtures
from tests.tuning.pretended import Pretended


@pytest.fixture
def cfg(tiny):  # noqa: F811 - the fixture
    """A config with three evaluations, the study's folder being OUTPUT_DIR."""
    return tiny("SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 2, "SOLVER.BASE_LR", 0.01)


@pytest.fixture
def folder(cfg) -> Path:
    """OUTPUT_DIR of the study."""
    return Path(cfg.OUTPUT_DIR)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    """Trainings of a study are pretended: the metric follows from the learning rate."""
    pytest.importorskip("optuna", reason="Optuna (the extra tune) is not installed")
    import sqlalchemy

    made = Pretended()
    monkeypatch.setattr("detframe.tuning.trial._free_memory", lambda: None)
    monkeypatch.setattr("detframe.files.os.fsync", lambda handle: None)
    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", without_waiting_for_the_disk)
    monkeypatch.setattr("detframe.tuning.trial.train", made)
    yield made
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", without_waiting_for_the_disk)


def without_waiting_for_the_disk(connection, record) -> None:
    """Hundreds of commits to SQLite would else wait for it."""
    connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture):
    """The lines that a study has logged, as one text."""
    caplog.set_level(logging.INFO, "detframe.tuning")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)
