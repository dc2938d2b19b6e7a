"""A whole recipe: the data at a path, the machine, the choices, and the two files that a training is made from."""

from __future__ import annotations

import glob
import logging
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from detframe.arrays.pixels import PixelForm
from detframe.config import (
    ConfigNode,
    find_config,
    get_cfg,
    import_modules,
    read_config,
    shipped_folder,
    validate,
)
from detframe.config.arguments import argument
from detframe.config.bounds import Number
from detframe.config.paths import expanded
from detframe.data.findings import ERROR, NOTE, WARNING, Finding
from detframe.data.folder import FolderData, name_of, read_folder
from detframe.data.screen import Screened, examine
from detframe.engine.commands import program_name
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError
from detframe.model_zoo import list_configs, short_names
from detframe.recipes.budget import TOO_SHORT, Pace
from detframe.recipes.choices import check_task, choose, size_of
from detframe.recipes.facts import DataFacts, channel_facts, data_facts
from detframe.recipes.machine import Machine, this_machine
from detframe.recipes.spelling import option
from detframe.recipes.text import recipe_text
from detframe.recipes.tiles import facts_seen
from detframe.recipes.trial import DoesNotFit, Measure, measure
from detframe.recipes.weights import find_weights
from detframe.recipes.wish import NEEDS, SIZES, Choice, Wish
from detframe.registry import nearest
from detframe.storage import refuse_address
from detframe.storage.folders import is_store
from detframe.texts import counted

logger = logging.getLogger(__name__)
RECIPE, CATALOG = "recipe.yaml", "catalog.yaml"
TRIAL = (5.0, 30.0, 0.05)  # seconds after which no step is tried any more: at least, at most; part of the minutes
MOST_TOLD = 8  # findings of the data screen that a training tells
UNUSABLE = ("unreadable-image", "size-mismatch", "sides-exchanged")  # codes of findings about images that are not used
TRIES = 4  # of a batch that does not fit into the memory of a GPU, halved each time


@dataclass(frozen=True)
class Request:
    """What a command or a call asks for.

    Attributes:
        path: the data: a folder, a file of annotations, a data.yaml, an archive.
        minutes, epochs, task: as of `Wish`.
        model: "small", "medium", "large", or a config by its name or path; "" to choose.
        weights: what `find_weights` takes.
        output: OUTPUT_DIR; "" to derive it from the path.
        val_data: a path whose data evaluate, in place of a part of `path`.
        format: of the data, where it is not to be recognised.
        classes: those to select, as `read_folder` takes them.
        overrides: [KEY, VALUE, ...], which win over every choice.
        started: time.time() when the command began.
        ranks: processes that will train together.
    """

    path: str
    minutes: float | None = None
    epochs: float | None = None
    model: str = ""
    weights: str = ""
    output: str = ""
    task: str = "box"
    val_data: str = ""
    format: str = ""
    classes: Sequence[str] | Mapping[str, str] | None = None
    overrides: Sequence[Any] = ()
    started: float = field(default_factory=time.time)
    ranks: int = 1


@dataclass(frozen=True)
class Plan:
    """A recipe that is not written yet."""

    data: FolderData
    choices: tuple[Choice, ...]
    folder: Path  # OUTPUT_DIR
    heading: tuple[str, ...]
    config: ConfigNode  # that the choices make
    base: str = ""

    @property
    def recipe(self) -> str:
        """The text of recipe.yaml."""
        return recipe_text(self.heading, self.choices, self.base)

    @property
    def catalog(self) -> str:
        """The text of catalog.yaml."""
        return self.data.catalog_text(self.folder.absolute())


def output_folder(request: Request) -> str:
    """OUTPUT_DIR of a request: as asked for, else a folder called like the data."""
    given = _given(request.overrides).get("OUTPUT_DIR", "")
    if given and request.output and Path(given) != Path(request.output):
        output = option("output", request.output)
        raise InvalidValueError(f"{output} and OUTPUT_DIR {given} are two folders; name one of them")
    if is_store(given or request.output):
        raise InvalidValueError(
            f"{given or request.output}: what is chosen for data is written into a folder of this machine first. "
            f"`detframe configure --data {request.path} --output DIR` writes it there, and `detframe train "
            f"--config-file DIR/recipe.yaml OUTPUT_DIR {given or request.output}` trains into the store"
        )
    refuse_address(given or request.output, "what is chosen for data is written into one")
    return str(given or request.output or Path("output") / name_of(expanded(request.path)))


