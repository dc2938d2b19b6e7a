"""A model repository of Triton for a detector that `detframe export --format onnx` has written.

    python examples/triton/make_repository.py model.onnx --name cells --repository model_repository

It holds cells/1/model.onnx and cells/config.pbtxt, with the inputs and outputs of the ONNX file. Where the batch is
free, Triton forms batches of requests of one size by itself.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

# Of ONNX's types, those that Triton has
TYPES = {
    "FLOAT": "TYPE_FP32",
    "FLOAT16": "TYPE_FP16",
    "DOUBLE": "TYPE_FP64",
    "BFLOAT16": "TYPE_BF16",
    "BOOL": "TYPE_BOOL",
    "STRING": "TYPE_STRING",
    **{f"{sign}INT{bits}": f"TYPE_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
CARD = "detframe"  # what the file says of itself
SHOWN = ("class_names", "category_ids", "input", "thresholds", "keypoint_names", "class_agnostic")


def config_of(path: Path, name: str, max_batch: int = 8, delay_us: int = 1000) -> str:
    """The text of config.pbtxt.

    Args:
        max_batch: the largest batch that Triton may form, where the file's batch is free.
        delay_us: how long a request waits for company, in microseconds.

    Raises:
        ValueError: no ONNX file, or one with a type that Triton does not have.
    """
    model = load(path)
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    batched = all(free_batch(one) for one in [*inputs, *model.graph.output])
    lines = [f"name: {quoted(name)}", 'backend: "onnxruntime"', f"max_batch_size: {max_batch if batched else 0}"]
    lines += [tensor("input", one, batched) for one in inputs]
    lines += [tensor("output", one, batched) for one in model.graph.output]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}")
    return "\n".join([*lines, *parameters(model)]) + "\n"


def load(path: Path) -> Any:
    """The ONNX file, without weights that lie beside it."""
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf's own, whatever it is called
        raise ValueError(f"{path} is no ONNX file ({error})") from None
    if not model.graph.output:
        raise ValueError(f"{path} is no ONNX file: it has no outputs")
    return model


def free_batch(value: Any) -> bool:
    """Whether the first dimension of an input or output is free."""
    shape = value.type.tensor_type.shape.dim
    return len(shape) > 0 and not shape[0].HasField("dim_value")


def tensor(kind: str, value: Any, batched: bool) -> str:
    """An input or output; Triton leaves out the batch that it forms, and knows no tensor without dimensions."""
    element = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if element not in TYPES:
        raise ValueError(f"the {kind} {value.name!r} is of the type {element}, which Triton does not have")
    shape = [one.dim_value if one.HasField("dim_value") else -1 for one in value.type.tensor_type.shape.dim]
    shape = shape[1:] if batched else shape
    dims = f"dims: {shape}" if shape else "dims: [1] reshape { shape: [] }"
    return f"{kind} [{{ name: {quoted(value.name)} data_type: {TYPES[element]} {dims} }}]"


def parameters(model: Any) -> Iterable[str]:
    """What clients want to know, as JSON in the model's parameters: class names, how to resize, ..."""
    entries = {one.key: one.value for one in model.metadata_props}
    card = json.loads(entries.get(CARD, "{}"))
    for key in SHOWN:
        if key in card:
            value = quoted(json.dumps(card[key], ensure_ascii=False))
            yield f"parameters {{ key: {quoted(key)} value {{ string_value: {value} }} }}"


def quoted(text: str) -> str:
    """A string of protobuf's text format, whatever is in it."""
    safe = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(safe)}"'


def make(path: Path, repository: Path, name: str, version: int = 1, **how: int) -> Path:
    """Write the folder of a model, or another version into it; gives config.pbtxt.

    Raises:
        ValueError: a name that Triton does not take, or a version that is there.
    """
    if not re.fullmatch(r"[\w.-]+", name) or version < 1:
        raise ValueError(f"{name!r}, version {version}: a name has letters, digits, _ . -, and versions count from 1")
    folder = repository / name / str(version)
    if folder.exists():
        raise ValueError(f"{folder} is there already; take another --version, or remove it")
    text = config_of(path, name, **how)
    folder.mkdir(parents=True)
    for file in {path, *path.parent.glob(f"{path.name}.data")}:  # large weights lie beside, under the name in the file
        shutil.copy(file, folder / ("model.onnx" if file == path else file.name))
    config = repository / name / "config.pbtxt"
    config.write_text(text, encoding="utf-8")
    return config


def main() -> None:
    """Make the repository that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument("--name", help="of the model for clients; else the name of the file")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=8)
    given = parser.parse_args()
    name = given.name or given.model.stem
    try:
        config = make(given.model, given.repository, name, given.version, max_batch=given.max_batch)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"written: {config} and {config.parent / str(given.version)}")


if __name__ == "__main__":
    main()
