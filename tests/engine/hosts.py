"""Hosts for the tests: network name spaces of this machine on one bridge, whose cables can be pulled."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

MEETING = "10.77.0.1"
PORT = 29400
# The meeting place of torchrun, on a host of its own that is never lost
MEET = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore(sys.argv[1], int(sys.argv[2]), is_master=True, wait_for_workers=False)
print("here", flush=True)
time.sleep(600)
"""


def ip(*words: object) -> subprocess.CompletedProcess[str]:
    """The command ip of Linux."""
    return subprocess.run(["ip", *map(str, words)], capture_output=True, text=True)


class Hosts:
    """A meeting place and hosts "a", "b", ..., each with the address 10.77.0.11 and on."""

    def __init__(self, count: int) -> None:
        self.names = [chr(ord("a") + index) for index in range(count)]
        self.started: list[subprocess.Popen[str]] = []

    def space(self, name: str) -> str:
        """The name space of a host."""
        return f"detframe_{os.getpid()}_{name}"

    def build(self) -> None:
        """Make them; OSError where that is not permitted."""
        for name in ("meet", *self.names):
            self._do("netns", "add", self.space(name))
            self._do("-n", self.space(name), "link", "set", "lo", "up")
        meet = self.space("meet")
        self._do("-n", meet, "link", "add", "hub", "type", "bridge")
        self._do("-n", meet, "addr", "add", f"{MEETING}/24", "dev", "hub")
        self._do("-n", meet, "link", "set", "hub", "up")
        for index, name in enumerate(self.names):
            host = self.space(name)
            self._do("link", "add", f"to_{name}", "netns", meet, "type", "veth", "peer", "name", "eth0", "netns", host)
            self._do("-n", meet, "link", "set", f"to_{name}", "master", "hub", "up")
            self._do("-n", host, "addr", "add", f"10.77.0.{11 + index}/24", "dev", "eth0")
            self._do("-n", host, "link", "set", "eth0", "up")

    def _do(self, *words: str) -> None:
        done = ip(*words)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        self._do("-n", self.space("meet"), "link", "set", f"to_{name}", "down")

    def retry(self, name: str, times: int) -> None:
        """So often a host's kernel sends again what is not answered, before the connection is broken."""
        order = f"echo {times} > /proc/sys/net/ipv4/tcp_retries2"
        self._do("netns", "exec", self.space(name), "sh", "-c", order)

    def mend(self, name: str) -> None:
        """Put it back."""
        self._do("-n", self.space("meet"), "link", "set", f"to_{name}", "up")

    def run(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start a program on a host, which has a host name of its own."""
        inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', f"host-{name}", *command]
        with log.open("a") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.space(name), *inside],
                **{"env": {**os.environ, **env}, "stdout": file, "stderr": subprocess.STDOUT, "text": True},
            )
        self.started.append(process)
        return process

    def meet(self, log: Path) -> None:
        """Open the meeting place."""
        self.run("meet", [sys.executable, "-c", MEET, MEETING, str(PORT)], log, {})
        wait_for(lambda: "here" in log.read_text(), 60)

    def torchrun(self, name: str, least: int, script: Sequence[str], log: Path, env: Mapping[str, str]):
        """Train on a host with the others; torchrun is started again when it fails, as by a system's services."""
        conf = "is_host=0,last_call_timeout=1,join_timeout=60,keep_alive_interval=1,keep_alive_max_attempt=3"
        launch = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={least}:{len(self.names)}"),
            *("--nproc-per-node=1", "--max-restarts=5", "--rdzv-backend=c10d", f"--rdzv-conf={conf}"),
            *(
                f"--rdzv-endpoint={MEETING}:{PORT}",
                f"--rdzv-id={log.parent.name}",
                f"--local-addr=10.77.0.{11 + self.names.index(name)}",
            ),
        ]
        service = 'for attempt in 1 2 3 4 5 6 7 8; do "$@" && exit 0; echo "SERVICE again"; sleep 1; done; exit 1'
        own = {"GLOO_SOCKET_IFNAME": "eth0", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
        return self.run(name, ["bash", "-c", service, "service", *launch, *script], log, {**own, **env})

    def close(self) -> None:
        """End all that runs there, and remove them."""
        for name in ("meet", *self.names):
            for pid in ip("netns", "pids", self.space(name)).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for process in self.started:
            process.wait()
        for name in ("meet", *self.names):
            ip("netns", "del", self.space(name))


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """That many hosts; the test is skipped where this machine allows none."""
    out = Hosts(count)
    try:
        try:
            out.build()
        except OSError as error:
            pytest.skip(f"network name spaces are not permitted here: {error}")
        yield out
    finally:
        out.close()


def wait_for(condition, seconds: float, what: str = "", pause: float = 0.05) -> float:
    """Wait until something is so; returns how long that took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"not so after {seconds} s: {what or condition}")
        time.sleep(pause)
    return time.monotonic() - begun