def _of_a_length(request: Request) -> Request:
    """The request, with at most one length, above 0."""
    if request.minutes is not None and request.epochs is not None:
        raise InvalidValueError(
            f"minutes {request.minutes} and epochs {request.epochs}: each says how long to train; give one of them"
        )
    given = {name: value for name in ("minutes", "epochs") if (value := getattr(request, name)) is not None}
    numbers = {name: argument(name, value, Number(above=0)) for name, value in given.items()}
    return replace(request, **numbers)


def make_plan(request: Request, measured: Measure = measure) -> Plan:
    """Read the data, look at the machine, choose, measure, and choose the length.

    Raises:
        ValueError, FileNotFoundError, KeyError: a mistake in the request or in the data.
    """
    request = _of_a_length(request)
    base, base_name = _base(request.model)
    overrides = _overrides(request, base)
    folder = output_folder(request)
    needs = NEEDS.get(request.task, "")
    data = read_folder(request.path, request.format, request.classes, val=request.val_data, needs=needs)
    sets = data.all_records()
    train, val = sets["train"], sets["val"]
    form = PixelForm.of((base if base is not None else get_cfg()).changed(overrides.items()))
    unusable = _tell_data(request.path, data, sets, form)
    facts = data_facts(train, val, len(train.missing), unusable)
    logger.info("  %s", _counted(facts))
    check_task(facts, request.task)  # before weights are fetched
    if base is None or base.source("INPUT.PIXEL_MEAN") == "the default":
        facts = replace(facts, channels=channel_facts(train, form))
    machine = this_machine(str(overrides.get("MODEL.DEVICE", "auto")), request.ranks)
    wish = _wish(request, base, base_name, overrides, machine)
    if not wish.weights.value:
        remedy = wish.weights.remedy
        logger.warning("%s%s", wish.weights.reason, f". {remedy[0].upper()}{remedy[1:]}" if remedy else "")
    seen = facts_seen(facts, wish, machine, train, val)
    wish, pace = _measured(request, seen, machine, wish, (train, val), measured)
    choices = [*_of_data(data, folder), *choose(seen, machine, wish, pace)]
    choices = _in_order(choices, base)
    config = config_of(choices, base)  # overrides may contradict one another, or the choices
    _tell_choices(choices, wish)
    heading = _heading(request, data, facts, machine, folder)
    return Plan(data, tuple(choices), Path(folder), heading, config, base_name)


# ------------------------------------------------------------------------------------------------- what was asked for
def _given(words: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(words[0::2], words[1::2], strict=False))


def _base(model: str) -> tuple[ConfigNode | None, str]:
    """The config that --model or --config-file names, and how `_BASE_` names it; (None, "") for a size or nothing.

    Raises:
        KeyError: neither a size nor a config.
    """
    if not model or model in SIZES:
        return None, ""
    try:
        path = find_config(model)
    except MissingFileError:
        path = shipped_folder("configs") / _named(model)
    shipped = shipped_folder("configs")
    inside = path.resolve().is_relative_to(shipped.resolve())
    name = path.resolve().relative_to(shipped.resolve()).as_posix() if inside else str(path.absolute())
    return read_config(path), name


def _named(model: str) -> str:
    """The shipped config that --model names, as `list_configs` does. Raises KeyError: none, or several."""
    named, found = f"{option('model')} {model!r}", list_configs(glob.escape(model))
    if not found:
        known = nearest(model, [*SIZES, *short_names()])
        raise UnknownNameError(f"{named} is none of {', '.join(SIZES)}, and no config; {known}")
    if len(found) > 1:
        raise UnknownNameError(
            f"{named} is the name of {len(found)} configs; with its folder it is one: {', '.join(found[:3])}"
            + (", …" if len(found) > 3 else "")
        )
    return found[0]


