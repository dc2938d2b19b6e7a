"""The contract of loggers: a run that is made up is shown to them, whole, in two parts, and in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from detframe.contracts.inputs import BASE, Place
from detframe.contracts.results import BrokenContractError, LeftOutError, Test
from detframe.contracts.words import listed, need
from detframe.engine.loggers.__main__ import flat
from detframe.engine.loggers.base import LoggedRun, RunLogger
from detframe.engine.loggers.processes import check_loggers, program
from detframe.engine.loggers.sent import finite, pictures
from detframe.engine.metrics_file import METRICS_FILE, MetricsFile
from detframe.errors import MissingModuleError
from detframe.registry import LOGGERS

SECONDS = 60.0  # that a logger has for a run of some rows; a training waits half as long
PART = 30  # rows before a run is stopped, of 32
KEPT = 0.5  # of the size of a file, that is left at least where it is added to, or made anew of all rows
_IMPORTS = "import sys; from detframe.config import import_custom_modules; import_custom_modules(sys.argv[1:])"


def tests_of(place: Place) -> list[Test]:
    """The tests of a member of LOGGERS, in the order in which they are made."""
    return [
        ("it is built", lambda: _built(place)),
        ("rows, pictures and the end", lambda: _whole(place)),
        ("a run without rows", lambda: _nothing(place)),
        ("a run that goes on", lambda: _goes_on(place)),
        ("the files of the run stay as they are", lambda: _leaves_alone(place)),
        ("a process of its own", lambda: _alone(place)),
        ("processes of other ranks write nothing", lambda: _on_other_ranks(place)),
    ]


# ------------------------------------------------------------------------------------------------------- a run to show
@contextmanager
def _run(place: Place, rows: int | None = None) -> Iterator[LoggedRun]:
    """A run in a folder of its own, with some or all of its rows."""
    config = place.read({"LOGGERS": [place.name]}, BASE)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "some run"
        (folder / "images").mkdir(parents=True)
        (folder / "config.yaml").write_text(config.dump(), encoding="utf-8")
        (folder / "report.html").write_text("<p>A report.</p>", encoding="utf-8")
        for iteration in (20, 40):
            picture = Image.fromarray(np.full((8, 12, 3), iteration, dtype=np.uint8))
            picture.save(folder / "images" / f"predictions_{iteration:07d}.png")
        _write(folder, rows)
        yield LoggedRun(folder, "0123456789ab", flat(config.to_dict()))


def _write(folder: Path, count: int | None = None) -> None:
    lines = [json.dumps(row) + "\n" for row in _rows()][:count]
    (folder / METRICS_FILE).write_text("".join(lines), encoding="utf-8")


def _rows() -> list[dict[str, float]]:
    """24 rows of steps, the first with a number less, and 8 of evaluations, the first with what is not finite."""
    out: list[dict[str, float]] = []
    for i in range(1, 25):
        step = {"iteration": 20 * i, "loss": 2.5 / i, "loss_rpn_cls": 1.5 / i, "loss_roi_box": 1.0 / i, "lr": 1e-3}
        out.append({**step, **({"images_per_s": 3.2} if i > 1 else {})})
        if i % 3 == 0:
            found = float("nan") if i == 3 else 12.5
            out.append(
                {"iteration": 20 * i, "bbox/AP": 10.0 * i, "bbox/AP50": 12.0 * i, "bbox/AP_Tür, 2 m (50 %)": found}
            )
    return out


def _made(place: Place, run: LoggedRun) -> RunLogger:
    logger: RunLogger = LOGGERS.get(place.name)(run)
    return logger


def _send(logger: RunLogger, run: LoggedRun, begin: int = 0, shown: bool = True) -> None:
    """The rows from one on, and the pictures."""
    for row in MetricsFile(run.folder).rows()[begin:]:
        logger.row(int(row["iteration"]), finite(row))
    for iteration, name, path in pictures(run.folder) if shown else ():
        logger.picture(iteration, name, path)
    logger.flush()


# --------------------------------------------------------------------------------------------------------------- tests
def _built(place: Place) -> None:
    place.load()
    try:
        check_loggers([place.name])
    except MissingModuleError as error:
        raise LeftOutError(str(error)) from None
    with _run(place) as run:
        _made(place, run).finish("finished")


def _whole(place: Place) -> None:
    with _run(place) as run:
        logger = _made(place, run)
        _send(logger, run)
        logger.finish("finished")


def _nothing(place: Place) -> None:
    for status in ("failed", "stopped", "finished"):
        with _run(place, 0) as run:
            logger = _made(place, run)
            logger.flush()
            logger.finish(status)


def _goes_on(place: Place) -> None:
    """What it wrote into the folder before a run was stopped is there when the run has gone on."""
    with _run(place, PART) as run:
        logger = _made(place, run)
        _send(logger, run)
        logger.finish("stopped")
        before = _own_files(run)
        _write(run.folder)
        logger = _made(place, run)
        _send(logger, run, PART, shown=False)
        logger.finish("finished")
        after = _own_files(run)
    lost = [name for name, text in before.items() if len(after.get(name, b"")) < KEPT * len(text)]
    need(
        not lost,
        f"{listed(lost)} has lost what it wrote before the run was stopped and went on: add to a file (mode 'a'), or "
        "make it anew of metrics.jsonl, which has all rows",
    )


def _leaves_alone(place: Place) -> None:
    with _run(place) as run:
        before = _files(run)
        logger = _made(place, run)
        _send(logger, run)
        logger.finish("finished")
        after = _files(run)
    changed = [name for name, content in before.items() if after.get(name) != content]
    need(not changed, f"it changed or removed {listed(changed)}, a file of the run: write into files of your own")


def _files(run: LoggedRun) -> dict[str, bytes]:
    paths = sorted(path for path in run.folder.rglob("*") if path.is_file())
    return {path.relative_to(run.folder).as_posix(): path.read_bytes() for path in paths}


def _own_files(run: LoggedRun) -> dict[str, bytes]:
    """What the logger has written into the folder of the run."""
    of_run = ("config.yaml", "report.html", METRICS_FILE)
    return {name: text for name, text in _files(run).items() if name not in of_run and not name.startswith("images/")}


def _alone(place: Place) -> None:
    with _run(place) as run:
        command, environment = program(run.folder, place.name)
        said = _ended(command, environment, run.folder)
    need(not said, f"as a process of its own, as a training starts it, it ended with an error: {said}")


def _on_other_ranks(place: Place) -> None:
    """Every process of a training imports the file; only that of rank 0 starts loggers."""
    with tempfile.TemporaryDirectory() as folder:
        _, environment = program(Path(folder), place.name)
        command = [sys.executable, "-c", _IMPORTS, place.imported]
        said = _ended(command, {**environment, "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, Path(folder))
        written = sorted(path.name for path in Path(folder).rglob("*"))
    need(not said, f"the file cannot be imported on rank 1: {said}")
    need(
        not written,
        f"importing the file writes {listed(written)}, and every process of a training imports it: begin in __init__, "
        "which is called once, for rank 0",
    )


def _ended(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """What a process said last where it ended with an error; "": it did not."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BrokenContractError(
            f"it was not at its end after {SECONDS:g} seconds: give what waits for a server a time limit; a training "
            "ends what is not ready 30 seconds after it"
        ) from None
    lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
    return "" if done.returncode == 0 else (lines[-1] if lines else f"exit code {done.returncode}")
