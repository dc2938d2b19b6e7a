"""Where what torch.compile makes is kept, so that the next process need not make it again, and what it needs."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch

from detframe.config.paths import cache_home, cache_is_off
from detframe.errors import InvalidValueError

logger = logging.getLogger(__name__)
_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
# Of graphs, and of their forward and backward parts before code is made of them; PyTorch reads these once
_SWITCHES = ("TORCHINDUCTOR_FX_GRAPH_CACHE", "TORCHINDUCTOR_AUTOGRAD_CACHE")
_SMALLEST = "import torch; torch.compile(torch.nn.functional.relu)(torch.ones(64))"


def keep_cache() -> None:
    """From now on graphs are kept in `compiled` below DETFRAME_CACHE, else ~/.cache/detframe.

    What the user has said with PyTorch's own variables stays, and with DETFRAME_CACHE "off" nothing is said. Where the
    folder cannot be made, graphs lie where PyTorch puts them, and the log says so.
    """
    if cache_is_off():
        return
    folder = cache_home() / "compiled"
    if _FOLDER not in os.environ or _is_pytorchs(os.environ[_FOLDER]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning(
                "MODEL.COMPILE: graphs cannot be kept in %s (%s); see DETFRAME_CACHE", folder, error.strerror
            )
        else:
            os.environ[_FOLDER] = str(folder)
    for name in _SWITCHES:
        os.environ.setdefault(name, "1")


def _is_pytorchs(folder: str) -> bool:
    """Whether nobody but PyTorch itself chose a folder: where it is imported, some versions set the variable to that of
    their own, for each user a folder among the temporary files."""
    path = Path(folder)
    return path.name.startswith("torchinductor_") and path.parent == Path(tempfile.gettempdir())


class CompileCache:
    """What is in the folder of graphs, and what has come since it was last asked for."""

    def __init__(self) -> None:
        self._before = self._count()

    def news(self) -> str:
        """What has come into the folder since the last call, in words for the log."""
        before, self._before = self._before, self._count()
        folder = os.environ.get(_FOLDER, "")
        if not folder:
            return "not kept by detframe"
        new = self._before - before
        return f"{new} new files in {folder}" if new else f"all from {folder}"

    def _count(self) -> int:
        folder = os.environ.get(_FOLDER, "")
        return sum(len(files) for _, _, files in os.walk(folder)) if folder else 0

    @property
    def empty(self) -> bool:
        """Whether there is a folder, with nothing in it."""
        return bool(os.environ.get(_FOLDER)) and self._before == 0


def prepare_tools() -> None:
    """Have another process make what graphs of any kind need, while this one traces its first, which takes as long.

    Before the first of its files, the compiler of a CPU tries which instructions there are and translates the headers
    that all of them include, one after the other. Whoever comes first makes these, and others wait for it. It may fail:
    then all is as without it. Of several processes of a machine the first one does it.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        threading.Thread(target=_make_smallest, daemon=True).start()


def _make_smallest() -> None:
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with contextlib.suppress(OSError):  # where Python is part of another program, say
        # a session of its own: signals that end a run are not for it
        subprocess.run([sys.executable, "-c", _SMALLEST], check=False, start_new_session=True, **quiet)


def check_tools(device: torch.device) -> None:
    """What makes machine code of a graph must be there.

    Raises:
        ValueError: what is missing, and how to do without.
    """
    off = "or set MODEL.COMPILE off"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise InvalidValueError(f"MODEL.COMPILE on a GPU needs the package triton: pip install triton, {off}")
    if device.type != "cpu":
        return
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise InvalidValueError(
            f"MODEL.COMPILE on the CPU needs a C++ compiler, and there is no {compiler!r}: install one (g++, on Debian "
            f"and Ubuntu), name it in the environment variable CXX, {off}"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise InvalidValueError(
            f"MODEL.COMPILE on the CPU needs the headers of Python, and there is no {header}: install them "
            f"(python3-dev on Debian and Ubuntu), {off}"
        )
