"""Look at a data set before training on it: `detframe check` and tools/check_data.py."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import add_config_arguments, base_parser, local_path, parse
from detframe.cli.common import load_config, print_config
from detframe.cli.errors import EXIT_FAILED, guard
from detframe.cli.media import file_to_write
from detframe.cli.recipe import add_data_arguments, classes_of, recipe_arguments
from detframe.engine.terminal import Terminal, show_progress, shown_on, verbosity
from detframe.errors import InvalidValueError
from detframe.files import safe_name, write_json

if TYPE_CHECKING:
    from detframe.cli.check_model import ModelCheck
    from detframe.config import ConfigNode
    from detframe.data import CatalogEntry, Records
    from detframe.data.findings import Finding
    from detframe.data.folder import FolderData
    from detframe.data.screen import Screened, Split

EPILOG = """\
Reads every image and every annotation, and says all that is odd about them: errors,
which would spoil a training; warnings; notes. Exit code 1 where there is an error.

examples:
  detframe check --data raccoons/
  detframe check --data raccoons/ --write clean/raccoons.json
  detframe check --config-file my_config.yaml          the data sets of a config
"""

_MEASURED = ("INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD")
_OF_DATA = ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.CATALOG", "OUTPUT_DIR")  # no choices of a model


@dataclass(frozen=True)
class Subject:
    """What is to be checked."""

    name: str  # as the user gave it
    sets: Mapping[str, Records]
    findings: Sequence[Finding] = ()  # of recognising it
    folder: FolderData | None = None  # None where a config names the data sets


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("check", "Look at a data set before training on it.", EPILOG)
    add_data_arguments(parser)
    add_config_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="look at the headers of images alone, and try no model")
    parser.add_argument("--json", action="store_true", help="write what was found to standard output as JSON")
    parser.add_argument(
        "--write",
        type=local_path,
        metavar="FILE.json",
        default="",
        help="write a clean copy of the annotations, as COCO",
    )
    args = recipe_arguments(parse(parser, argv))
    return guard(lambda: _run(args), args.debug)


def _run(args: argparse.Namespace) -> int:
    if args.print_config is not None:
        return print_config(args)
    if not args.data and not args.config_file:
        raise InvalidValueError(
            "no data set is named: --data PATH takes a folder, a data.yaml, a file of annotations or an archive, and "
            "--config-file FILE the data sets of a config"
        )
    if args.write and not args.write.endswith(".json"):
        raise InvalidValueError(f"--write takes the name of a COCO file, which ends in .json, not {args.write!r}")
    target = file_to_write(args.write, "--write").absolute() if args.write else None
    logging.getLogger("detframe").addHandler(logging.NullHandler())  # what is logged of the data is in the findings
    # no lines of OpenCV's own about tags of TIFF files among ours; what it cannot read becomes a finding
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    from detframe.arrays.pixels import PixelForm
    from detframe.cli.check_text import as_dict, report
    from detframe.data.screen import examine

    subject = _of_path(args) if args.data else _of_config(args)
    listing = subject.folder.listing if subject.folder is not None else None
    cfg = load_config(args)
    skip = subject.folder is not None or cfg.DATALOADER.ON_ERROR == "skip"
    terminal = Terminal(verbosity(), lambda *_: None, sys.stderr)  # one that went away cannot be told of it
    with shown_on(terminal):
        progress = partial(show_progress, "reading images")
        tiles = cfg.INPUT.TILES.SIZE > 0
        form = PixelForm.of(cfg)
        screened = examine(subject.sets, listing, not args.quick, subject.findings, skip, progress, tiles, form)
    model = _model(args, subject, screened)
    more = [*_of_tiles(cfg, subject), *_of_channels(cfg, screened, args.quick), *(model.findings if model else ())]
    screened = screened.with_findings(more)
    written = _write(subject, screened, target) if target is not None else None
    if args.json:
        text = json.dumps(as_dict(subject.name, subject.folder, screened, model, written), indent=1) + "\n"
    else:
        text = report(subject.name, subject.folder, screened, args.quick, model, written)
    sys.stdout.write(text)
    return EXIT_FAILED if screened.of("error") else 0


def _of_tiles(cfg: ConfigNode, subject: Subject) -> list[Finding]:
    """How the tiles of a config fit the data; nothing where images stay whole."""
    from detframe.data import TiledRecords, tiled
    from detframe.data.tile_check import check_tiles

    cut = {name: tiled(cfg, records) for name, records in subject.sets.items()}
    return [f for name, tiles in cut.items() if isinstance(tiles, TiledRecords) for f in check_tiles(tiles, name)]


def _of_channels(cfg: ConfigNode, screened: Screened, quick: bool) -> list[Finding]:
    """How the mean and the deviation of a config fit the training images; nothing of 8-bit RGB, for which weights know
    both."""
    from detframe.arrays.pixels import PixelForm
    from detframe.data.findings import ERROR, sentence
    from detframe.data.screen.channels import check_mean

    form, train = PixelForm.of(cfg), _train(screened)
    if not form.as_stored or train is None:
        return []
    if quick and len(cfg.INPUT.PIXEL_MEAN) != form.channels:
        text = "INPUT.PIXEL_MEAN and PIXEL_STD are not set; without --quick those of the images are measured"
        return [sentence("pixel-mean", ERROR, text, where=train.name)]
    pictures = [train.pictures[path] for path in train.paths]
    return check_mean(pictures, train.name, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)


def _train(screened: Screened) -> Split | None:
    return next((split for split in screened.splits if split.name == "train"), None)


def _with_mean(cfg: ConfigNode, screened: Screened) -> ConfigNode:
    """The config with a mean and a deviation, those that were measured, where it has none of so many channels."""
    from detframe.data.screen.channels import measured

    train = _train(screened)
    if train is None or len(cfg.INPUT.PIXEL_MEAN) == cfg.INPUT.CHANNELS:
        return cfg
    channels = cfg.INPUT.CHANNELS
    unknown = ((0.0,) * channels, (1.0,) * channels)  # with --quick; `_of_channels` says so
    mean, deviation = measured(train.pictures[path] for path in train.paths) or unknown
    return cfg.changed([("INPUT.PIXEL_MEAN", mean), ("INPUT.PIXEL_STD", deviation)])


def _model(args: argparse.Namespace, subject: Subject, screened: Screened) -> ModelCheck | None:
    """The model against the data; None where there is nothing to learn from, and that is said already."""
    from detframe.cli.check_model import check_model, chosen_config

    train = subject.sets.get("train")
    if train is None or not train.num_objects.any() or _cannot_be_read(screened):
        return None
    if args.config_file:
        cfg = _with_mean(load_config(args), screened)
        return check_model(cfg, subject.sets, f"the model of {args.config_file}", not args.quick)
    cfg = load_config(args)
    given = {key: value for key, value in cfg.leaves() if cfg.source(key) == "an override"}
    measured = _with_mean(cfg, screened)
    given |= {key: measured.at(key) for key in _MEASURED if measured.at(key) != cfg.at(key)}
    chosen, limit_of = chosen_config(subject.sets, {key: value for key, value in given.items() if key not in _OF_DATA})
    what = "the model that `detframe train --data` chooses"
    return check_model(chosen, subject.sets, what, not args.quick, limit_of)


def _cannot_be_read(screened: Screened) -> bool:
    """Whether no image of the training data is there to try a model with."""
    train = _train(screened)
    return train is None or all(train.pictures[path].fault for path in train.paths)


def _of_path(args: argparse.Namespace) -> Subject:
    from detframe.data.folder import read_folder

    load_config(args)  # CUSTOM_IMPORTS may bring the format of the data
    folder = read_folder(args.data, args.format, classes_of(args.classes), val=args.val_data)
    sets = {split: _records([entry]) for split, entry in folder.entries.items()}
    said = [finding for finding in folder.findings if finding.code != "format"]  # that is the title
    return Subject(args.data, sets, said, folder)


def _of_config(args: argparse.Namespace) -> Subject:
    from detframe.data.catalog import find_entry, read_catalogs

    cfg = load_config(args)
    known = read_catalogs(cfg.DATASETS.CATALOG)
    train, test = (
        [find_entry(name, known, cfg.DATASETS.CATALOG) for name in names]
        for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    if not train and not test:
        raise InvalidValueError(f"{args.config_file} names no data sets: DATASETS.TRAIN and DATASETS.TEST are empty")
    sets = {"train": _records(train)} if train else {}
    for entry in test:
        sets["val" if len(test) == 1 else entry.name] = _records([entry])
    return Subject(args.config_file, sets)


def _records(entries: Sequence[CatalogEntry]) -> Records:
    """The records of catalog entries without what is missing; all of them where nothing is there."""
    from detframe.data import join
    from detframe.data.catalog import load_entry, records_of
    from detframe.data.missing import MissingImagesError

    try:
        return records_of(entries, on_missing="skip")
    except MissingImagesError:
        return join([load_entry(entry) for entry in entries])


# ---------------------------------------------------------------------------------------------- a clean copy
def _write(subject: Subject, screened: Screened, path: Path) -> dict[str, Any]:
    """Write the clean COCO files; returns which, and what is left out or changed in them."""
    from detframe.data.screen.clean import clean

    together = subject.folder is not None and len(subject.folder.recognised.parts) == 1
    cleaned = clean(screened, path.parent, together)
    files = []
    for split, file in cleaned.files.items():
        target = path.with_name(f"{path.stem}_{safe_name(split)}.json") if split else path
        write_json(target, file)
        crowds = sum(annotation["iscrowd"] for annotation in file["annotations"])
        objects = len(file["annotations"]) - crowds  # as everywhere in what is said of the data
        counts = {"images": len(file["images"]), "objects": objects, "crowds": crowds}
        files.append({"file": str(target), "split": split, **counts})
    return {"files": files, "changes": {what: count for what, count in cleaned.changes.items() if count}}
