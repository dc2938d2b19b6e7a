"""The layers of an ONNX graph: which have weights, which feed others, and what lies on the way between them.

Only what is computed from values counts as a way: where a layer's output merely says which rows or places another
reads (boxes of a RoiAlign, indices of a Gather, conditions), the way ends. So the layers that predict are those from
which no way leads to another layer, in every family of detectors, and the network is what lies between layers;
preprocessing, decoding, box arithmetic and NMS lie outside.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# Kinds of layers; the second input is the weight
LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose", "DeformConv")
QUANTIZABLE = ("Conv", "Gemm", "MatMul")
# Of these, the kind that may have values as its second input
_PRODUCT = "MatMul"
# Kinds whose integer form costs nothing between two integer layers
_TRANSPARENT = ("Relu", "Clip", "Add", "MaxPool", "Resize")
# Which inputs of a kind hold values; of the other kinds all do
_VALUES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("ScatterElements", "ScatterND"), (0, 2)),
    "Where": (1, 2),
    **dict.fromkeys(
        (
            "Clip DeformConv Expand Gather GatherElements GatherND GridSample Pad ReduceMax ReduceMean ReduceSum "
            "Reshape Resize RoiAlign Slice Split Squeeze Tile Unsqueeze"
        ).split(),
        (0,),
    ),
    **dict.fromkeys(
        "Equal Greater GreaterOrEqual If Less LessOrEqual Loop NonMaxSuppression NonZero Shape Size TopK".split(), ()
    ),
}
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Layer:
    """A node with a weight.

    Args:
        node: its name in the graph.
        title: where it stands in the model, as "backbone.body.layer1.0.conv2d_1".
        kind: as "Conv".
        values, weight, output: names of its input, weight and output.
        inner: whether it feeds another layer; else it predicts.
        groups: of channels that are convolved separately; as many as channels: depthwise.
    """

    node: str
    title: str
    kind: str
    values: str
    weight: str
    output: str
    inner: bool
    groups: int


class Network:
    """The layers of an ONNX model and what lies between them.

    Args:
        model: an onnx.ModelProto; nodes without a name get one.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        for i, node in enumerate(self.nodes):
            node.name = node.name or f"{node.op_type}_{i}"
        self._constants = {entry.name: entry for entry in model.graph.initializer}
        self._needed = self._feeding()
        self.layers = [self._layer(node) for node in self.nodes if self._has_weight(node)]

    def weight(self, layer: Layer) -> np.ndarray:
        """The weight of a layer, float32."""
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self._constants[layer.weight]), dtype=np.float32)

    def between(self) -> list[Any]:
        """The nodes of the network: its layers and what leads from one to another."""
        derived: set[str] = set()
        out = []
        for node in self.nodes:
            layer = self._has_weight(node)
            if layer or any(name in derived for name in _values(node)):
                derived.update(node.output)
                if layer or any(name in self._needed for name in node.output):
                    out.append(node)
        return out

    def followers(self, layers: Iterable[Layer]) -> list[str]:
        """Nodes that can be computed with integers because these layers are: all their inputs come from them."""
        integer = {layer.output for layer in layers}
        out = []
        for node in self.nodes:
            if node.op_type in _TRANSPARENT and all(name in integer for name in _values(node)):
                integer.update(node.output)
                out.append(node.name)
        return out

    def values_of(self, names: Collection[str]) -> list[str]:
        """Names of the values that the nodes called so take and give, in the order of the graph."""
        found = (name for node in self.nodes if node.name in names for name in (*_values(node), *node.output))
        return list(dict.fromkeys(name for name in found if name not in self._constants))

    def _feeding(self) -> set[str]:
        """Names of the values that some layer is computed from."""
        needed: set[str] = set()
        for node in reversed(self.nodes):
            if self._has_weight(node):
                needed.add(node.input[0])
            elif any(name in needed for name in node.output):
                needed.update(_values(node))
        return needed

    def _has_weight(self, node: Any) -> bool:
        return node.op_type in LAYERS and len(node.input) > 1 and node.input[1] in self._constants

    def _layer(self, node: Any) -> Layer:
        groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
        inner = node.output[0] in self._needed
        return Layer(node.name, _title(node), node.op_type, node.input[0], node.input[1], node.output[0], inner, groups)


def _values(node: Any) -> Iterator[str]:
    places = _VALUES.get(node.op_type)
    for i, name in enumerate(node.input):
        if name and (places is None or i in places) and not (node.op_type in LAYERS and node.op_type != _PRODUCT and i):
            yield name


def _title(node: Any) -> str:
    """The place that torch's exporter notes; the node's name where it does not."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
    try:
        scopes = [str(scope) for scope in ast.literal_eval(noted)] if noted else []
    except (ValueError, SyntaxError):
        scopes = []
    places = [scope for scope in scopes if scope.startswith("model.")]
    return f"{places[-1].removeprefix('model.')}.{scopes[-1]}" if places else str(node.name)
