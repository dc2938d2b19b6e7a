"""`export`: from a model to a file that others run, proved before it is left behind."""

from __future__ import annotations

import copy
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from detframe.backends import InputCard, Session, open_model
from detframe.backends.program_file import output_names
from detframe.config import ConfigNode
from detframe.data import Records
from detframe.errors import (
    EvidenceError,
    FileAccessError,
    InvalidValueError,
    MissingFileError,
    NoPermissionError,
    UnknownNameError,
    UserError,
)
from detframe.export.describing import make_card, provenance, sha256
from detframe.export.evidence import Prover
from detframe.export.formats import Format, check_modules, format_of, quiet
from detframe.export.graph import INPUTS, least_side, trace
from detframe.export.lowering import write_lowered
from detframe.export.precision import PRECISIONS, check_precision
from detframe.export.report import ExportReport, Tolerance
from detframe.export.training_images import TrainingImages, training_images
from detframe.export.validation import spread
from detframe.files import write_text
from detframe.modeling import GeneralizedRCNN

logger = logging.getLogger(__name__)

TOLERANCES = {"fp32": Tolerance(0.1, 1e-3), "fp16": Tolerance(1.0, None), "int8": Tolerance(1.0, None)}
"""What a file may lose by default: AP, and pixels and scores where the numbers are those of float32."""
NUM_IMAGES = 100
_LARGEST = 16_384  # pixels of a side
_MOST = 4_096  # images of a batch


@dataclass(frozen=True)
class Plan:
    """What is to be exported, checked.

    Args:
        size: (H, W) of all images; None: any.
        batch: how many images at once; None: any number.
    """

    path: Path
    format: Format
    precision: str
    size: tuple[int, int] | None
    batch: int | None
    tolerance: Tolerance

    @classmethod
    def of(
        cls,
        path: str | Path,
        format: str | None = None,
        precision: str = "fp32",
        size: tuple[int, int] | None = None,
        batch: int | None = None,
        tolerance: Tolerance | None = None,
    ) -> Plan:
        """The plan of what a user asks for; see `export` for arguments and errors."""
        target = Path(path).expanduser()
        chosen = format_of(target, format)
        if precision not in PRECISIONS:
            raise UnknownNameError(f"no precision is called {precision!r}; there are {', '.join(PRECISIONS)}")
        if size is not None and not all(0 < side <= _LARGEST for side in size):
            raise InvalidValueError(
                f"size is {size[0]}x{size[1]} (height x width); each side must be from 1 to {_LARGEST} pixels"
            )
        if batch is not None and not 0 < batch <= _MOST:
            raise InvalidValueError(f"batch is {batch}; it must be from 1 to {_MOST}, or None for any number of images")
        _check_place(target)
        check_precision(precision, chosen.name)
        check_modules(chosen)
        return cls(target, chosen, precision, size, batch, tolerance or TOLERANCES[precision])


def export(
    model: GeneralizedRCNN,
    cfg: ConfigNode,
    meta: Mapping[str, Any],
    path: str | Path,
    *,
    format: str | None = None,
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    tolerance: Tolerance | None = None,
    records: Records | None = None,
    no_records: str = "",
    num_images: int = NUM_IMAGES,
    weights: str | Path | None = None,
) -> ExportReport:
    """Write a model as a file that onnxruntime, OpenVINO or PyTorch runs, and prove that it finds the same.

    The file is run from the disk, in its own runtime, on other batches and sizes than it was made with, on blank images
    and on validation images, beside the model on the same pixels. Where they agree, the file lies at `path`, with
    `<path>.report.json` and `<path>.report.md` beside it; else nothing does, and what was there before stays.

    Args:
        model: with its weights.
        cfg: the config that it was built from.
        meta: class_names, category_ids and what else its checkpoint says.
        path: the file to write: .onnx, .xml (OpenVINO, whose weights lie beside it in a .bin), .pt2 (torch).
        format: "onnx", "openvino" or "torch"; None: by the ending of `path`.
        precision: "fp32", "fp16" or "int8".
        size: (H, W) of every image; None: any.
        batch: images at once; None: any number.
        tolerance: what may differ; None: 0.1 AP and 1e-3 pixels and scores in fp32, 1 AP in others.
        records: validation data, of the model's classes (`validation_data`); None: images are made up, and there is no
            AP.
        no_records: why there are none, for the report.
        num_images: of `records`, evenly over them.
        weights: the checkpoint that the model comes from, which may be in a store, for the file's provenance.

    Raises:
        EvidenceError: the file does not find what the model finds; says where it differs most.
        ValueError, KeyError, FileNotFoundError: an argument that means nothing, or a model that the format cannot hold.
        ImportError: what the format needs is not installed.
        OSError: the file cannot be written.
    """
    plan = Plan.of(path, format, precision, size, batch, tolerance)
    _check_size(model, plan.size)
    _check_meta(model, meta)
    chosen = None if records is None else spread(records, num_images)
    limits = _limits(model, cfg, plan)
    classes = None if model.class_agnostic else tuple(meta["class_names"])
    images = training_images(cfg, classes, limits) if plan.precision == "int8" else None
    with _prepared(model) as ready, _beside(plan.path) as folder:
        written = folder / plan.path.name
        details = _write(ready, cfg, meta, plan, written, weights, limits, images)
        report = _proved(ready, cfg, plan, written, chosen or no_records)
        report.details = details
        _publish(folder, plan.path, report)
    return report


