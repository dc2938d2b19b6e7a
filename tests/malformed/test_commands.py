"""The command line: every option of every command with words that do not belong there, and files that are none."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from detframe.cli import common
from detframe.cli.arguments import parse
from detframe.cli.main import COMMANDS, main
from detframe.errors import InvalidValueError
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import clear, no_files

WORDS = {
    "nothing": "",
    "a space": " ",
    "text": "text",
    "minus one": "-1",
    "zero": "0",
    "half": "0.5",
    "two": "2",
    "1e3": "1e3",
    "1e999": "1e999",
    "2**63": str(2**63),
    "5000 digits": "9" * 5000,
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "other digits": "\u0662",
    "two words": "2 2",
    "None": "None",
    "a list": "[1]",
    "control characters": "a\x1b[31mb\x01",
    "half a character": "a\udcffb",
    "a long word": "long" * 50_000,
    "an option": "--nothing",
    "an equals sign": "A=B",
}
# What a command cannot do without, so that the other options are read
NEEDED = {
    "train-efpn": ["--stages", "x"],
    "predict": ["--weights", "x", "--input", "x", "--output", "x"],
    "shrink-data": ["--datasets", "x", "--output", "x"],
    "shard-data": ["--datasets", "x", "--output", "x"],
    "translate-config": ["x"],
    "import-weights": ["--output", "x"],
    "export-weights": ["--weights", "x", "--to", "torchvision", "--output", "x"],
    "replay": ["x"],
}
# Options that take a file, and the rest of a command that reads it at once
READS = {
    "train": ["--config-file"],
    "evaluate": ["--config-file"],
    "analyze": ["--config-file"],
    "visualize-data": ["--config-file"],
    "translate-config": [],
    "replay": [],
    "predict": ["--input", "picture.png", "--output", "out", "--weights"],
    "export-weights": ["--to", "torchvision", "--output", "out.pth", "--weights"],
    "import-weights": ["--output", "out.pth", "--classes", "a", "b", "--weights"],
    "train-efpn": ["--stages"],
    "shrink-data": ["--datasets", "x", "--output", "out", "--catalog"],
    "shard-data": ["--datasets", "x", "--output", "out", "--catalog"],
}
CONTENTS = {"empty": b"", "text": b"some text\n", "bytes": bytes(range(256)), "NULs": b"\0" * 99}
IMPORTED = ("detframe.engine.run", "detframe.engine.replaying", "detframe.inference", "detframe.compat.export")
TAILS = {
    "analyze": ["MODEL.BACKBONE.CONV_BODY", "nothing"],  # an empty config would be analyzed
    "import-weights": ["MODEL.NUM_CLASSES", "2"],
}
OVERRIDES = (
    ["SEED"], ["SEED", "1", "MODEL"], ["SEED=1"], ["seed", "1"], ["MODEL", "x"], ["MODEL.", "x"], [".", "x"],
    ["", ""], ["SOLVER.BASE_LR", "fast"], ["SOLVER.BASE_LR", "nan"], ["SOLVER.BASE_LR", "-1"], ["SEED", "0.5"],
    ["--SEED", "1"], ["MODEL.RPN.NAME", "FCSO"], ["MODEL.BACKBONE.CONV_BODY", "R-51-FPN"], ["SOLVER.STEPS", "(1,"],
    ["SOLVER.STEPS", "[" * 1000], ["DATASETS.TRAIN", "nothing"], ["MODEL.DEVICE", "cudaa"], ["MODEL.DEVICE", ""],
    ["MODEL.WEIGHTS", "nowhere.pth"], ["MODEL.WEIGHTS", "http://"], ["MODEL.WEIGHTS", "torchvision://X"],
    ["OUTPUT_DIR", "/proc/x"], ["OUTPUT_DIR", "/dev/null"], ["OUTPUT_DIR", "picture.png"], ["OUTPUT_DIR", "a" * 5000],
    ["CUSTOM_IMPORTS", "nothing_here"], ["CUSTOM_IMPORTS", "nothing.py"], ["CUSTOM_IMPORTS", ".."],
)  # fmt: skip


def cases(folder: Path) -> Iterator[Case]:
    for module in IMPORTED:  # which cannot be imported once memory is limited
        importlib.import_module(module)
    os.chdir(folder)
    (folder / "picture.png").write_bytes(b"no picture")
    yield from of_options()
    yield from of_files(folder)
    yield from of_overrides()
    for words in (["nothing"], ["--nothing"], [""], ["trian"], ["a\x1b[31m"], ["train", "--config-fil"], ["x" * 10**5]):
        yield Case(f"detframe {words[0][:20]!r}", lambda w=words: run(w), ("command", "config-file"))


def options(parser: ArgumentParser) -> Iterator[tuple[str, Any]]:
    for action in parser._actions:
        if action.option_strings and action.nargs != 0:
            yield action.option_strings[0], action


def of_options() -> Iterator[Case]:
    """Only the reading of the words; what they would start is not begun."""
    for command in COMMANDS:
        for option, _ in options(parser_of(command)):
            for what, word in WORDS.items():
                words = [*NEEDED.get(command, []), option, word]
                yield Case(f"{command} {option} {what}", lambda c=command, w=words: parsed(c, w), (option, "usage"))


def parser_of(command: str) -> ArgumentParser:
    """The parser of a command, caught when it is asked to parse."""
    found: list[ArgumentParser] = []

    def catch(parser: ArgumentParser, *_: Any) -> Namespace:
        found.append(parser)
        raise InvalidValueError("caught")

    module = importlib.import_module(COMMANDS[command][0])
    with patched("parse", catch, module), contextlib.suppress(InvalidValueError):
        module.main([])
    return found[0]


@contextlib.contextmanager
def patched(name: str, instead: Any, module: Any) -> Iterator[None]:
    """A function that commands call themselves, or through `run_command`, replaced in both places."""
    with contextlib.ExitStack() as stack:
        for home in (common, module):
            if hasattr(home, name):
                stack.enter_context(mock.patch.object(home, name, instead))
        yield


def parsed(command: str, words: list[str]) -> str:
    """Read the words; raises NonsenseError for numbers that make no sense, InvalidValueError where argparse refuses."""
    module, seen = importlib.import_module(COMMANDS[command][0]), []
    with (
        patched("guard", lambda *_: 0, module),
        patched("parse", lambda *given: seen.append(parse(*given)) or seen[0], module),
    ):
        said = ended(lambda: module.main(words))
    if said is not None:
        raise InvalidValueError(said)
    for key, value in vars(seen[0]).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(n, int | float) and not (math.isfinite(n) and 0 <= n < 2**31) for n in numbers):
            raise NonsenseError(f"{key} is {value}")
    return READ


def ended(body: Callable[[], int]) -> str | None:
    """What a command said on the standard error when it ended with 2; None where it ended with 0."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = body()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    if code not in (0, 2):
        raise RuntimeError(f"exit code {code}: {stderr.getvalue()[-1000:]}")
    return stderr.getvalue() if code == 2 else None


