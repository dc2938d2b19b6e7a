"""A process that holds one file, a checkpoint or an exported one, and runs it when asked, timing itself.

It has the memory and the threads of one user's process; a file that needs no torch runs without it.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from detframe.errors import InvalidValueError, UserError

Arrays = dict[str, np.ndarray]
Run = Callable[[np.ndarray, np.ndarray], Arrays]


@dataclass(frozen=True)
class Facts:
    """What a process says of its file once it is loaded.

    Args:
        format, precision, runtime: in words.
        config: YAML.
        class_names: of the model.
        class_agnostic, pixel: as in ModelCard.
        static_hw: (H, W) of its plane; None: any.
        batch: images at once; None: any number.
        min_size, max_size: how images are resized where the plane is free.
        load_s: seconds from the start of its imports until it was ready.
    """

    format: str
    precision: str
    runtime: str
    config: str
    class_names: tuple[str, ...]
    class_agnostic: bool
    pixel: float
    static_hw: tuple[int, int] | None
    batch: int | None
    min_size: int
    max_size: int
    load_s: float


class Worker:
    """A process with one file.

    Args:
        path: of the file.
        device: "auto", "cpu" or "cuda".
        threads: that it computes with; 0: as many as its runtime likes.
        allow_custom_imports: of a checkpoint, as `Detector.load`.

    Raises:
        FileNotFoundError, ValueError, ImportError: what loading the file raises.
    """

    def __init__(self, path: Path, device: str, threads: int, allow_custom_imports: bool = False) -> None:
        self.path = path
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        arguments = (other, path, device, threads, allow_custom_imports)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        try:
            self.facts: Facts = self._received()
        except BaseException:
            self.close()
            raise

    def run(self, images: np.ndarray, sizes: np.ndarray) -> tuple[float, Arrays]:
        """Seconds and what was found, as `Session.run` gives it."""
        seconds, found = self._answer((images, sizes))
        return seconds, found

    def peak_memory(self) -> int:
        """Bytes that the process has had at most, libraries included."""
        return int(self._answer(None))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _answer(self, question: Any) -> Any:
        try:
            self._pipe.send(question)
        except OSError:
            raise self._ended() from None
        return self._received()

    def _ended(self) -> InvalidValueError:
        self._process.join(timeout=5)
        return InvalidValueError(
            f"the process that runs {self.path} has ended by itself (exit code {self._process.exitcode}): there may "
            "not be enough memory; try fewer images at once"
        )

    def _received(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _serve(pipe: Connection, path: Path, device: str, threads: int, allow_custom_imports: bool) -> None:
    """What the process does: load, then answer until the other end is closed."""
    try:
        run, facts = _load(path, device, threads, allow_custom_imports)
        pipe.send(facts)
        while True:
            asked = pipe.recv()
            if asked is None:
                pipe.send(_peak_memory())
                continue
            start = time.perf_counter()
            found = run(*asked)
            pipe.send((time.perf_counter() - start, found))
    except (EOFError, KeyboardInterrupt):
        return
    except (UserError, OSError) as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"the process that runs {path} failed:\n{traceback.format_exc()}"))


def _load(path: Path, device: str, threads: int, allow_custom_imports: bool) -> tuple[Run, Facts]:
    from detframe.backends import is_exported

    if is_exported(path):
        return _exported(path, device, threads)
    return _checkpoint(path, device, threads, allow_custom_imports)


def _exported(path: Path, device: str, threads: int) -> tuple[Run, Facts]:
    start = time.perf_counter()
    from detframe.backends import open_model

    session = open_model(path, device, threads or None)
    card = session.card
    facts = Facts(
        session.format,
        card.precision,
        session.runtime,
        card.config,
        card.class_names,
        card.class_agnostic,
        card.pixel,
        card.input.static_hw,
        card.input.batch,
        card.input.min_size,
        card.input.max_size,
        time.perf_counter() - start,
    )
    return session.run, facts


def _checkpoint(path: Path, device: str, threads: int, allow_custom_imports: bool) -> tuple[Run, Facts]:
    start = time.perf_counter()
    import torch

    from detframe.inference import Detector

    if threads:
        torch.set_num_threads(threads)
    detector = Detector.load(path, device, amp="off", allow_custom_imports=allow_custom_imports)
    model, size = detector.model, detector.cfg.INPUT
    seconds = time.perf_counter() - start

    def run(images: np.ndarray, sizes: np.ndarray) -> Arrays:
        pixels = [torch.from_numpy(image[:, :h, :w]) for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
        with torch.inference_mode():
            return _stacked(model(pixels, paste_masks=False))

    facts = Facts(
        "checkpoint",
        "fp32",
        f"torch {torch.__version__}, eager",
        detector.cfg.dump(),
        tuple(detector.class_names),
        model.class_agnostic,
        model.pixel,
        None,
        None,
        size.MIN_SIZE_TEST,
        size.MAX_SIZE_TEST,
        seconds,
    )
    return run, facts


def _stacked(predictions: list[Any]) -> Arrays:
    """Predictions of a model in the form of an exported file: as many rows for each image, and their count."""
    count = np.array([len(one["scores"]) for one in predictions])
    out: Arrays = {"count": count}
    for name in predictions[0]:
        values = [one[name] for one in predictions]
        parts = [(value.probs if name == "masks" else value).cpu().numpy() for value in values]
        stacked = np.zeros((len(parts), count.max(initial=0), *parts[0].shape[1:]), dtype=parts[0].dtype)
        for row, part in zip(stacked, parts, strict=True):
            row[: len(part)] = part
        out[name] = stacked
    return out


def _peak_memory() -> int:
    """Bytes. Linux counts what a process was before it became this one to getrusage's number; not to VmHWM."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next((row for row in status.read_text(encoding="utf-8").splitlines() if row.startswith("VmHWM")), "")
        if line:
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
