"""A training that torchrun starts in the tests: `elastic_run.py FOLDER KEY VALUE ...`; some attempts come to grief.

HARM holds what happens after which iterations, `{"5": {"rank": 1, "what": "kill"}}`, each once: a file in FOLDER stands
for it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from detframe.cli.errors import guard
from detframe.engine import train
from detframe.engine.trainer import Hook, Trainer
from detframe.parallel.collectives import rank
from tests.engine.ranks import tiny_config


class Harm(Hook):
    """What is to happen, once in all attempts."""

    name = "harm"

    def __init__(self, folder: Path) -> None:
        self.folder, self.planned = folder, json.loads(os.environ.get("HARM", "{}"))
        self.pause = float(os.environ.get("PAUSE", "0"))

    def after_step(self, trainer: Trainer) -> None:
        time.sleep(self.pause)
        with open(self.folder / f"steps_rank{rank()}.txt", "a", encoding="utf-8") as file:
            file.write(f"{trainer.iteration} {time.time():.2f}\n")
        harm = self.planned.get(str(trainer.iteration))
        done = self.folder / f"harm_{trainer.iteration}"
        if harm is None or harm["rank"] != rank() or done.exists():
            return
        done.touch()
        if harm["what"] in ("kill", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if harm["what"] == "kill" else signal.SIGSTOP)
        if harm["what"] == "fail":
            raise RuntimeError("this rank fails in its own words")


def steps(folder: Path, rank: int = 0) -> list[tuple[int, float]]:
    """The iterations that a rank has done, in the order in which it did them, and when."""
    path = folder / f"steps_rank{rank}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), float(when)) for number, _, when in (line.partition(" ") for line in lines)]


def repeated(folder: Path) -> int:
    """The steps that were done again."""
    numbers = [number for number, _ in steps(folder)]
    return len(numbers) - len(set(numbers))


def pauses(folder: Path, count: int) -> list[float]:
    """Seconds without a step, the longest, in the order in which they were."""
    times = sorted(time for _, time in steps(folder))
    longest = sorted(range(1, len(times)), key=lambda index: times[index] - times[index - 1])[-count:]
    return [round(times[index] - times[index - 1], 1) for index in sorted(longest)]


def main() -> int:
    torch.set_num_threads(1)
    folder, words = Path(sys.argv[1]), sys.argv[2:]
    train(tiny_config(["OUTPUT_DIR", str(folder / "out"), *words]), callbacks=[Harm(folder)])
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
