"""A real S3 server on this machine (moto's), and a cable before a server that can be cut."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Bucket:
    """A bucket of its own; `endpoint` is that of the server."""

    endpoint: str
    name: str
    client: Any

    @property
    def address(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes | Path) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data if isinstance(data, bytes) else data.read_bytes())

    def put_folder(self, folder: Path, key: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server, in a process of its own."""
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], **quiet)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def make_bucket(endpoint: str, name: str) -> Bucket:
    """A new bucket on a server."""
    import boto3

    session = boto3.session.Session("testing", "testing", region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=name)
    return Bucket(endpoint, name, client)


@dataclass
class Cable:
    """What lies between a client and a server; `cut()` ends what goes through it, and refuses what comes."""

    port: int
    target: int
    connections: int = 0
    drop_every: int = 0  # ends each n-th connection within the answer
    delay: float = 0.0  # seconds that a request takes to the server
    _whole: bool = True
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        self._whole = False
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._whole = True

    def take(self, near: socket.socket) -> None:
        """Serve one connection."""
        self.connections += 1
        if not self._whole:
            near.close()
            return
        far = socket.create_connection(("127.0.0.1", self.target))
        self._open += [near, far]
        drops = self.drop_every and self.connections % self.drop_every == 0
        threading.Thread(target=self.pump, args=(near, far, -1, self.delay), daemon=True).start()
        threading.Thread(target=self.pump, args=(far, near, 700 if drops else -1), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, most: int, delay: float = 0.0) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(delay)
                sink.sendall(data if most < 0 else data[:most])
                most = most - len(data) if most > len(data) else -1 if most < 0 else 0
                if most == 0:
                    break
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@contextlib.contextmanager
def cable_to(endpoint: str) -> Iterator[Cable]:
    """A cable to the server of an endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        cable = Cable(server.getsockname()[1], int(endpoint.rpartition(":")[2]))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    cable.take(server.accept()[0])

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield cable
        finally:
            server.shutdown(socket.SHUT_RDWR)
            cable.cut()
