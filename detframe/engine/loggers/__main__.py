"""The process of one logger: replays metrics.jsonl and the pictures of a run, as long as it is written.

    python -m detframe.engine.loggers output/cells mlflow

sends what is there and was not sent before, as after a run whose server was away. With `--follow`, as detframe starts
it, it goes on until a word comes on its standard input: how the run has ended.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml

from detframe.config.imports import import_custom_modules
from detframe.config.plugins import import_plugins
from detframe.engine.loggers import members
from detframe.engine.loggers.base import LoggedRun, RunLogger
from detframe.engine.loggers.sent import Sent, Tail, finite, pictures, placed, run_id
from detframe.registry import LOGGERS

__all__ = ["members"]
LOOK_SECONDS = 1.0  # between two looks at the files
FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0  # before what failed is tried again
SECONDS_WITHOUT_RUN = 60.0  # that are left when the run's process is no more
_ENDS = ("finished", "stopped", "failed")


class Replay:
    """Sends the rows and pictures of a run that were not sent.

    Args:
        make: makes the logger, which may fail and is then tried again.
        say: hears of each failure that is not like the last one.
    """

    def __init__(self, run: LoggedRun, name: str, make: Callable[[LoggedRun], RunLogger], say: Callable[[str], None]):
        self.run, self.name, self.make, self.say = run, name, make, say
        self.sent = Sent.read(run.folder, name) or Sent()
        self.tail = Tail(run.folder)
        self._logger: RunLogger | None = None
        self._said = ""

    def send(self) -> bool:
        """Send what is new; returns whether all is sent."""
        return self._trying(self._send)

    def finish(self, status: str) -> bool:
        """Say how the run has ended; returns whether that was possible."""
        return self._trying(lambda: self._made().finish(status))

    def _trying(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:  # whatever somebody's library meets
            text = f"{type(error).__name__}: {error}".strip()
            if type(error).__name__ != self._said:
                self._said = type(error).__name__
                self.say(text)
            return False
        return True

    def _made(self) -> RunLogger:
        if self._logger is None:
            self._logger = self.make(self.run)
        return self._logger

    def _send(self) -> None:
        logger, anything = self._made(), False
        try:
            for place, row in placed(self.tail.read()):
                if not self.sent.has(place, row):
                    logger.row(row["iteration"], finite(row))
                    self.sent.note(place, row)
                    anything = True
            for iteration, name, path in pictures(self.run.folder):
                if path.name not in self.sent.pictures:
                    logger.picture(iteration, name, path)
                    self.sent.pictures.append(path.name)
                    anything = True
        finally:
            if anything:
                logger.flush()
                self.sent.write(self.run.folder, self.name)


def follow(replay: Replay, ended: threading.Event) -> bool:
    """Send what comes until the run has ended, and then the rest; returns whether all was sent."""
    wait = LOOK_SECONDS
    while not ended.wait(wait):
        failed = not replay.send()
        wait = min(max(2 * wait, FIRST_WAIT), LONGEST_WAIT) if failed else LOOK_SECONDS
    return replay.send()


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings by dotted keys."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 when all was sent."""
    parser = argparse.ArgumentParser(prog="python -m detframe.engine.loggers", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="OUTPUT_DIR of a run")
    parser.add_argument("name", help="which logger: csv, wandb, mlflow or one of your own")
    parser.add_argument("--import", dest="module", default="", help="module or file that registers it")
    parser.add_argument("--follow", action="store_true", help="until standard input says how the run has ended")
    args = parser.parse_args(words)
    if not (args.folder / "config.yaml").is_file():
        parser.error(f"{args.folder} holds no run: there is no config.yaml in it")
    config = yaml.safe_load((args.folder / "config.yaml").read_text(encoding="utf-8"))
    import_plugins()
    import_custom_modules([args.module] if args.module else config.get("CUSTOM_IMPORTS", ()))
    if args.name not in LOGGERS:
        parser.error(f"there is no logger {args.name!r}; known: {', '.join(name for name, _ in LOGGERS)}")
    run = LoggedRun(args.folder, run_id(args.folder), flat(config))
    say = _to_parent() if args.follow else lambda text: _write(sys.stderr, text)
    replay = Replay(run, args.name, LOGGERS.get(args.name), say)
    return _follow(replay) if args.follow else int(not (replay.send() and replay.finish("finished")))


def _to_parent() -> Callable[[str], None]:
    """Lines for the process of the run, on what is standard output now; what libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)

    def say(text: str) -> None:
        _write(channel, text.replace("\n", " "))

    return say


def _write(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()


def _follow(replay: Replay) -> int:
    ended, end = threading.Event(), ["failed"]

    def listen() -> None:
        word = sys.stdin.readline().strip()
        if word in _ENDS:
            end[0] = word
        else:  # the process of the run is no more, and nobody waits for this one
            threading.Timer(SECONDS_WITHOUT_RUN, os._exit, (1,)).start()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    done = follow(replay, ended)
    return int(not (replay.finish(end[0]) and done))


if __name__ == "__main__":
    sys.exit(main())
