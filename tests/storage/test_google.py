"""gs:// where access is refused or the server is busy, as Google Cloud Storage says it, and credentials of gcsfs's."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator

import pytest

from detframe.errors import NoPermissionError, UnreachableError
from detframe.storage import Settings, opened, stores, using
from detframe.storage.faults import explained
from detframe.storage.folders import StoreFolder
from tests.bucket_server import GoogleBucket
from tests.storage.conftest import lead_to


@contextlib.contextmanager
def answering(answers: list[tuple[int, str]]) -> Iterator[str]:
    """A server that gives these answers, (number, message), the last one for ever, in the form of the JSON API."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            status, message = answers.pop(0) if len(answers) > 1 else answers[0]
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            error = {"code": status, "message": message, "errors": [{"domain": "global", "message": message}]}
            body = message.encode() if status == 200 else json.dumps({"error": error}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET  # noqa: N815

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def _google(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gcsfs")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object."),
        (403, "me@x.iam.gserviceaccount.com does not have storage.objects.get access, or the object does not exist."),
    ],
)
def test_access_that_is_refused(monkeypatch: pytest.MonkeyPatch, status: int, message: str) -> None:
    with answering([(status, message)]) as endpoint:
        lead_to(GoogleBucket(endpoint, "private"), endpoint, monkeypatch)
        for act in (
            lambda: opened("gs://private/1.jpg"),
            lambda: stores.facts_of("gs://private/1.jpg"),
            lambda: stores.fetch_part("gs://private/1.jpg", 3, 5),
            lambda: stores.objects_below("gs://private/images"),
            StoreFolder("gs://private/run").check_writable,
        ):
            begun = time.monotonic()
            with pytest.raises(NoPermissionError) as error:
                act()
            said = str(error.value)
            assert " may not be used: access was refused" in said and "GOOGLE_APPLICATION_CREDENTIALS, or" in said
            assert "gserviceaccount" not in said and time.monotonic() - begun < 5


def test_a_busy_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = [(429, "rate limit"), (503, "backend error"), (502, "bad gateway"), (200, "one")]
    with answering(busy) as endpoint:
        lead_to(GoogleBucket(endpoint, "busy"), endpoint, monkeypatch)
        with opened("gs://busy/1.jpg") as file:
            assert file.read() == b"one"
    assert len(busy) == 1


def test_a_server_that_stays_busy_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering([(503, "backend error")]) as endpoint:
        lead_to(GoogleBucket(endpoint, "busy"), endpoint, monkeypatch)
        begun = time.monotonic()
        with using(Settings(retry_seconds=1.5)), pytest.raises(UnreachableError, match=r"HTTP 503, \d tries in"):
            opened("gs://busy/1.jpg")
        assert time.monotonic() - begun < 5  # gcsfs alone asks six times in half a minute


def test_credentials_that_cannot_be_used() -> None:
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    for error in (DefaultCredentialsError("none"), RefreshError("invalid_grant: Token has been expired or revoked.")):
        known = explained(error, "gs://b/1.jpg")
        assert isinstance(known, NoPermissionError)
        assert "Credentials are taken from GOOGLE_APPLICATION_CREDENTIALS" in str(known) and "expired" not in str(known)
