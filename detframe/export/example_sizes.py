"""Programs of torch.export that load quickly.

torch.export saves the sizes of every tensor of a graph, of those between inputs and outputs too, as formulas of the
sizes of the inputs, and torch.export.load reads each of them with sympy: four fifths of the time that a detector takes
to load. Nothing needs them. Running the graph gives sizes of its own, and what compiles or lowers a program derives
them anew from the inputs. So a file says of them what they are in the example that it was traced with. What is free
stays free in its inputs, its outputs, its constraints and its operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

SYMBOLS = (torch.SymInt, torch.SymBool, torch.SymFloat)


@contextmanager
def sizes_of_example(program: ExportedProgram) -> Iterator[None]:
    """Inside the `with`, what a program says of values between its inputs and outputs is true of its example."""
    outputs = set(program.graph.output_node().all_input_nodes)
    inner = [node for node in program.graph.nodes if node.op == "call_function" and node not in outputs]
    before = {node: node.meta["val"] for node in inner if "val" in node.meta}
    found, known = _Recorded(program).values, set[Any]()
    try:
        for node, value in before.items():
            node.meta["val"] = _as_in(value, found.get(node), known)
        yield
    finally:
        for node, value in before.items():
            node.meta["val"] = value


class _Recorded(fx.Interpreter):
    """What each operation of a program gives for its example, as it is described: tensors without their numbers."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program.graph_module)
        self.values: dict[fx.Node, Any] = {}
        with torch.no_grad():
            self.run(*_inputs(program))

    def run_node(self, n: fx.Node) -> Any:
        """The result of a node, which is noted."""
        result = super().run_node(n)
        if n.op == "call_function":
            self.values[n] = _described(result)
        return result


def _inputs(program: ExportedProgram) -> Iterator[Any]:
    """Everything that the graph takes, in its order: weights, constants, and the example."""
    example = iter(program.example_inputs[0])
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            yield next(example)
        else:
            held = program.state_dict if spec.target in program.state_dict else program.constants
            yield held[spec.target]


def _described(result: Any) -> Any:
    """Sizes and strides in place of tensors."""
    if isinstance(result, Tensor):
        return tuple(result.shape), result.stride()
    return [_described(part) for part in result] if isinstance(result, (list, tuple)) else result


def _as_in(value: Any, found: Any, known: set[Any]) -> Any:
    """What a graph says of a value, with the sizes of the example.

    Sizes that depend on numbers in tensors stay where they first come up, and in what is computed of sizes.

    Args:
        known: the symbols of those that have come up; new ones are added.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(_as_in(part, of_example, known) for part, of_example in zip(value, found, strict=True))
    if not isinstance(value, (Tensor, *SYMBOLS)):
        return value
    symbols = set(free_unbacked_symbols(value))
    new = symbols - known
    known.update(symbols)
    if isinstance(value, Tensor):
        return value if new else value.new_empty_strided(*found)
    return value if symbols else found
