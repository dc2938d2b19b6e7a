"""Files in half precision and in integers: what stays in fp32, what the search does, and how near the values are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detframe.backends import open_model
from detframe.errors import InvalidValueError
from detframe.export.calibration import best_range, open_session, rounded, run
from detframe.export.layers import Network
from detframe.export.precision import check_precision, lower, to_fp16, to_int8

CHANNELS = 8


def tensor(name: str, values: np.ndarray):
    return numpy_helper.from_array(np.asarray(values), name)


def weights(uneven: bool) -> list:
    """Of a stem, a depthwise convolution, a body and the layers that predict; `uneven`: one channel drowns the rest."""
    rng = np.random.default_rng(0)
    shapes = {"stem": (CHANNELS, 3, 3, 3), "depthwise": (CHANNELS, 1, 3, 3), "body": (CHANNELS, CHANNELS, 3, 3)}
    shapes |= {"score": (1, CHANNELS, 1, 1), "fc": (CHANNELS * 4, 6), "box": (6, 4)}
    made = {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    if uneven:
        made["stem"][0] *= 2000
    return [tensor(name, values) for name, values in made.items()]


@pytest.fixture
def small(tmp_path):
    """A detector in miniature: layers, a prediction that chooses places, RoIs pooled there, layers, a prediction."""

    def make(uneven: bool = False):
        node = helper.make_node
        conv = {"pads": [1, 1, 1, 1]}
        nodes = [
            node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
            node("Mul", ["float", "unit"], ["pixels"]),
            node("Conv", ["pixels", "stem"], ["a"], name="stem", **conv),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "depthwise"], ["c"], name="depthwise", group=CHANNELS, **conv),
            node("Relu", ["c"], ["d"]),
            node("Conv", ["d", "body"], ["e"], name="body", **conv),
            node("Add", ["e", "d"], ["f"], name="add"),
            node("Conv", ["f", "score"], ["g"], name="score"),
            node("Reshape", ["g", "flat"], ["h"]),
            node("TopK", ["h", "three"], ["best", "where"]),
            node("Cast", ["best"], ["corner"], to=TensorProto.FLOAT),
            node("Sigmoid", ["corner"], ["near"]),
            node("Reshape", ["near", "column"], ["x"]),
            node("Concat", ["x", "x", "ends", "ends"], ["rois"], axis=1),
            node("RoiAlign", ["f", "rois", "first"], ["pooled"], name="pool", output_height=2, output_width=2),
            node("Flatten", ["pooled"], ["rows"]),
            node("Gemm", ["rows", "fc"], ["i"], name="fc"),
            node("Relu", ["i"], ["j"]),
            node("MatMul", ["j", "box"], ["boxes"], name="box"),
            node("Identity", ["sizes"], ["count"]),
        ]
        constants = [
            tensor("unit", np.float32(1 / 255)),
            tensor("flat", np.array([1, -1])),
            tensor("three", np.array([3])),
        ]
        constants += [tensor("column", np.array([3, 1])), tensor("first", np.zeros(3, dtype=np.int64))]
        constants += [tensor("ends", np.full((3, 1), 9, dtype=np.float32))]
        inputs = [
            helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 3, "h", "w"]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [1, 2]),
        ]
        outputs = [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [3, 4]),
            helper.make_tensor_value_info("count", TensorProto.INT64, [1, 2]),
        ]
        graph = helper.make_graph(nodes, "small", inputs, outputs, [*weights(uneven), *constants])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        helper.set_model_props(model, {"detframe": "a card"})
        path = tmp_path / "small.onnx"
        onnx.save(model, path)
        return path

    return make


def batches(number: int = 4):
    rng = np.random.default_rng(1)
    sizes = np.array([[24, 32]])
    return [(rng.integers(0, 256, (1, 3, 24, 32), dtype=np.uint8), sizes) for _ in range(number)]


def boxes(path):
    session = open_session(str(path))
    return np.concatenate([run(session, ["boxes"], *batch)[0] for batch in batches()])


def test_layers_that_predict_are_those_that_feed_no_other(small):
    network = Network(onnx.load(small()))
    assert {layer.node for layer in network.layers if layer.inner} == {"stem", "depthwise", "body", "fc"}
    assert {layer.node for layer in network.layers if not layer.inner} == {"score", "box"}
    assert next(layer for layer in network.layers if layer.node == "depthwise").groups == CHANNELS
    kinds = [node.op_type for node in network.between()]
    assert kinds == "Conv Relu Conv Relu Conv Add Conv RoiAlign Flatten Gemm Relu MatMul".split()


def test_both_sides_of_a_product_lead_to_the_next_layer():
    """As in attention, and where shares of cells multiply the cells."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "first"], ["a"], name="first"),
        node("MatMul", ["shares", "a"], ["b"], name="product"),
        node("MatMul", ["b", "second"], ["c"], name="second"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 2)) for name in ("x", "shares", "c")]
    constants = [tensor(name, np.eye(2, dtype=np.float32)) for name in ("first", "second")]
    network = Network(helper.make_model(helper.make_graph(nodes, "product", ends[:2], ends[2:], constants)))
    assert [(layer.node, layer.inner) for layer in network.layers] == [("first", True), ("second", False)]
    assert [node.name for node in network.between()] == ["first", "product", "second"]


