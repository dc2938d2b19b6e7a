"""An ONNX graph with some of its nodes in half precision, and every other value in fp32 from end to end.

A value is fp16 only where a node in half precision gives or takes it. What other nodes read, results of the graph, and
what bodies of loops and branches take from outside keep type and name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

# Of these kinds only the first input can be fp16
_FIRST_ALONE = ("Resize",)


def half_precision(model: Any, names: Collection[str]) -> Any:
    """The model with the nodes called so in half precision: their weights, and the values that they take and give.

    Args:
        model: an onnx.ModelProto whose nodes all have names; it stays as it is.
        names: nodes of the graph itself, without bodies, whose kinds compute in fp16.
    """
    import onnx

    shaped = onnx.shape_inference.infer_shapes(model)
    _Halving(shaped.graph, frozenset(names)).write()
    return shaped


class _Halving:
    """One graph on its way to half precision.

    Args:
        graph: an onnx.GraphProto that notes the types of its values; it is changed.
        names: of the nodes in half precision.
    """

    def __init__(self, graph: Any, names: frozenset[str]) -> None:
        self._graph, self._names = graph, names
        self._noted = {entry.name: entry for entry in graph.value_info}
        self._weights = {entry.name: entry for entry in graph.initializer}
        self._floats = set(_floats(graph))
        self._wide = set(self._read_wide())
        self._narrow: dict[str, str] = {}  # of values in fp32, the same in fp16
        self._nodes: list[Any] = []

    def write(self) -> None:
        """Convert the nodes, with casts where fp16 and fp32 meet."""
        for node in list(self._graph.node):
            if node.name in self._names:
                self._convert(node)
            else:
                self._nodes.append(node)
        self._graph.ClearField("node")
        self._graph.node.extend(self._nodes)

    def _convert(self, node: Any) -> None:
        from onnx import TensorProto

        for i in self._half_inputs(node):
            node.input[i] = self._narrowed(node.input[i])
        self._nodes.append(node)
        for i, name in enumerate(node.output):
            if name in self._floats:
                node.output[i] = self._half_name(name)
                if name in self._wide:
                    self._cast(node.output[i], name, TensorProto.FLOAT)

    def _half_inputs(self, node: Any) -> list[int]:
        """Which inputs of a node in half precision are fp16."""
        number = 1 if node.op_type in _FIRST_ALONE else len(node.input)
        return [i for i in range(number) if node.input[i] in self._floats]

    def _narrowed(self, name: str) -> str:
        """The name of a value in fp16, which is made where there is none yet."""
        from onnx import TensorProto

        if name in self._narrow:
            return self._narrow[name]
        if name in self._weights:
            self._halve_weight(self._weights[name])
        else:
            self._wide.add(name)  # in fp32 it is there, and stays
            self._cast(name, self._half_name(name), TensorProto.FLOAT16)
        return self._narrow[name]

    def _halve_weight(self, weight: Any) -> None:
        """In its place, unless fp32 is read too; what is beyond fp16 becomes its largest number."""
        from onnx import numpy_helper

        largest = np.finfo(np.float16).max
        values = np.clip(numpy_helper.to_array(weight), -largest, largest).astype(np.float16)
        half = numpy_helper.from_array(values, self._half_name(weight.name))
        (self._graph.initializer.add() if weight.name in self._wide else weight).CopyFrom(half)

    def _half_name(self, name: str) -> str:
        """What a value is called in fp16: as ever, unless fp32 is read too."""
        from onnx import TensorProto

        half = f"{name}_fp16" if name in self._wide else name
        while half != name and (half in self._noted or half in self._weights):
            half += "_"
        self._narrow[name] = half
        if name in self._noted:
            noted = self._graph.value_info.add() if half != name else self._noted[name]
            noted.CopyFrom(self._noted[name])
            noted.name, noted.type.tensor_type.elem_type = half, TensorProto.FLOAT16
        return half

    def _cast(self, source: str, target: str, to: int) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node("Cast", [source], [target], f"{target}_cast", to=to))

    def _read_wide(self) -> Iterator[str]:
        """Names of the values that are read in fp32, if they are floats."""
        yield from (entry.name for entry in self._graph.output)
        for node in self._graph.node:
            half = self._half_inputs(node) if node.name in self._names else ()
            yield from (name for i, name in enumerate(node.input) if i not in half)
            yield from _read_inside(node)


def _floats(graph: Any) -> Iterator[str]:
    """Names of the graph's values in fp32."""
    from onnx import TensorProto

    for entry in (*graph.value_info, *graph.input, *graph.output):
        if entry.type.tensor_type.elem_type == TensorProto.FLOAT:
            yield entry.name
    yield from (entry.name for entry in graph.initializer if entry.data_type == TensorProto.FLOAT)


def _read_inside(node: Any) -> Iterator[str]:
    """Names that the bodies of a loop or branch read, those of their own values among them."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            yield from (entry.name for entry in body.output)
            for inner in body.node:
                yield from inner.input
                yield from _read_inside(inner)
