"""The formats of exported files, and writing each."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from detframe.backends import ModelCard
from detframe.backends.card import KEY
from detframe.errors import InvalidValueError, MissingModuleError, UnknownNameError
from detframe.export.example_sizes import sizes_of_example
from detframe.registry import nearest

OPSET, OPSET_OF_DEFORMABLE = 18, 19  # of ONNX; deformable convolutions are in it from 19 on
_LACKING = re.compile(r"No conversion rule found for operations: (.+)")  # how OpenVINO names what it does not know
_LONGEST = 300  # characters that are told of a reason
# Names of the sides of the inputs, of those that are free
AXES = {"images": ("batch", "channels", "height", "width"), "sizes": ("batch", "height_and_width")}
# Bytes of weights from which on they lie beside an ONNX file: a file of protobuf has at most 2 GB
_LARGE = 1_800_000_000


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Args:
        name: as in --format.
        suffix: of its files.
        modules: what writing and running it needs, as pip calls them.
        write: (program, names of its inputs, of its outputs, card, path).
    """

    name: str
    suffix: str
    modules: tuple[str, ...]
    write: Callable[[ExportedProgram, tuple[str, ...], tuple[str, ...], ModelCard, Path], None]


def write_onnx(
    program: ExportedProgram, inputs: tuple[str, ...], outputs: tuple[str, ...], card: ModelCard, path: Path
) -> None:
    """An ONNX file, checked by ONNX's own checker.

    Raises:
        ValueError: an operator of the model has no counterpart in ONNX.
    """
    import onnx
    from onnxscript import optimizer

    from detframe.export.onnx_ops import translations

    with quiet():
        try:
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=translations(),
                opset_version=opset_of(program),
                input_names=list(inputs),
                output_names=list(outputs),
                optimize=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InvalidValueError(f"the model cannot be written as ONNX: {reason(error)}") from error
    # also what is large and constant, as weights times the factors of their norms
    optimizer.optimize(written.model, input_size_limit=_LARGE, output_size_limit=_LARGE)
    _name_axes(written.model)
    written.model.metadata_props[KEY] = card.to_json()
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    written.save(str(path), external_data=size > _LARGE)
    onnx.checker.check_model(str(path), full_check=True)


def opset_of(program: ExportedProgram) -> int:
    """The version of ONNX's operators that a program needs."""
    deformable = torch.ops.torchvision.deform_conv2d.default
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    needs = any(node.target is deformable for graph in graphs for node in graph.nodes)
    return OPSET_OF_DEFORMABLE if needs else OPSET


def _name_axes(model: Any) -> None:
    """Call what is free in the inputs by AXES, everywhere in a graph, in place of the tracer's names."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for side, name in zip(value.shape, AXES[value.name], strict=True):
            if not isinstance(side, int):
                names[str(side.value)] = name
    if not names:
        return
    known = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names))
    for value in (*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs)):
        for place, side in enumerate(value.shape or ()):
            if not isinstance(side, int) and side.value is not None:
                value.shape[place] = known.sub(lambda found: names[found[0]], str(side.value))


def write_openvino(
    program: ExportedProgram, inputs: tuple[str, ...], outputs: tuple[str, ...], card: ModelCard, path: Path
) -> None:
    """OpenVINO's .xml and .bin, by way of an ONNX file.

    Raises:
        ValueError: an operator of the model has no counterpart there.
    """
    source = path.with_suffix(".onnx")
    write_onnx(program, inputs, outputs, card, source)
    convert(source, card, path)
    source.unlink()
    source.with_name(f"{source.name}.data").unlink(missing_ok=True)


def convert(source: Path, card: ModelCard, path: Path, half: bool = False) -> None:
    """OpenVINO's .xml and .bin of an ONNX file, in the precision that it has.

    Args:
        half: keep the weights in half precision.

    Raises:
        ValueError: OpenVINO has no counterpart of an operator.
    """
    import openvino

    try:
        model = openvino.convert_model(str(source))
    except Exception as error:  # its frontends have many classes of errors, some of them not even RuntimeErrors
        lacking = _LACKING.search(str(error))
        why = f"it has no counterpart of {lacking[1]}" if lacking else reason(error)
        raise InvalidValueError(f"OpenVINO {openvino.__version__} cannot convert the model: {why}") from error
    model.set_rt_info(card.to_json(), KEY)
    openvino.save_model(model, str(path), compress_to_fp16=half)


def write_program(
    program: ExportedProgram, inputs: tuple[str, ...], outputs: tuple[str, ...], card: ModelCard, path: Path
) -> None:
    """The program as torch.export saves it; it names inputs and outputs by their order."""
    with sizes_of_example(program), quiet():
        torch.export.save(program, str(path), extra_files={f"{KEY}.json": card.to_json()})


_ONNX = ("onnx", "onnxscript")
FORMATS = {
    entry.name: entry
    for entry in (
        Format("onnx", ".onnx", (*_ONNX, "onnxruntime"), write_onnx),
        Format("openvino", ".xml", (*_ONNX, "openvino"), write_openvino),
        Format("torch", ".pt2", (), write_program),
    )
}
"""What can be written, by the name of a format: onnx, openvino and torch."""


def format_of(path: Path, name: str | None) -> Format:
    """The format called so, or the one of the file's ending.

    Raises:
        KeyError: no such format.
        ValueError: the ending is that of another, or of none.
    """
    known = ", ".join(f"{entry.suffix} ({entry.name})" for entry in FORMATS.values())
    if name is None:
        found = next((entry for entry in FORMATS.values() if entry.suffix == path.suffix.lower()), None)
        if found is None:
            raise InvalidValueError(f"{path} ends in {path.suffix!r}, which is no format of exported files: {known}")
        return found
    if name not in FORMATS:
        raise UnknownNameError(f"no format is called {name!r}; {nearest(name, list(FORMATS))}")
    found = FORMATS[name]
    if path.suffix.lower() != found.suffix:
        raise InvalidValueError(
            f"a file of the format {name} ends in {found.suffix}, by which it is known later; {path} ends in "
            f"{path.suffix!r}. The endings: {known}"
        )
    return found


def check_modules(entry: Format) -> None:
    """What a format needs must be installed.

    Raises:
        ImportError: it is not; with the line for pip.
    """
    missing = []
    for name in entry.modules:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise MissingModuleError(
            f"exporting to {entry.name} needs {' and '.join(missing)}, not installed here: pip install "
            f"{' '.join(missing)} (or all that exports need: pip install 'detframe[export]')"
        )


def reason(error: BaseException) -> str:
    """The line of an error's chain that says why."""
    last = error
    while last.__cause__ is not None:
        last = last.__cause__
    lines = [line.strip() for line in str(last).splitlines() if line.strip()]
    first = (lines or [type(last).__name__])[0]
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST]}..."


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters say to those who develop them.

    Some log by the functions of `logging`, which give the process a handler for everything if it has none; so it has.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [entry.level for entry in loggers]
    for entry in loggers:
        entry.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(silent)
        for entry, level in zip(loggers, before, strict=True):
            entry.setLevel(level)
