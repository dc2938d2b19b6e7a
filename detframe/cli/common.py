"""What the commands share once their arguments are read: the config, its display, and where a run's weights lie."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from detframe.cli.arguments import parse
from detframe.cli.errors import guard
from detframe.config import ConfigNode, read_config
from detframe.config.reference import explain
from detframe.engine.terminal import Terminal, verbosity
from detframe.errors import MissingFileError

logger = logging.getLogger(__name__)


def run_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, body: Callable[[argparse.Namespace], int]
) -> int:
    """Read the arguments and run a command's body with them; --print-config takes its place. Errors as of `guard`."""
    args = parse(parser, argv)
    shows = getattr(args, "print_config", None) is not None
    return guard(lambda: print_config(args) if shows else body(args), args.debug)


def load_config(args: argparse.Namespace, custom_imports: bool = True) -> ConfigNode:
    """The config of the arguments: defaults, then --config-file, then the overrides; checked and frozen.

    Args:
        custom_imports: also import what CUSTOM_IMPORTS names, so that its classes are registered.

    Raises:
        FileNotFoundError, KeyError, ValueError: as `ConfigNode.merge_from_file` and `validate`.
    """
    with _said_by_handlers_alone():
        return read_config(args.config_file, args.opts, custom_imports)


@contextmanager
def _said_by_handlers_alone() -> Iterator[None]:
    """No translation warnings on the bare terminal: a command without a log yet has a run, whose log says them."""
    translations, silent = logging.getLogger("detframe.config.foreign.translation"), logging.NullHandler()
    translations.addHandler(silent)
    try:
        yield
    finally:
        translations.removeHandler(silent)


def print_config(args: argparse.Namespace) -> int:
    """Write the effective config, or what is known of one key, to the standard output."""
    cfg = load_config(args)
    sys.stdout.write(explain(cfg, args.print_config) if args.print_config else cfg.dump())
    return 0


def log_to_terminal() -> Terminal | None:
    """Show detframe's log on the terminal; for commands that do not go through the engine, which does it itself.

    What is marked as a result is shown to those too who want to hear of nothing else (--quiet).

    Returns:
        the handler, on which `shown_on` draws a line of progress; None where a program has its own.
    """
    root = logging.getLogger("detframe")
    if not root.handlers:
        threshold = verbosity()
        terminal = Terminal(threshold, lambda what, error: None, sys.stderr)  # where would it be said?
        terminal.setFormatter(logging.Formatter("%(message)s"))
        root.addHandler(terminal)
        root.setLevel(min(logging.INFO, threshold))
    return next((handler for handler in root.handlers if isinstance(handler, Terminal)), None)


def trained_weights(cfg: ConfigNode) -> str:
    """The checkpoint that an evaluation without training uses.

    MODEL.WEIGHTS where an override names it; else what the run in OUTPUT_DIR left: model_best.pth, model_final.pth, the
    newest checkpoint; else what lies beside the config.yaml of a run, whose OUTPUT_DIR may be seen from another folder;
    else the config's MODEL.WEIGHTS.

    Raises:
        FileNotFoundError: there is none of these.
    """
    if cfg.source("MODEL.WEIGHTS") == "an override" and cfg.MODEL.WEIGHTS:
        return str(cfg.MODEL.WEIGHTS)
    from detframe.engine.output_place import weights_in

    config = Path(cfg.source("OUTPUT_DIR").rpartition(":")[0])
    found = weights_in(cfg.OUTPUT_DIR) or (weights_in(str(config.parent)) if config.name == "config.yaml" else "")
    if found:
        return found
    if cfg.MODEL.WEIGHTS:
        return str(cfg.MODEL.WEIGHTS)
    raise MissingFileError(
        f"nothing to evaluate: OUTPUT_DIR {cfg.OUTPUT_DIR} holds no checkpoint, and MODEL.WEIGHTS is empty; "
        f"add the override MODEL.WEIGHTS path/to/model_final.pth"
    )