def _overrides(request: Request, base: ConfigNode | None) -> dict[str, Any]:
    """The overrides as values of the config's own keys.

    Raises:
        KeyError, ValueError: as `ConfigNode.merge_from_list` and `validate`.
    """
    cfg = (base if base is not None else get_cfg()).clone()
    cfg.defrost()
    cfg.merge_from_list(list(request.overrides))
    import_modules(cfg)  # one may bring the format of the data, or keys
    given = {key: value for key, value in cfg.leaves() if cfg.source(key) == "an override"}
    taken = [key for key in ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.CATALOG") if key in given]
    if taken:
        data = option("data", of_function="path")
        raise InvalidValueError(f"{taken[0]} is set, but {data} says what to train on; give one of them")
    given.pop("OUTPUT_DIR", None)
    return given


def _wish(
    request: Request, base: ConfigNode | None, base_name: str, overrides: Mapping[str, Any], machine: Machine
) -> Wish:
    """The request with weights that were found."""
    model = "" if base is not None else request.model
    body = base.MODEL.BACKBONE.CONV_BODY if base is not None else size_of(machine, model).body
    body = str(overrides.get("MODEL.BACKBONE.CONV_BODY", body))
    named = request.weights or str(overrides.get("MODEL.WEIGHTS", base.MODEL.WEIGHTS if base is not None else ""))
    if "MODEL.WEIGHTS" in overrides and not overrides["MODEL.WEIGHTS"]:
        named = "none"
    weights = find_weights(body, named)
    rest = {key: value for key, value in overrides.items() if key != "MODEL.WEIGHTS"}
    return Wish(request.minutes, request.epochs, model, request.task, weights, rest, base=base, base_name=base_name)


# ------------------------------------------------------------------------------------------------- measuring
def _measured(
    request: Request,
    facts: DataFacts,
    machine: Machine,
    wish: Wish,
    records: tuple[Any, Any],
    measured: Measure,
) -> tuple[Wish, Pace | None]:
    """The pace of what would be chosen; the wish for smaller batches where memory does not suffice."""
    if not machine.gpu and (wish.epochs is not None or "SOLVER.MAX_ITER" in wish.overrides):
        return wish, None  # the length is known, and no memory can run out unseen
    least, most, part = TRIAL
    seconds = min(max(part * 60 * request.minutes, least), most) if request.minutes else least
    for attempt in range(TRIES):
        cfg = config_of(choose(facts, machine, wish), wish.base)
        share = cfg.SOLVER.IMS_PER_BATCH // machine.ranks
        try:
            pace = measured(cfg, *records, seconds, machine.ranks)
        except DoesNotFit:
            if attempt == TRIES - 1 or share <= 1 or "SOLVER.IMS_PER_BATCH" in wish.overrides:
                raise InvalidValueError(
                    f"{share} images a step do not fit into the memory of {machine.words}; name a "
                    f"smaller model with {option('model')}, or smaller images with INPUT.MIN_SIZE_TRAIN"
                ) from None
            torch.cuda.empty_cache()
            wish = replace(wish, most_per_process=share // 2)
            logger.info("%d images a step do not fit into memory; trying half", share)
            continue
        return wish, replace(pace, spent=time.time() - request.started)
    return wish, None


def config_of(choices: Sequence[Choice], base: ConfigNode | None = None) -> ConfigNode:
    """The config that choices make, open for changes."""
    cfg = (base if base is not None else get_cfg()).clone()
    cfg.defrost()
    cfg.merge_from_list([word for choice in choices for word in (choice.key, choice.value)])
    validate(cfg)
    return cfg


# ------------------------------------------------------------------------------------------------- writing and telling
def _of_data(data: FolderData, folder: str) -> list[Choice]:
    """The keys that name the data."""
    catalog = str((Path(folder) / CATALOG).absolute())
    test = data.entries.get("test")
    also = f"; {test.name} is set apart, for the end" if test is not None else ""
    return [
        Choice("OUTPUT_DIR", folder, "where the training writes everything"),
        Choice("DATASETS.CATALOG", catalog, "says where the data are, and what was decided about them"),
        Choice("DATASETS.TRAIN", (data.entries["train"].name,), "of that catalog"),
        Choice("DATASETS.TEST", (data.entries["val"].name,), f"what is evaluated during the training{also}"),
    ]


def _in_order(choices: Sequence[Choice], base: ConfigNode | None) -> list[Choice]:
    order = {key: number for number, (key, _) in enumerate(get_cfg().leaves())}
    made = list(choices)
    if base is not None and base.CUSTOM_IMPORTS:
        made.append(Choice("CUSTOM_IMPORTS", base.CUSTOM_IMPORTS, "of the config below which this one stands"))
    return sorted(made, key=lambda choice: order[choice.key])


def _heading(request: Request, data: FolderData, facts: DataFacts, machine: Machine, folder: str) -> tuple[str, ...]:
    recipe = shlex.quote(str(Path(folder) / RECIPE))
    return (
        f"What `detframe train --data {shlex.quote(request.path)}` chose, and why. It is a config as any other: change "
        f"what you like, and train with `detframe train --config-file {recipe}`.",
        "",
        f"Data: {data.recognised.format}, as {data.recognised.reason}.",
        f"{_counted(facts)}. Machine: {machine.words}.",
        "",
    )


def _counted(facts: DataFacts) -> str:
    names = ", ".join(facts.classes[:8]) + (", ..." if len(facts.classes) > 8 else "")
    classes = f"{len(facts.classes)} classes ({names})" if len(facts.classes) > 1 else f"one class ({names})"
    images = f"{counted(facts.images, 'image')} to train with, {facts.val_images} to evaluate on"
    return f"{images}; {counted(facts.num_objects, 'object')} of {classes}"


def _tell_data(path: str, data: FolderData, sets: Mapping[str, Any], form: PixelForm) -> int:
    """The data screen in short: by the headers of the images, without what nobody need do anything about.

    Returns:
        How many images of the data cannot be used, as their headers say.

    Raises:
        ValueError: none of the training images can be used.
    """
    screened = examine(sets, data.listing, decode=False, findings=data.findings, form=form)
    for finding in data.findings:
        if finding.severity == NOTE:
            logger.info("  %s", finding.line())
    graver = _by_split([*screened.of(ERROR), *screened.of(WARNING)])
    for line in graver[:MOST_TOLD]:
        logger.warning("  %s", line)
    if len(graver) > MOST_TOLD:
        logger.warning("  ... and %d more findings of this kind", len(graver) - MOST_TOLD)
    if graver:
        check = program_name("check", "check_data.py")
        logger.info("  all about the data: %s --data %s", check, shlex.quote(path))
    return _unusable(screened, len(sets["train"]))


def _by_split(findings: Sequence[Finding]) -> list[str]:
    """Lines of findings, each with the split that it is of, and once where it is true of several."""
    wheres: dict[str, list[str]] = {}
    for finding in findings:
        wheres.setdefault(finding.line(), []).append(finding.where)
    return [f"{found[0]}: {line}" if len(found) == 1 and found[0] else line for line, found in wheres.items()]


def _unusable(screened: Screened, images: int) -> int:
    """How many images cannot be read, or are not those that were annotated. Raises ValueError where no other trains."""
    found = [finding for finding in screened.findings if finding.code in UNUSABLE]
    of_train = [finding for finding in found if finding.where == "train"]
    if images and sum(finding.count for finding in of_train) == images:
        reasons = "; ".join(example for finding in of_train for example in finding.examples[:2])
        raise InvalidValueError(
            f"none of the {images} training images can be used, so there is nothing to learn from: {reasons}"
        )
    return sum(finding.count for finding in found)


def _tell_choices(choices: Sequence[Choice], wish: Wish) -> None:
    """The choices that matter most, in a few lines."""
    picked = {choice.key: choice for choice in choices}
    if wish.base is None:
        sizes = picked.get("MODEL.RPN.ANCHOR_SIZES")
        shorter, longer = picked["INPUT.MIN_SIZE_TEST"].value, picked["INPUT.MAX_SIZE_TEST"].value
        body = picked["MODEL.BACKBONE.CONV_BODY"].value
        cut = picked.get("INPUT.TILES.SIZE")
        what = f"tiles of {cut.value} pixels as" if cut and cut.value else "images of"
        found_by = "receptive fields in place of anchors"
        if sizes is not None:
            found_by = f"anchors from {min(sizes.value[0]):g} to {max(sizes.value[-1]):g}"
        logger.info("  model %s, %s %s x %s, %s", body, what, shorter, longer, found_by)
    else:
        logger.info("  model of %s", wish.base_name)
    logger.info("  weights: %s", picked["MODEL.WEIGHTS"].value or "random")
    steps, batch = picked["SOLVER.MAX_ITER"], picked["SOLVER.IMS_PER_BATCH"].value
    level = logging.WARNING if steps.reason.startswith(TOO_SHORT) else logging.INFO
    logger.log(level, "  %s of %s: %s", counted(steps.value, "step"), counted(batch, "image"), steps.reason)
