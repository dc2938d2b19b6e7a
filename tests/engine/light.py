"""What the tests run in processes of their own, without torch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def end_rank_one(kind):
    """Rank 1 ends without a word; rank 0 waits."""
    if os.environ["RANK"] == "1":
        if kind == "exit":
            raise SystemExit(7)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def environment(*names):
    """Some variables of the environment."""
    return [os.environ[name] for name in names]


def save_when_stopped(folder):
    """Wait for a signal, save for a while, and tell that it came."""
    from detframe.parallel.stopping import RunStopped, StopSignals

    stop = StopSignals()
    rank = os.environ["RANK"]
    with stop.handled():
        Path(folder, f"ready{rank}").touch()
        try:
            with stop.at_once():
                time.sleep(60)
        except RunStopped:
            time.sleep(0.5 + int(rank))
            Path(folder, f"saved{rank}").touch()
            raise


def never_stop(folder):
    """Note signals, and go on."""
    from detframe.parallel.stopping import StopSignals

    with StopSignals().handled():
        Path(folder, f"ready{os.environ['RANK']}").touch()
        time.sleep(60)


def signal_when_ready(folder, count, signum):
    """Send this process a signal when so many others are ready."""
    for _ in range(600):
        if len(list(Path(folder).glob("ready*"))) == count:
            break
        time.sleep(0.1)
    os.kill(os.getpid(), signum)
