"""The Hugging Face hub as far as publishing and fetching a model needs it, answering on the loopback."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_me"


@dataclass
class Repo:
    """Files by name, of one branch; its commit is the digest of all."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class FakeHub:
    """Repositories by name, the requests that came, and the server's address."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        self.broken = False  # answers 500 to everything

        class Handler(_Handler):
            hub = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path).strip("/")
        if self.hub.broken:
            return self._error(500, "")
        if path == "api/whoami-v2":
            return self._json({"name": "me"}) if self._is_me() else self._error(401, "")
        if path.startswith("api/models/"):
            return self._about(*path.removeprefix("api/models/").split("/"))
        name, _, rest = path.partition("/resolve/")
        return self._file(name, *rest.split("/", 1))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path).strip("/")
        if not self._is_me():
            return self._error(401, "")
        if path == "api/repos/create":
            return self._create(json.loads(body))
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        name, what = "/".join(path.split("/")[2:4]), path.split("/")[4]
        if what == "preupload":
            named = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": named})
        for entry in map(json.loads, body.splitlines()):
            if entry["key"] == "file":
                self.hub.repos[name].files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self._json({"commitUrl": f"{self.hub.address}/{name}/commit/1", "commitOid": self.hub.repos[name].sha})

    def _is_me(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _create(self, wanted: dict) -> None:
        name = "/".join(filter(None, (wanted.get("organization") or "me", wanted["name"])))
        if name in self.hub.repos:
            return self._json({"url": f"{self.hub.address}/{name}"}, 409)
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repos[name] = Repo(bool(private))
        return self._json({"url": f"{self.hub.address}/{name}"})

    def _repo(self, name: str, revision: str) -> Repo | None:
        """The repository, or None where the answer has been given."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self._is_me()):
            self._error(404 if self._is_me() else 401, "RepoNotFound")
        elif revision not in ("main", repo.sha):
            self._error(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _about(self, owner: str, name: str, what: str = "revision", revision: str = "main", *_: str) -> None:
        repo = self._repo(f"{owner}/{name}", revision)
        if repo is None:
            return None
        if what == "tree":
            rows = [{"type": "file", "path": n, "size": len(c), "oid": _oid(c)} for n, c in repo.files.items()]
            return self._json(rows)
        siblings = [{"rfilename": n} for n in repo.files]
        return self._json({"id": f"{owner}/{name}", "sha": repo.sha, "private": repo.private, "siblings": siblings})

    def _file(self, name: str, revision: str, file: str) -> None:
        repo = self._repo(name, revision)
        if repo is None:
            return
        if file not in repo.files:
            return self._error(404, "EntryNotFound")
        content = repo.files[file]
        self._answer(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": repo.sha})

    def _json(self, value: object, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code} if code else {})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _oid(content: bytes) -> str:
    """As git calls it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