def test_fp16_halves_the_network_and_leaves_coordinates(small, tmp_path):
    source, target = small(), tmp_path / "half.onnx"
    facts = to_fp16(source, target)
    assert (facts.bytes, facts.kept) == (target.stat().st_size, ())
    model = onnx.load(target)
    types = {entry.name: entry.data_type for entry in model.graph.initializer}
    assert {types[name] for name in ("stem", "depthwise", "body", "fc", "box")} == {TensorProto.FLOAT16}
    assert types["unit"] == types["ends"] == TensorProto.FLOAT
    assert [entry.type.tensor_type.elem_type for entry in model.graph.output] == [TensorProto.FLOAT, TensorProto.INT64]
    np.testing.assert_allclose(boxes(target), boxes(source), atol=0.02)
    assert {entry.key: entry.value for entry in model.metadata_props}["detframe"] == "a card"


def test_int8_is_near_and_says_what_stays(small, tmp_path):
    source, target = small(), tmp_path / "int8.onnx"
    facts = to_int8(source, target, iter(batches()))
    assert {kept.layer: kept.reason for kept in facts.kept} == {
        "score": "predicts: its output is decoded",
        "box": "predicts: its output is decoded",
    }
    assert (facts.layers, facts.images, facts.bytes) == (6, 4, target.stat().st_size)
    expected, found = boxes(source), boxes(target)
    assert np.abs(found - expected).max() < 0.08 * np.abs(expected).max()
    model = onnx.load(target)
    stored = {entry.name: entry for entry in model.graph.initializer}
    assert stored["stem_quantized"].data_type == TensorProto.INT8
    assert np.abs(numpy_helper.to_array(stored["stem_quantized"]).astype(int)).max() <= 64  # seven bits
    assert stored["stem_scale"].dims == [CHANNELS]
    assert {entry.key: entry.value for entry in model.metadata_props}["detframe"] == "a card"


def test_a_depthwise_layer_of_uneven_channels_stays_in_fp32(small, tmp_path):
    source, target = small(uneven=True), tmp_path / "int8.onnx"
    facts = to_int8(source, target, batches())
    reasons = {kept.layer: kept.reason for kept in facts.kept}
    assert reasons["depthwise"].startswith("depthwise: too coarse as int8: signal over noise")
    assert "stem" not in reasons
    names = {entry.name for entry in onnx.load(target).graph.initializer}
    assert "depthwise" in names and "stem_quantized" in names


def test_the_search_keeps_what_costs_too_much(small, tmp_path):
    """A judge that gives a point less for each int8 layer: with 2.5 allowed two are int8, the least noisy ones."""
    source, target = small(), tmp_path / "int8.onnx"

    def score(path):
        return 50.0 - sum(name.endswith("_quantized") for name in initializers(path))

    def initializers(path):
        return [entry.name for entry in onnx.load(path).graph.initializer]

    facts = to_int8(source, target, batches(), score, tolerance=2.5)
    assert score(target) == 48
    assert facts.scores == {"fp32": 50.0, "int8": 48.0, "all int8": 46.0}
    assert sum("loses more than 2.5 AP" in kept.reason for kept in facts.kept) == 2
    assert facts.to_dict()["calibration_scores"]["int8"] == 48.0


