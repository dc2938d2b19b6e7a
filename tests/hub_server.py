"""A small server that answers as the Hugging Face Hub does, for reading: repositories of tests, on the loopback.

There is no emulator of the Hub. This one gives what its documentation says (huggingface.co/docs/hub/api, and the
OpenAPI description that it names) of a repository and its revision, of the tree with its pages, of single paths, and
of files with the header Range; errors with the Hub's X-Error-Code. Who shows no token is told 401 of what is private
and of what does not exist alike. Writing, LFS and Xet are left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.bucket_server import Store

TOKEN = "hf_ofTheTests"
COMMIT = {"id": "0" * 40, "title": "files", "date": "2026-01-01T00:00:00.000Z"}
PAGE = 3  # entries of a tree in one answer, so that there are several; the Hub's have 1000


@dataclass
class Repository(Store):
    """A data set on the Hub, or a model."""

    endpoint: str
    name: str  # "datasets/owner/name", or "owner/name" of a model
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    scheme = "hf"
    variable = "HF_ENDPOINT"

    def put(self, key: str, data: bytes | Path) -> None:
        self.files[key] = data if isinstance(data, bytes) else data.read_bytes()

    def remove(self, key: str) -> None:
        del self.files[key]

    def content(self, key: str) -> bytes:
        return self.files[key]

    def names(self, below: str = "") -> set[str]:
        return {name.removeprefix(below) for name in self.files if name.startswith(below)}

    def entries(self, below: str, deep: bool) -> list[dict[str, object]]:
        """What the tree has below a folder: files, and the folders between."""
        start = f"{below}/" if below else ""
        found: dict[str, dict[str, object]] = {}
        for path in sorted(self.files):
            if not path.startswith(start):
                continue
            parts = path[len(start) :].split("/")
            for depth in range(1, len(parts)):
                folder = start + "/".join(parts[:depth])
                found[folder] = {"type": "directory", "path": folder, "oid": digest(folder.encode()), "size": 0}
            found[path] = self.entry(path)
        return [entry for path, entry in found.items() if deep or "/" not in path[len(start) :]]

    def entry(self, path: str) -> dict[str, object]:
        data = self.files[path]
        return {"type": "file", "path": path, "oid": digest(data), "size": len(data)}


def digest(data: bytes) -> str:
    """The name that git gives to a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """The server's repositories by name, and what was asked: (method, path, Range)."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def make(self, name: str, private: bool = False) -> Repository:
        self.repositories[name] = Repository(self.endpoint, name, private)
        return self.repositories[name]


class RefusedError(Exception):
    """An answer that is an error: its number, the Hub's word for it, and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request after another on a connection."""

    protocol_version = "HTTP/1.1"
    hub: Hub  # of the server, in a subclass

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_GET  # noqa: N815

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.hub.asked.append((self.command, unquote(url.path), self.headers.get("Range", "")))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            self.route(url.path.lstrip("/").split("/"), parse_qs(url.query), body)
        except RefusedError as error:
            told = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self.send(error.status, json.dumps({"error": error.message}).encode(), told)

    def route(self, parts: list[str], query: dict[str, list[str]], body: bytes) -> None:
        if parts[0] != "api":
            kind = ["datasets"] if parts[0] == "datasets" else []
            repository = self.repository(kind, parts[len(kind) :])
            self.file(repository, "/".join(unquote(part) for part in parts[len(kind) + 4 :]))
            return
        repository = self.repository(["datasets"] if parts[1] == "datasets" else [], parts[2:])
        what, path = (parts[4] if len(parts) > 4 else ""), "/".join(unquote(part) for part in parts[6:])
        if what == "tree":
            self.tree(repository, path, query)
        elif what == "paths-info":
            wanted = parse_qs(body.decode())
            found = [entry for entry in repository.entries("", True) if entry["path"] in wanted["paths"]]
            more = {"lastCommit": COMMIT} if wanted["expand"][0].lower() == "true" else {}
            self.send_json([{**entry, **more} for entry in found])
        else:
            self.send_json({"id": "/".join(parts[2:4]), "sha": "0" * 40, "private": repository.private, "siblings": []})

    def repository(self, kind: list[str], parts: list[str]) -> Repository:
        """The one that is asked for, if it may be seen, in the revision that it has."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            raise RefusedError(401, "", "Invalid credentials in Authorization header")
        found = self.hub.repositories.get("/".join([*kind, *parts[:2]]))
        if not token and (found is None or found.private):
            raise RefusedError(401, "RepoNotFound", "Invalid username or password.")
        if found is None:
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        if len(parts) > 3 and parts[3] not in ("main", "0" * 40):
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {parts[3]}")
        return found

    def tree(self, repository: Repository, path: str, query: dict[str, list[str]]) -> None:
        entries = repository.entries(path, query.get("recursive", ["false"])[0].lower() == "true")
        if path and not entries:
            raise RefusedError(404, "EntryNotFound", f'{path} does not exist on "main"')
        at = int(query.get("cursor", ["0"])[0])
        url = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
        more = {"Link": f'<{url}?{urlencode({**query, "cursor": at + PAGE}, True)}>; rel="next"'}
        self.send_json(entries[at : at + PAGE], more if at + PAGE < len(entries) else {})

    def file(self, repository: Repository, path: str) -> None:
        if path not in repository.files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        data, asked = repository.files[path], self.headers.get("Range", "")
        told = {"ETag": f'"{digest(data)}"', "Accept-Ranges": "bytes", "X-Repo-Commit": "0" * 40}
        if not asked:
            self.send(200, data, told)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        if start > end:
            raise RefusedError(416, "", "Range Not Satisfiable")
        self.send(206, data[start : end + 1], {**told, "Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def send_json(self, content: object, headers: dict[str, str] | None = None) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, quote(value, safe=" \"/:;,.=<>?&-'%"))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):  # who asked went away
                self.wfile.write(data)


@contextlib.contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub with no repositories."""
    hub = Hub()
    handler = type("OfThisHub", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
