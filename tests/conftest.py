"""What the tests share: where things lie, and how to run a command as a user does."""

from __future__ import annotations

import http.server
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tiers import pytest_addoption, pytest_collection_modifyitems, pytest_configure  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
os.environ.pop("DETFRAME_DATASETS", None)  # the data of whoever runs the tests are none of theirs

Site = tuple[dict[str, tuple[bytes, int]], list[str], str]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared(root: Path) -> Path:
    """The folder ../shared with real data and reference files; tests that need it skip where it is absent."""
    folder = root.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} with real data and reference files is not on this machine")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Tests that export skip where PyTorch is too old for it, with export's own words."""
    with _skipping_old_exporters():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """As above, of what a test does itself."""
    with _skipping_old_exporters():
        return (yield)


@contextmanager
def _skipping_old_exporters() -> Iterator[None]:
    try:
        yield
    except (ValueError, AssertionError) as error:  # the latter where the test expects another message
        if can_export() or "an export needs PyTorch" not in str(error):
            raise
        pytest.skip(str(error))


def can_export() -> bool:
    """Whether PyTorch is new enough for `detframe export`."""
    from detframe.errors import InvalidValueError
    from detframe.export.graph import check_exporter

    try:
        check_exporter()
    except InvalidValueError:
        return False
    return True


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Every test begins with the log as an import leaves it.

    Handlers that a command run in this process adds write to a stream that ends with its test; where a fixture of a
    module or session ran it, they would be there in all tests that follow.
    """
    _reset_logs()
    yield
    _reset_logs()


def _reset_logs() -> None:
    os.environ.pop("DETFRAME_VERBOSITY", None)  # as a command with --quiet leaves it
    for name in ("detframe", "py.warnings"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [], True
        log.setLevel(logging.NOTSET)


@pytest.fixture
def heard_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A signal that the code under test does not hear, or takes for a second one, fails the test.

    Else it would end the process of the tests, and nothing would tell why.
    """
    from detframe.parallel import stopping

    def unheard(number: int, frame: object) -> None:
        threads = ", ".join(thread.name for thread in threading.enumerate())
        raise AssertionError(
            f"nobody handles {signal.Signals(number).name}; in work: {stopping._active}; this thread is "
            f"{threading.current_thread()}, the main one {threading.main_thread()}; threads: {threads}"
        )

    ends: list[tuple[int, int, str]] = []
    monkeypatch.setattr(stopping, "_end_process", lambda *how: ends.append(how))
    before = {number: signal.signal(number, unheard) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    assert not ends, f"the process would have been ended: {ends}"


@pytest.fixture
def run_python(tmp_path: Path) -> Run:
    """Run Python with detframe importable, in an empty folder: run_python("-c", "import detframe")."""

    def run(
        *args: object, cwd: Path | None = None, timeout: float = 300, **env: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
        environment["PYTEST_DEBUG_TEMPROOT"] = str(tmp_path)  # a pytest in it deletes folders of earlier runs: not ours
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "DETFRAME_DEBUG"):
            if name not in env:
                environment.pop(name, None)
        return subprocess.run(
            [sys.executable, *(str(a) for a in args)],
            cwd=cwd or tmp_path,
            env=environment,
            timeout=timeout,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A loopback server in place of the network, the cache being tmp_path/cache.

    Gives its files (path -> content and promised length), the requests that came, and its address.
    """
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DETFRAME_OFFLINE", raising=False)
    files: dict[str, tuple[bytes, int]] = {}
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            content, promised = files.get(self.path, (None, 0))
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield files, requests, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def own_sections() -> Iterator[None]:
    """Sections that outside code adds to the config during a test are gone after it, and its modules with them."""
    with sections_as_before():
        yield


@contextmanager
def sections_as_before() -> Iterator[None]:
    """As `own_sections`, for fixtures of a module."""
    from detframe.config import imports
    from detframe.config.keys import SCHEMA, all_keys

    top, model, modules, files = dict(SCHEMA), dict(SCHEMA["MODEL"]), set(sys.modules), dict(imports._imported)
    yield
    imports._imported.clear()
    imports._imported.update(files)
    for section, before in ((SCHEMA["MODEL"], model), (SCHEMA, top)):
        section.clear()
        section.update(before)
    all_keys.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith("detframe_custom_"):
            del sys.modules[name]
