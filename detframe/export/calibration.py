"""What integers of eight bits lose in each layer of an ONNX model, measured on images; and the best ranges for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.export.layers import Layer, Network

Batch = tuple[np.ndarray, np.ndarray]  # images uint8 (N, 3, H, W), sizes int64 (N, 2): the inputs of an exported file
# Values of a tensor that are looked at in one image, evenly spread
_SAMPLES = 4096
# Shares of values that a range may cut off at each end
_CUTS = (0.0, 1e-5, 1e-4, 1e-3)
_STEPS = 255  # of activations
_WEIGHT_LEVELS = 63  # at each side of 0: seven bits; see `to_int8`
# Images on which the loss of each layer is measured: it takes every layer twice more
_NOISE_IMAGES = 4


def collect(source: Path, tensors: Sequence[str], batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Samples of the values of tensors over the batches, their least and greatest among them; a name -> float32 (M,).

    Tensors that were always empty, as of a mask head that saw no detection, are left out.
    """
    session = with_outputs(source, tensors)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for images, sizes in batches:
        for name, values in zip(tensors, run(session, tensors, images, sizes), strict=True):
            if values.size:
                flat = values.reshape(-1)
                taken = flat[:: max(1, flat.size // _SAMPLES)]
                samples[name].append(np.append(taken, (flat.min(), flat.max())))
    return {name: np.concatenate(parts) for name, parts in samples.items() if parts}


def best_range(samples: np.ndarray) -> tuple[float, float]:
    """(lowest, highest): of the ranges that cut off ever more of the ends, the one with the least squared error."""
    ordered = np.sort(samples.astype(np.float64))
    best, least = (float(ordered[0]), float(ordered[-1])), np.inf
    for cut in _CUTS:
        end = round(cut * (len(ordered) - 1))
        low, high = float(min(ordered[end], 0.0)), float(max(ordered[-1 - end], 0.0))
        error = float(np.square(rounded(ordered, low, high) - ordered).mean())
        if error < least:
            best, least = (low, high), error
    return best


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as unsigned integers of a range stand for them."""
    scale = (high - low) / _STEPS or 1.0
    zero = round(-low / scale)
    return (np.clip(np.rint(values / scale) + zero, 0, _STEPS) - zero) * scale


def noise(
    source: Path,
    network: Network,
    layers: Sequence[Layer],
    ranges: Mapping[str, tuple[float, float]],
    batches: Iterable[Batch],
) -> dict[str, float]:
    """What rounding its own input and weight does to the output of each layer: a node -> error over signal.

    Both are mean squares within a channel of the output; the mean of all channels counts, so that channels that hold
    little beside others, as those of depthwise convolutions do, are not forgotten.
    """
    tensors = list(dict.fromkeys(layer.values for layer in layers))
    session = with_outputs(source, tensors)
    single = {layer.node: _Single(network, layer) for layer in layers}
    found: dict[str, list[float]] = {layer.node: [] for layer in layers}
    for _, (images, sizes) in zip(range(_NOISE_IMAGES), batches, strict=False):
        values = dict(zip(tensors, run(session, tensors, images, sizes), strict=True))
        for layer in layers:
            if values[layer.values].size:
                found[layer.node].append(single[layer.node].loss(values[layer.values], ranges[layer.values]))
    return {node: float(np.mean(losses)) if losses else 0.0 for node, losses in found.items()}


class _Single:
    """One layer alone, to run with its weight as it is and rounded."""

    def __init__(self, network: Network, layer: Layer) -> None:
        self._weight = network.weight(layer)
        node = next(node for node in network.nodes if node.name == layer.node)
        self._session = _session_of(network.model, node)
        axis = 0 if layer.kind == "Conv" else _output_axis(node)
        others = tuple(i for i in range(self._weight.ndim) if i != axis)
        scale = np.abs(self._weight).max(others, keepdims=True) / _WEIGHT_LEVELS
        scale[scale == 0] = 1.0
        self._rounded = (np.rint(self._weight / scale) * scale).astype(np.float32)
        self._channel = 1 if layer.kind == "Conv" else -1

    def loss(self, values: np.ndarray, limits: tuple[float, float]) -> float:
        """Error over signal of one output."""
        (right,) = self._session.run(None, {"values": values, "weight": self._weight})
        coarse = rounded(values, *limits).astype(np.float32)
        (wrong,) = self._session.run(None, {"values": coarse, "weight": self._rounded})
        others = tuple(i for i in range(right.ndim) if i != self._channel % right.ndim)
        signal, error = np.square(right).mean(others), np.square(wrong - right).mean(others)
        return float((error / (signal + 1e-12))[signal > 1e-12].mean()) if (signal > 1e-12).any() else 0.0


def _output_axis(node: Any) -> int:
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else 1


def _session_of(model: Any, node: Any) -> Any:
    """A session of a node without its bias, whose inputs are "values" and "weight"."""
    from onnx import TensorProto, helper

    alone = helper.make_node(node.op_type, ["values", "weight"], ["out"])
    alone.attribute.extend(node.attribute)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("values", "weight")]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    graph = helper.make_graph([alone], "layer", inputs, outputs)
    made = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    return open_session(made.SerializeToString())


def with_outputs(source: Path, tensors: Sequence[str]) -> Any:
    """A session of a model whose outputs are these tensors too."""
    import onnx

    model = onnx.load(str(source))
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    return open_session(model.SerializeToString())


def open_session(model: str | bytes) -> Any:
    """A session of onnxruntime on the CPU, which says nothing but errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session: Any, tensors: Sequence[str], images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """The values of tensors for a batch."""
    first, second = (entry.name for entry in session.get_inputs())
    return list(session.run(list(tensors), {first: images, second: sizes}))
