"""What a message says of a run that ended early: what is saved, and which command goes on."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from detframe.config.paths import runs_in_cache
from detframe.parallel.stopping import signal_name

_TRAIN_COMMANDS = ("train", "train-efpn")
_TRAIN_SCRIPTS = ("train_net.py", "train_efpn.py")
_SCRIPT = re.compile(r"(?:python )?tools/(\w+)\.py")
_in_study: ContextVar[bool] = ContextVar("in_study", default=False)
_COMMANDS = {"train_net": "train", "test_net": "evaluate", "check_data": "check"}  # where the names differ otherwise


def program_name(command: str, script: str = "") -> str:
    """How this user calls a command: "detframe train", or "python tools/train_net.py" for those who run the scripts."""
    running = Path(sys.argv[0])
    if running.parent.name != "tools":
        return f"detframe {command}"
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else "python"
    return f"{shown} tools/{script or running.name}"


def as_called(text: str) -> str:
    """A text in which scripts of tools/ stand, with the commands that this user has: an installed detframe has none."""
    if Path(sys.argv[0]).parent.name == "tools":
        return text
    return _SCRIPT.sub(lambda match: f"detframe {_COMMANDS.get(match[1], match[1].replace('_', '-'))}", text)


@contextmanager
def part_of_study() -> Iterator[None]:
    """Around the training of a trial, with which the study's own command goes on."""
    before = _in_study.set(True)
    try:
        yield
    finally:
        _in_study.reset(before)


def resume_command(folder: Path) -> str:
    """The command that goes on with the run in `folder`: the one that was given, with --resume.

    A run that was not started by a command for training goes on by its own config.yaml, and a trial with its study.
    """
    if _in_study.get():
        return given_command()
    words = _given_command()
    if words is None:
        words = [*program_name("train", "train_net.py").split(), "--config-file", str(folder / "config.yaml")]
    if "--resume" not in words:
        words.append("--resume")
    launcher = _launcher()
    if launcher.startswith("torchrun") and words[1:] and words[1].endswith(".py"):
        words = words[1:]  # torchrun calls Python itself
    return " ".join(filter(None, (launcher, shlex.join(words))))


def full_disk_remedy(folder: Path) -> str:
    """What to do where the run that works in `folder` has filled its disk."""
    kept = "Earlier files are as they were"
    if _in_study.get():
        return f"{kept}; make room, then run the same command again: it goes on with the study, this trial included"
    if folder.is_relative_to(runs_in_cache()):
        elsewhere = "set the environment variable DETFRAME_CACHE to a folder with room"
    else:
        elsewhere = "move the folder to another disk and set OUTPUT_DIR to it"
    return f"{kept}; make room, or {elsewhere}, then go on with --resume"


def given_command() -> str:
    """The command line that this process was started with, whatever it was: `detframe train ...`, or a script."""
    running = Path(sys.argv[0])
    program = "detframe" if running.stem in ("detframe", "main", "__main__") else str(running)
    return shlex.join([program, *sys.argv[1:]])


def _given_command() -> list[str] | None:
    """The command line as it was given, if it was one for training."""
    running, words = Path(sys.argv[0]), sys.argv[1:]
    if running.name in _TRAIN_SCRIPTS:
        return [*program_name("", running.name).split(), *words]
    if running.stem in ("detframe", "main", "__main__") and words and words[0] in _TRAIN_COMMANDS:
        return ["detframe", *words]
    return None


def _launcher() -> str:
    """What stands before the command where torchrun or SLURM starts the processes."""
    world, here = os.environ.get("WORLD_SIZE", "1"), os.environ.get("LOCAL_WORLD_SIZE", "")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun --nproc-per-node={here}" if world == here else "torchrun ..."
    return "srun ..." if "SLURM_PROCID" in os.environ and int(world) > 1 else ""


def evaluate_command(folder: Path, weights: Path) -> str:
    """The command that evaluates a checkpoint of the run in `folder`."""
    words = ["--config-file", str(folder / "config.yaml"), "--weights", str(weights)]
    return f"{program_name('evaluate', 'test_net.py')} {shlex.join(words)}"


def after_failed_evaluation(iteration: int, max_iter: int, is_over: bool, saved: Path | None) -> str:
    """What is not lost, where it is, and how to go on; `saved` is the checkpoint of this iteration."""
    if saved is None:
        return f"The evaluation after iteration {iteration} failed."
    if not is_over:
        return (
            f"Only the evaluation failed: {saved} holds everything up to iteration {iteration} of {max_iter}. When the "
            f"cause is mended, go on with\n  {resume_command(saved.parent)}"
        )
    return (
        f"The training is done, only its evaluation failed: the weights after {iteration} iterations are in {saved}. "
        f"When the cause is mended, evaluate with\n  {evaluate_command(saved.parent, saved)}\n"
        f"or end the run, which only evaluates now, with\n  {resume_command(saved.parent)}"
    )


def after_signal(signum: int, iteration: int, max_iter: int, saved: Path | None) -> str:
    """What a signal has left; `saved` is the newest checkpoint, None where no step was done."""
    name = signal_name(signum)
    if saved is None:
        return f"stopped by {name} before a step was done; there is nothing to save. Start the run again"
    return (
        f"stopped by {name} at iteration {iteration} of {max_iter}; {saved} holds everything up to there. Go on with\n"
        f"  {resume_command(saved.parent)}"
    )