def _limits(model: GeneralizedRCNN, cfg: ConfigNode, plan: Plan) -> InputCard:
    """How the file takes images."""
    height, width = plan.size or (None, None)
    keys = cfg.INPUT
    preprocessor = model.preprocessor
    values = "float32" if preprocessor.form.as_stored else InputCard.values
    sizes = (keys.MIN_SIZE_TEST, keys.MAX_SIZE_TEST)
    return InputCard(height, width, plan.batch, *sizes, preprocessor.divisor, preprocessor.form.channels, values)


def _write(
    model: GeneralizedRCNN,
    cfg: ConfigNode,
    meta: Mapping[str, Any],
    plan: Plan,
    written: Path,
    source: str | Path | None,
    limits: InputCard,
    images: TrainingImages | None,
) -> dict[str, Any]:
    """Write the file; what the report says of its precision."""
    logger.info("tracing the model")
    program = _traced(model, plan)
    logger.info("writing it as %s", plan.format.name)
    rows = int(program.graph.output_node().args[0][0].meta["val"].shape[1])  # type: ignore[index, union-attr]
    origin = provenance(source, meta, plan.format.modules)
    card = make_card(model, cfg, meta, limits, rows, plan.precision, origin)
    outputs = tuple(output_names(program))
    if plan.precision != "fp32":
        return write_lowered(program, INPUTS, outputs, card, written, plan.format, images)
    plan.format.write(program, INPUTS, outputs, card, written)
    return {}


def _check_size(model: GeneralizedRCNN, size: tuple[int, int] | None) -> None:
    """Raises ValueError where a side is smaller than what the coarsest map sees as one cell."""
    strides: Any = model.backbone.strides
    cell = max(strides.values())
    if size is not None and min(size) < cell:
        raise InvalidValueError(
            f"size is {size[0]}x{size[1]} (height x width), smaller than one cell of the coarsest map, {cell} pixels; "
            "it is the size of the images that the detector gets, as INPUT.MIN_SIZE_TEST"
        )


def _check_meta(model: GeneralizedRCNN, meta: Mapping[str, Any]) -> None:
    """Raises ValueError where the file could not say what its labels mean."""
    if model.class_agnostic:
        return
    lacking = [key for key in ("class_names", "category_ids") if key not in meta]
    if lacking:
        raise InvalidValueError(
            f"meta has no {' and no '.join(lacking)}: names of the classes and their ids in the data, that of label 1 "
            "first, as the 'meta' of a checkpoint has them"
        )
    names, ids = len(meta["class_names"]), len(meta["category_ids"])
    if names != ids:
        raise InvalidValueError(f"meta has {names} class_names and {ids} category_ids; each class has one of both")


def _traced(model: GeneralizedRCNN, plan: Plan) -> ExportedProgram:
    """The graph of a model. Raises ValueError where torch.export cannot follow a part of it."""
    with quiet():
        return trace(model, plan.size, plan.batch)[0]


