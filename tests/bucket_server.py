"""Servers of buckets on this machine, S3's (moto) and Google's (gcp-storage-emulator), and a cable that can be cut."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class Store:
    """A store with files by their names, which is filled without detframe."""

    scheme: ClassVar[str]
    variable: ClassVar[str]  # of the environment, for the endpoint
    environment: ClassVar[dict[str, str]] = {}  # what else its library needs
    endpoint: str  # of the server
    name: str

    @property
    def address(self) -> str:
        return f"{self.scheme}://{self.name}"

    def put(self, key: str, data: bytes | Path) -> None:
        raise NotImplementedError

    def remove(self, key: str) -> None:
        raise NotImplementedError

    def content(self, key: str) -> bytes:
        raise NotImplementedError

    def names(self, below: str = "") -> set[str]:
        """The names that begin so, without that."""
        raise NotImplementedError

    def put_folder(self, folder: Path, key: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path)


@dataclass
class Bucket(Store):
    """A bucket of S3, of its own."""

    endpoint: str
    name: str
    client: Any
    scheme = "s3"
    variable = "AWS_ENDPOINT_URL"
    environment = KEYS

    def put(self, key: str, data: bytes | Path) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data if isinstance(data, bytes) else data.read_bytes())

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def content(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def names(self, below: str = "") -> set[str]:
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=below).get("Contents", [])
        return {entry["Key"].removeprefix(below) for entry in found}


@dataclass
class GoogleBucket(Store):
    """A bucket of Google Cloud Storage, of its own, through its JSON API (cloud.google.com/storage/docs/json_api)."""

    endpoint: str
    name: str
    scheme = "gs"
    variable = "STORAGE_EMULATOR_HOST"
    environment: ClassVar[dict[str, str]] = {"FSSPEC_GS_TOKEN": "anon"}

    def put(self, key: str, data: bytes | Path) -> None:
        head = b"--part\r\nContent-Type: application/json\r\n\r\n" + json.dumps({"name": key}).encode()
        head += b"\r\n--part\r\nContent-Type: application/octet-stream\r\n\r\n"
        body = head + (data if isinstance(data, bytes) else data.read_bytes()) + b"\r\n--part--"
        self.ask("POST", f"upload/storage/v1/b/{self.name}/o?uploadType=multipart", body)

    def remove(self, key: str) -> None:
        self.ask("DELETE", f"storage/v1/b/{self.name}/o/{quote(key, safe='')}")

    def content(self, key: str) -> bytes:
        return self.ask("GET", f"storage/v1/b/{self.name}/o/{quote(key, safe='')}?alt=media")

    def names(self, below: str = "") -> set[str]:
        found = json.loads(self.ask("GET", f"storage/v1/b/{self.name}/o?prefix={quote(below, safe='')}"))
        return {entry["name"].removeprefix(below) for entry in found.get("items", [])}

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "multipart/related; boundary=part"} if body else {}
        request = urllib.request.Request(f"{self.endpoint}/{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def s3_server() -> contextlib.AbstractContextManager[str]:
    """The endpoint of an S3 server."""
    return _own_process("moto.server")


def google_server() -> contextlib.AbstractContextManager[str]:
    """The endpoint of a server of Google Cloud Storage."""
    return _own_process("gcp_storage_emulator", "start", "--in-memory", "--host", "127.0.0.1")


@contextlib.contextmanager
def _own_process(*module: str) -> Iterator[str]:
    """The endpoint of a server that a module of Python is, which takes a port with "--port"."""
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", *module, "--port", str(port)], **quiet)
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


def make_google_bucket(endpoint: str, name: str) -> GoogleBucket:
    """A new bucket on a server of Google's."""
    bucket = GoogleBucket(endpoint, name)
    request = urllib.request.Request(
        f"{endpoint}/storage/v1/b?project=tests",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30):
        return bucket


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
    _carriers: list[threading.Thread] = field(default_factory=list)
    _removed: threading.Event = field(default_factory=threading.Event)

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
        carrier = threading.Thread(target=self._carry, args=(near, far, 700 if drops else -1), daemon=True)
        carrier.start()
        self._carriers.append(carrier)

    def remove(self) -> None:
        """Cut, and wait until nothing of the cable runs any more."""
        self.cut()
        self._removed.set()
        for carrier in self._carriers:
            carrier.join()

    def _carry(self, near: socket.socket, far: socket.socket, most: int) -> None:
        with near, far:  # closed after both ways have ended: the number of a closed socket may be another's soon
            back = threading.Thread(target=self._pump, args=(far, near, most), daemon=True)
            back.start()
            self._pump(near, far, -1, self.delay)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, most: int, delay: float = 0.0) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._removed.wait(delay)
                sink.sendall(data if most < 0 else data[:most])
                most = most - len(data) if most > len(data) else -1 if most < 0 else 0
                if most == 0:
                    break
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cable_to(endpoint: str) -> Iterator[Cable]:
    """A cable to the server of an endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        cable = Cable(server.getsockname()[1], int(endpoint.rpartition(":")[2]))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    cable.take(server.accept()[0])

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        try:
            yield cable
        finally:
            server.shutdown(socket.SHUT_RDWR)
            serving.join()  # it may be taking a connection
            cable.remove()
