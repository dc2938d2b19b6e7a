"""What the tests share: where things lie, and how to run a command as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

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


@pytest.fixture
def run_python(tmp_path: Path) -> Run:
    """Run Python with detframe importable, in an empty folder: run_python("-c", "import detframe")."""

    def run(
        *args: object, cwd: Path | None = None, timeout: float = 120, **env: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
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
