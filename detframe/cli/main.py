"""The installed command `detframe`: it hands over to the program that its first argument names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from detframe import __version__
from detframe.registry import nearest

# name -> (module with a main(argv), what it does)
COMMANDS = {
    "train": ("detframe.cli.train", "train a detector on your data, or by a YAML config"),
    "configure": ("detframe.cli.configure", "write the config that a training on your data would choose"),
    "train-efpn": ("detframe.cli.train_efpn", "train EFPN in stages"),
    "tune": ("detframe.cli.tune", "find the best values of some config keys by many short trainings"),
    "check": ("detframe.cli.check", "look at a data set before training on it"),
    "evaluate": ("detframe.cli.evaluate", "AP of trained weights on a test set"),
    "report": ("detframe.cli.report", "the page of a run: how good it is, where it fails, what to try next"),
    "compare": ("detframe.cli.compare", "two or more runs side by side"),
    "runs": ("detframe.cli.runs", "a table of all runs below a folder"),
    "predict": ("detframe.cli.predict", "draw and save what is found in images or a video"),
    "visualize-data": ("detframe.cli.visualize_data", "draw training images as the model sees them"),
    "shrink-data": ("detframe.cli.shrink_data", "a copy of a data set with smaller images"),
    "shard-data": ("detframe.cli.shard_data", "pack images into tar files with an index, for buckets"),
    "quickstart": ("detframe.cli.quickstart", "train on generated pictures, in minutes, on the CPU"),
    "benchmark": ("detframe.cli.benchmark", "time detframe beside torchvision"),
    "analyze": ("detframe.cli.analyze", "parameters, multiply-adds and time of a detector's parts"),
    "translate-config": ("detframe.cli.translate_config", "rewrite a config of another program as detframe's"),
    "import-weights": ("detframe.cli.import_weights", "another program's checkpoint as one of detframe's"),
    "export": ("detframe.cli.export", "a detector as a file for onnxruntime, OpenVINO or torch, proved equal"),
    "export-weights": ("detframe.cli.export_weights", "a checkpoint for torchvision or detectron2"),
    "new": ("detframe.cli.new", "the skeleton of a module of your own: backbone, head, loss, format, ..."),
    "test-module": ("detframe.cli.test_module", "test a module of your own against the contract of its registry"),
    "replay": ("detframe.cli.replay", "run the step again that ended in a non-finite loss"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"detframe {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        sys.stderr.write(f"error: detframe has no command {words[0]!r}; {nearest(words[0], list(COMMANDS))}\n")
        return 2
    return int(importlib.import_module(COMMANDS[words[0]][0]).main(words[1:]))


def usage() -> str:
    """The text of `detframe --help`."""
    rows = [f"  {name:<18}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: detframe COMMAND [options]", "", *rows, "", "`detframe COMMAND --help` shows a command's options.", ""]
    )


if __name__ == "__main__":
    sys.exit(main())