def test_int8_that_loses_nothing_is_measured_twice(small, tmp_path):
    seen = []
    facts = to_int8(small(), tmp_path / "int8.onnx", batches(), lambda path: seen.append(path) or 40.0)
    assert len(seen) == 2 and facts.scores == {"fp32": 40.0, "int8": 40.0}


def test_the_file_that_was_measured_last_is_not_made_again(small, tmp_path, monkeypatch):
    from onnxruntime.quantization import QDQQuantizer

    made, quantize = [], QDQQuantizer.quantize_model
    monkeypatch.setattr(QDQQuantizer, "quantize_model", lambda self: made.append(self) or quantize(self))
    source, target = small(), tmp_path / "int8.onnx"
    measured = []
    to_int8(source, target, batches(), lambda path: measured.append(path.read_bytes()) or 40.0)
    assert len(made) == 1 and target.read_bytes() == measured[-1] != measured[0]


def test_without_calibration_images_nothing_is_written(small, tmp_path):
    target = tmp_path / "int8.onnx"
    with pytest.raises(InvalidValueError, match=r"DATASETS\.TRAIN"):
        lower(small(), target, "int8")
    assert not target.exists()


@pytest.mark.parametrize(("name", "form"), [("int4", "onnx"), ("int8", "torch"), ("fp16", "torch")])
def test_precisions_that_are_not_there_are_refused(name, form):
    with pytest.raises(InvalidValueError, match=name):
        check_precision(name, form)


def test_a_range_cuts_off_what_costs_more_than_it_brings():
    values = np.append(np.random.default_rng(0).normal(size=2_000_000), [60.0])
    low, high = best_range(values.astype(np.float32))
    assert high < 10 and low > -6
    np.testing.assert_allclose(rounded(np.array([0.0, 1.0]), -1.0, 1.55), [0.0, 1.0], atol=1e-6)


def agreement(found, expected):
    """The share of the expected detections, sure ones, that are found with a score and box near theirs."""
    hits, total = 0, 0
    for i, count in enumerate(expected["count"]):
        for row in range(count):
            total += 1
            near = np.abs(found["boxes"][i, : found["count"][i]] - expected["boxes"][i, row]).max(1, initial=0) < 3
            like = np.abs(found["scores"][i, : found["count"][i]] - expected["scores"][i, row]) < 0.03
            hits += bool((near & like).any())
    return hits / total


@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.8), ("int8", 0.5)])
def test_a_detector_finds_nearly_the_same(exported, tmp_path, precision, least):
    """Of random weights, where scores and boxes of all proposals are nearly alike and a few of 8 rows change place."""
    rng = np.random.default_rng(0)
    sizes = np.array([[90, 120]])
    data = [(rng.integers(0, 256, (1, 3, 90, 120), dtype=np.uint8), sizes) for _ in range(3)]
    target = tmp_path / "lower.onnx"
    facts = lower(exported.path, target, precision, data)
    assert facts["layers"] > 25 and facts["bytes"] < exported.path.stat().st_size
    if precision == "int8":
        assert all("predicts" in kept["reason"] for kept in facts["kept_in_fp32"])
        assert {kept["layer"].rsplit(".", 1)[0] for kept in facts["kept_in_fp32"]} == {
            "rpn.head.cls_logits",
            "rpn.head.bbox_pred",
            "roi_heads.box_predictor.cls_score",
            "roi_heads.box_predictor.bbox_pred",
        }
    files = [open_model(path, "cpu") for path in (exported.path, target)]
    assert files[1].card.class_names == files[0].card.class_names
    shares = [agreement(files[1].run(*batch), files[0].run(*batch)) for batch in data]
    assert np.mean(shares) > least