def run(words: list[str]) -> str:
    """Run a command; InvalidValueError with what it said where it ended with 2."""
    said = ended(lambda: main(words))
    if said is not None:
        raw = said.encode("utf-8", "backslashreplace").decode()
        if raw != said or "Traceback" in said:
            raise NonsenseError(f"{said!r}")
        raise InvalidValueError(said)
    return READ


def of_files(folder: Path) -> Iterator[Case]:
    """A file that is none, for each option that reads one."""
    path = folder / "given.file"
    for command, before in READS.items():
        things = dict(no_files(path, endless=True))
        for what, data in {
            "empty": b"",
            "text": b"some text\n",
            "bytes": bytes(range(256)),
            "NULs": b"\0" * 99,
        }.items():
            things[what] = lambda d=data: path.write_bytes(d)
        for what, place in things.items():

            def read(command: str = command, before: list[str] = before, place: Callable[[], object] = place) -> str:
                clear(path)
                place()
                return run([command, *before, str(path), *TAILS.get(command, [])])

            # an empty config is all defaults, whose data set is not there
            yield Case(f"{command} reads {what}", read, ("given.file", "DATASETS", "MODEL", "config"))


def of_overrides() -> Iterator[Case]:
    for command in ("train", "evaluate", "visualize-data"):
        for words in OVERRIDES:
            named = tuple({words[0].split("=")[0] or "key", words[-1][:20] or "key", "KEY VALUE", "DATASETS", "MODEL"})
            yield Case(f"{command} {' '.join(words)[:40]!r}", lambda c=command, w=words: run([c, *w]), named)


def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("commands", tmp_path, at_least=500)
