"""Half precision in a graph: where values are fp16, where they stay as they are, and what loops and branches read."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from detframe.backends.openvino_file import shared_core
from detframe.export.half import half_precision

FLOAT, HALF, INT, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL
X = np.array([[1, 2, 3, 4]], dtype=np.float32)
node, value = helper.make_node, helper.make_tensor_value_info
CONSTANTS = {
    "w": 2 * np.eye(4, dtype=np.float32),
    "v": np.eye(4, dtype=np.float32),
    "far_by": np.float32([1001]),  # 3003 is no number of fp16
    "huge": np.float32([1e6]),
    "scales": np.float32([1, 1, 1, 2]),
    "map": np.array([1, 1, 1, 4]),
    "nothing": np.zeros((1, 4), dtype=np.float32),
}


def branch(name: str, op: str, *inputs: str):
    return helper.make_graph([node(op, inputs, [name])], name, [], [value(name, FLOAT, [1, 4])])


def body():
    """Of a loop: it reads results of both precisions, a weight and an input of the graph, and a branch does too."""
    branches = {"then_branch": branch("a", "Add", "r", "far"), "else_branch": branch("b", "Identity", "r")}
    nodes = [
        node("Cast", ["i"], ["later"], to=BOOL),
        node("If", ["later"], ["one"], **branches),
        node("MatMul", ["x", "w"], ["two"]),
        node("Add", ["one", "two"], ["three"]),
        node("Add", ["before", "three"], ["after"]),
        node("Identity", ["go"], ["goes"]),
    ]
    inputs = [value("i", INT, []), value("go", BOOL, []), value("before", FLOAT, [1, 4])]
    return helper.make_graph(nodes, "body", inputs, [value("goes", BOOL, []), value("after", FLOAT, [1, 4])])


@pytest.fixture(scope="module")
def source():
    nodes = [
        node("Mul", ["x", "far_by"], ["far"], name="far"),
        node("Sub", ["far", "far_by"], ["near"], name="near"),
        node("MatMul", ["x", "w"], ["h"], name="layer"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["p"], name="last"),
        node("Reshape", ["p", "map"], ["m"], name="reshape"),
        node("Resize", ["m", "", "scales"], ["large"], name="resize"),
        node("Add", ["large", "huge"], ["sum"], name="sum"),
        node("Loop", ["n", "", "nothing"], ["total"], name="loop", body=body()),
    ]
    ends = [value("x", FLOAT, [1, 4]), value("n", INT, [])]
    results = [value("total", FLOAT, [1, 4]), value("near", FLOAT, [1, 4]), value("sum", FLOAT, [1, 1, 1, 8])]
    results.append(value("p", FLOAT, [1, 4]))
    constants = [numpy_helper.from_array(np.asarray(values), name) for name, values in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "graph", ends, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def half(source):
    return half_precision(source, {"layer", "relu", "last", "reshape", "resize"})


def expected(number: int):
    far = 1001 * X
    total = number * 4 * X + max(number - 1, 0) * far
    return [total, far - 1001, np.repeat(2 * X, 2)[None, None, None] + np.float32(1e6), 2 * X]


@pytest.mark.parametrize("number", [0, 1, 4])
def test_loops_read_what_they_were_written_for_and_fp32_is_never_rounded(source, half, number):
    """Numbers that the nodes in fp16 meet are numbers of fp16, and all others are not."""
    onnx.checker.check_model(half, full_check=True)
    inputs = {"x": X, "n": np.array(number)}
    for model in (source, half):
        found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
        for ours, wanted in zip(found, expected(number), strict=True):
            np.testing.assert_array_equal(ours, wanted)


def test_openvino_reads_it(half):
    pytest.importorskip("openvino")
    core = shared_core()
    read = core.read_model(half.SerializeToString())
    found = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": X, "n": np.array(3)})
    for ours, wanted in zip(found.values(), expected(3), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_values_are_fp16_where_the_nodes_called_so_give_or_take_them(source, half):
    constants = {entry.name: entry.data_type for entry in half.graph.initializer}
    assert {name for name, kind in constants.items() if kind == HALF} == {"w_fp16", "v"}  # a body reads w
    assert constants.keys() == {*CONSTANTS, "w_fp16"}
    noted = {entry.name: entry.type.tensor_type.elem_type for entry in half.graph.value_info}
    assert {name for name, kind in noted.items() if kind == HALF} >= {"h", "r_fp16", "m"}
    assert noted["far"] == noted["r"] == FLOAT
    casts = [(one.input[0], one.output[0]) for one in half.graph.node if one.op_type == "Cast"]
    assert casts == [("x", "x_fp16"), ("r_fp16", "r"), ("p_fp16", "p"), ("large_fp16", "large")]
    assert "Cast" not in [one.op_type for one in source.graph.node]  # it stays as it was


def test_weights_beyond_fp16_become_its_largest_number():
    weight = numpy_helper.from_array(np.float32([[1e6, -1e6], [1e-9, 1]]), "w")
    ends = value("x", FLOAT, ["rows", 2]), value("y", FLOAT, ["rows", 2])
    graph = helper.make_graph([node("MatMul", ["x", "w"], ["y"], name="layer")], "graph", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    half = half_precision(model, {"layer"})
    (found,) = (numpy_helper.to_array(entry) for entry in half.graph.initializer)
    np.testing.assert_array_equal(found, np.float16([[65504, -65504], [0, 1]]))


def test_names_that_are_taken_stay_what_they_were():
    nodes = [
        node("Relu", ["x"], ["x_fp16"], name="first"),
        node("MatMul", ["x", "w"], ["y"], name="layer"),
        node("Add", ["x_fp16", "y"], ["z"], name="add"),
    ]
    ends = value("x", FLOAT, [1, 4]), value("z", FLOAT, [1, 4])
    weight = numpy_helper.from_array(CONSTANTS["w"], "w")
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    half = half_precision(model, {"layer"})
    (found,) = onnxruntime.InferenceSession(half.SerializeToString()).run(None, {"x": X})
    np.testing.assert_array_equal(found, 3 * X)