def _proved(model: GeneralizedRCNN, cfg: ConfigNode, plan: Plan, written: Path, data: Records | str) -> ExportReport:
    """The report of a file that has passed.

    Args:
        data: validation images, or why there are none.

    Raises:
        EvidenceError: it has not.
    """
    logger.info("comparing the file with PyTorch")
    records = data if isinstance(data, Records) else None
    session = _opened(plan, written)
    try:
        evidence = Prover(model, session, plan.tolerance.near).prove(cfg, records)
    except EvidenceError as error:
        raise EvidenceError(_refusal(plan, session.runtime, [str(error)])) from error
    report = ExportReport(plan.path, plan.format.name, session.runtime, session.card, plan.tolerance, evidence)
    without_data = "" if records is not None else f"{NO_DATA}{f' ({data})' if data else ''}"
    report.warnings = tuple(filter(None, (without_data, _padded_norms(model, cfg, plan))))
    for warning in report.warnings:
        logger.warning("%s", warning)
    if records is not None:
        report.data = f"{len(records)} images of {records.metadata.name}"
    problems = report.problems()
    if problems:
        raise EvidenceError(_refusal(plan, session.runtime, problems))
    return report


def _padded_norms(model: GeneralizedRCNN, cfg: ConfigNode, plan: Plan) -> str:
    """What a file says whose images may stand in a larger plane, over which its norms take their means; "": none do."""
    least, side = least_side(model), cfg.INPUT.MIN_SIZE_TEST
    over_planes = any(isinstance(module, (nn.GroupNorm, nn.InstanceNorm2d)) for module in model.modules())
    if plan.format.name != "torch" or plan.size is not None or side >= least or not over_planes:
        return ""
    return (
        f"In this file images with a side below {least} pixels stand in a plane of that size, and group norms take "
        "their means over all of it: scores are others than in PyTorch. Where all images have one size, export with it "
        "(--size)"
    )


NO_DATA = (
    "There were no validation images: the file is compared on images that the exporter makes, in which a detector may "
    "find little, and no AP is measured. Give validation data (--data)"
)


def _opened(plan: Plan, written: Path) -> Session:
    """The file in its runtime. Raises ValueError where that lacks what the model needs."""
    try:
        return open_model(written, device="cpu")
    except InvalidValueError as error:
        raise InvalidValueError(
            f"{plan.path} is not written: {str(error).replace(str(written), 'the model')}"
        ) from error


def _refusal(plan: Plan, runtime: str, problems: Sequence[str]) -> str:
    lines = [f"{plan.path} is not written: run by {runtime}, it does not find what PyTorch finds"]
    return "\n".join([*lines, *(f"  {line}" for line in problems), _remedy(plan)])


def _remedy(plan: Plan) -> str:
    if plan.precision != "fp32":
        return "try --precision fp32, or accept more with --tolerance AP PX"
    others = " or ".join(f"--format {name}" for name in ("onnx", "openvino", "torch") if name != plan.format.name)
    return (
        f"try {others}, or another version of the runtime; --tolerance AP PX accepts larger differences where these "
        "are small enough for you"
    )


def _publish(folder: Path, path: Path, report: ExportReport) -> None:
    """Put what lies in the folder to its place, what others depend on first, and the reports beside it."""
    files = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
    report.files = {file.name: (file.stat().st_size, sha256(file)) for file in reversed(files)}
    stem = path.name
    write_text(folder / f"{stem}.report.json", _json(report))
    write_text(folder / f"{stem}.report.md", report.markdown())
    for file in [*files, folder / f"{stem}.report.json", folder / f"{stem}.report.md"]:
        os.replace(file, path.parent / file.name)


def _json(report: ExportReport) -> str:
    return json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _prepared(model: GeneralizedRCNN) -> Iterator[GeneralizedRCNN]:
    """The model in evaluation mode on the CPU; the one handed in is as before at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield (model if model.device.type == "cpu" else copy.deepcopy(model).cpu()).eval()
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder on the disk of the target, gone at the end.

    Raises:
        OSError: the disk is full, or may not be written.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if isinstance(error, UserError) or error.errno != errno.ENOSPC:
                raise
            free = shutil.disk_usage(path.parent).free / 2**20
            raise FileAccessError(f"cannot write {path}: the disk is full ({free:.1f} MB are free)") from error


def _check_place(path: Path) -> None:
    """The file must be possible to write, which shows before all the work."""
    if path.is_dir():
        raise InvalidValueError(f"{path} is a folder; name the file in it, as {path / 'model.onnx'}")
    if not path.parent.is_dir():
        raise MissingFileError(f"the folder {path.parent} of {path.name} does not exist: make it first")
    if not os.access(path.parent, os.W_OK):
        raise NoPermissionError(f"{path.parent} may not be written by this user; name another place for {path.name}")
