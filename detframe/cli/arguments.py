"""The arguments that the commands share, and the reading of them."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence

from detframe import __version__
from detframe.engine.commands import as_called, program_name
from detframe.engine.terminal import VERBOSITY_VARIABLE
from detframe.errors import InvalidValueError
from detframe.storage import refuse_address

LARGEST = 2**31 - 1  # of any number among the arguments
_NEGATIVE_NUMBER = re.compile(r"-(\d|\.\d)")
_OPTION = re.compile(r"--[a-z][a-z-]*")
_OF_OTHERS = {  # what is an option of other programs, and is a key or another option here
    "INPUT.MIN_SIZE_TRAIN N": ("imgsz", "img", "img-size"),
    "SOLVER.IMS_PER_BATCH N": ("batch", "batch-size"),
    "SOLVER.BASE_LR LR": ("lr", "lr0", "learning-rate"),
    "SOLVER.MAX_ITER N": ("iters", "max-iter", "max-iters", "steps"),
    "DATALOADER.NUM_WORKERS N": ("workers", "num-workers"),
    "MODEL.DEVICE cpu": ("device", "cuda"),
    "MODEL.WEIGHTS FILE": ("weights", "resume-from", "load-from"),
    "OUTPUT_DIR DIR": ("output", "output-dir", "work-dir", "save-dir", "project", "name"),
    "SEED N": ("seed",),
    "KEY VALUE behind the options": ("cfg-options", "opts", "set"),
    "--config-file": ("cfg", "config", "cfg-file", "yaml"),
    "--epochs": ("max-epochs", "num-epochs"),
    "--num-gpus": ("gpus", "gpu", "nproc-per-node"),
    "--input": ("source", "img-path", "images"),
    "--score": ("conf", "conf-thres", "threshold", "confidence-threshold", "score-thr"),
    "--weights": ("checkpoint", "ckpt", "model-path"),
}


def base_parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser with the options of every command: --debug, --quiet, --verbose and --version."""
    parser = argparse.ArgumentParser(
        prog=program_name(command),
        description=description,
        epilog=as_called(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error (or DETFRAME_DEBUG=1)")
    loudness = parser.add_mutually_exclusive_group()
    for word, text in (("quiet", "show warnings and the result only"), ("verbose", "show details too")):
        loudness.add_argument(f"--{word}", dest="verbosity", action="store_const", const=word, help=text)
    parser.add_argument("--version", action="version", version=f"detframe {__version__}")
    return parser


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """--config-file, --print-config and the overrides KEY VALUE."""
    parser.add_argument(
        "--config-file", type=local_path, metavar="FILE", default="", help="YAML file; shipped ones are found by name"
    )
    parser.add_argument(
        "--print-config",
        metavar="KEY",
        nargs="?",
        const="",
        help="print the effective config as YAML, or one key's value, default, origin and meaning, and stop",
    )
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="overrides, as in SOLVER.BASE_LR 0.001")


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """--num-gpus, and the local rank that torch.distributed.launch hands over."""
    parser.add_argument(
        "--num-gpus",
        type=processes,
        default=1,
        metavar="N",
        help="start N processes on this machine, one per GPU (or on the CPU); not needed under torchrun or SLURM",
    )
    parser.add_argument("--local-rank", "--local_rank", type=natural, default=None, help=argparse.SUPPRESS)


def add_consent_argument(parser: argparse._ActionsContainer) -> None:
    """--allow-custom-imports, of the commands that read a file with somebody's config in it."""
    parser.add_argument(
        "--allow-custom-imports",
        action="store_true",
        help="import the Python modules that the file's config names (CUSTOM_IMPORTS): it runs the code of its author",
    )


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    return whole(text, 1, LARGEST)


def natural(text: str) -> int:
    """An argument that is a whole number, 0 or more."""
    return whole(text, 0, LARGEST)


def processes(text: str) -> int:
    """An argument that is a number of processes of one machine."""
    return whole(text, 1, 1024)


def whole(text: str, low: int, high: int) -> int:
    """An argument that is a whole number between two others."""
    number = int(text)  # argparse words the ValueError
    if not low <= number <= high:
        bound = f"{low} or more" if number < low else f"at most {high}"
        raise argparse.ArgumentTypeError(f"must be {bound}, not {text}")
    return number


def local_path(text: str) -> str:
    """An argument that is a path on this machine, and no address."""
    try:
        refuse_address(text, "name a path of this machine")
    except InvalidValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments; options and overrides may stand in any order, and values may be negative numbers."""
    words = list(sys.argv[1:] if argv is None else argv)
    words = _bind_print_config([_shield(word) for word in words])
    args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        parser.error(_of_unknown(unknown, parser, hasattr(args, "opts")))
    if hasattr(args, "opts"):
        args.opts = [word.strip() for word in args.opts]
        _refuse_bare_path(parser, args)
    if args.verbosity:
        os.environ[VERBOSITY_VARIABLE] = args.verbosity  # processes that this one starts have it too
    local_rank = getattr(args, "local_rank", None)
    if local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    return args


def _of_unknown(words: Sequence[str], parser: argparse.ArgumentParser, takes_keys: bool) -> str:
    """The message for arguments that a command does not have, with what the first of them is here."""
    said = f"unrecognized arguments: {' '.join(word.strip() for word in words)}"
    wanted = words[0].partition("=")[0].lstrip("-").replace("_", "-").lower()
    own = sorted(set(_OPTION.findall(parser.format_usage())))
    usable = [meant for meant, names in _OF_OTHERS.items() if wanted in names]
    usable = [meant for meant in usable if meant in own or (takes_keys and not meant.startswith("--"))]
    near = usable or difflib.get_close_matches(f"--{wanted}", own, n=2, cutoff=0.75)
    return f"{said}; write {near[0]}" if usable else f"{said}; did you mean {' or '.join(near)}?" if near else said


def _refuse_bare_path(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """A path in the place of a KEY is one whose option was left out, and data=PATH is how other programs put it."""
    for name, is_pair, value in (word.partition("=") for word in args.opts[0::2]):
        if is_pair and name.replace("-", "_") in vars(args):
            parser.error(f"{name}={value} is no override KEY VALUE; write --{name} {value}")
    path = next((word for word in args.opts[0::2] if os.path.exists(word)), "")
    if not path:
        return
    names = [f"--{name.replace('_', '-')}" for name in ("config_file", "data") if hasattr(args, name)]
    if not path.lower().endswith((".yaml", ".yml")) and "--data" in names:
        names = ["--data"]
    meant = f": {' or '.join(f'{name} {path}' for name in names)}" if names else ""
    parser.error(f"{path} is a path, and overrides are pairs KEY VALUE; name the option that takes it{meant}")


def _shield(word: str) -> str:
    """argparse takes "-1e-3" for an option; a word with a space in it, it takes for a value."""
    return word + " " if _NEGATIVE_NUMBER.match(word) else word


def _bind_print_config(words: list[str]) -> list[str]:
    """Decide whether the word after --print-config is its KEY or the first of the overrides, which come in pairs."""
    if "--print-config" not in words:
        return words
    at = words.index("--print-config")
    following = 0
    while at + 1 + following < len(words) and not words[at + 1 + following].startswith("--"):
        following += 1
    if following % 2:
        return [*words[:at], f"--print-config={words[at + 1]}", *words[at + 2 :]]
    return [*words[:at], "--print-config=", *words[at + 1 :]]
