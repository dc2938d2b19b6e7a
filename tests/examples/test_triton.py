"""The model repository of Triton, read by Triton's own definition, and the client against a server of its protocol."""

from __future__ import annotations

import sys
from concurrent import futures

import numpy as np
import PIL.Image
import pytest

from tests.inference.conftest import picture
from tests.scripts import load_script

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:google.protobuf.*"
)  # grpc's files are of an older protobuf
CARD = (
    '{"class_names": ["a \\"b\\"", "größe"], "category_ids": [1, 7], "config": "secret", "class_agnostic": false, '
    '"input": {"height": null, "width": null, "batch": null, "min_size": 40, "max_size": 100, "divisor": 32}}'
)


def load(name):
    return load_script(f"examples/triton/{name}.py")


@pytest.fixture(scope="module")
def example():
    return load("make_repository")


@pytest.fixture(scope="module")
def parsed():
    """config.pbtxt as Triton reads it."""
    definition = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return lambda path: text_format.Parse(path.read_text(encoding="utf-8"), definition.ModelConfig())


def write_model(path, batch="n", side=None, kind=None, card=CARD):
    """A file with the signature of an exported detector: one box for each picture, its whole size, of label 2."""
    tensor, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    height, width = (side, side) if side else ("h", "w")
    inputs = [
        tensor("images", kind or types.UINT8, [batch, 3, height, width]),
        tensor("sizes", types.INT64, [batch, 2]),
    ]
    outputs = [
        tensor("boxes", types.FLOAT, [batch, 1, 4]),
        tensor("scores", types.FLOAT, [batch, 1]),
        tensor("labels", types.INT64, [batch, 1]),
        tensor("count", types.INT64, [batch]),
    ]
    node, value = onnx.helper.make_node, onnx.numpy_helper.from_array
    constants = {
        "order": np.array([1, 0]), "zero": np.array([0]), "one": np.array([1]), "axis": np.array([1]),
        "score": np.array([0.9], np.float32), "label": np.array([2]),
    }  # fmt: skip
    nodes = [
        node("Gather", ["sizes", "order"], ["wh"], axis=1),
        node("Mul", ["wh", "zero"], ["corner"]),
        node("Concat", ["corner", "wh"], ["box"], axis=1),
        node("Unsqueeze", ["box", "axis"], ["whole"]),
        node("Cast", ["whole"], ["boxes"], to=types.FLOAT),
        node("ReduceMin", ["corner", "axis"], ["none"], keepdims=1),
        node("Cast", ["none"], ["flat"], to=types.FLOAT),
        node("Add", ["flat", "score"], ["scores"]),
        node("Add", ["none", "label"], ["labels"]),
        node("ReduceMin", ["corner", "axis"], ["empty"], keepdims=0),
        node("Add", ["empty", "one"], ["count"]),
    ]
    weights = [value(array, name) for name, array in constants.items()]
    graph = onnx.helper.make_graph(nodes, "detector", inputs, outputs, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    if card:
        onnx.helper.set_model_props(model, {"detframe": card})
    onnx.save(model, path)
    return path


def test_the_config_has_names_types_and_dimensions_of_the_file(example, parsed, tmp_path):
    config = example.make(write_model(tmp_path / "m.onnx"), tmp_path / "models", "cells")
    read = parsed(config)
    assert read.name == "cells" and read.backend == "onnxruntime" and read.max_batch_size == 8
    assert read.HasField("dynamic_batching")
    definition = type(read).DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name["data_type"].enum_type
    shape = {t.name: (definition.values_by_number[t.data_type].name, list(t.dims)) for t in [*read.input, *read.output]}
    assert shape == {
        "images": ("TYPE_UINT8", [3, -1, -1]),
        "sizes": ("TYPE_INT64", [2]),
        "boxes": ("TYPE_FP32", [1, 4]),
        "scores": ("TYPE_FP32", [1]),
        "labels": ("TYPE_INT64", [1]),
        "count": ("TYPE_INT64", [1]),
    }
    assert read.output[3].HasField("reshape") and list(read.output[3].reshape.shape) == []
    assert read.parameters["class_names"].string_value == '["a \\"b\\"", "größe"]'
    assert "config" not in read.parameters  # which is long, and nobody asks a server for it
    assert (config.parent / "1" / "model.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_a_fixed_batch_is_part_of_the_dimensions(example, parsed, tmp_path):
    read = parsed(example.make(write_model(tmp_path / "m.onnx", batch=2, side=64), tmp_path / "models", "cells"))
    assert read.max_batch_size == 0 and not read.HasField("dynamic_batching")
    assert [list(t.dims) for t in [*read.input, *read.output]] == [
        [2, 3, 64, 64],
        [2, 2],
        [2, 1, 4],
        [2, 1],
        [2, 1],
        [2],
    ]


def test_a_file_of_detframe(example, parsed, tmp_path):
    from tests.backends import handmade

    read = parsed(example.make(handmade.write(tmp_path / "m.onnx", masks=True), tmp_path / "models", "cells"))
    assert [one.name for one in read.input] == ["images", "sizes"]
    assert [one.name for one in read.output] == ["boxes", "scores", "labels", "count", "masks"]
    assert read.parameters["class_names"].string_value == '["cat", "dog"]' and read.max_batch_size == 8


def test_another_version_and_one_that_is_there(example, tmp_path):
    path = write_model(tmp_path / "m.onnx", card="")
    example.make(path, tmp_path / "models", "cells")
    example.make(path, tmp_path / "models", "cells", version=2)
    assert (tmp_path / "models" / "cells" / "2" / "model.onnx").is_file()
    with pytest.raises(ValueError, match="is there already; take another --version"):
        example.make(path, tmp_path / "models", "cells", version=2)


def test_weights_beside_the_file_come_along(example, tmp_path):
    path = write_model(tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").write_bytes(b"weights")
    config = example.make(path, tmp_path / "models", "cells")
    assert (config.parent / "1" / "m.onnx.data").read_bytes() == b"weights"


def test_what_is_no_exported_file_leaves_nothing(example, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.onnx").write_bytes(b"\xff no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("bad.onnx", "empty.onnx"):
        with pytest.raises(ValueError, match=f"{name} is no ONNX file"):
            example.make(tmp_path / name, tmp_path / "models", "cells")
    strange = write_model(tmp_path / "strange.onnx", kind=onnx.TensorProto.COMPLEX64)
    with pytest.raises(ValueError, match="'images' is of the type COMPLEX64, which Triton does not have"):
        example.make(strange, tmp_path / "models", "cells")
    for name in ("../cells", "", "a b"):
        with pytest.raises(ValueError, match="a name has letters"):
            example.make(strange, tmp_path / "models", name)
    monkeypatch.setattr(sys, "argv", ["make_repository.py", str(tmp_path / "none.onnx")])
    with pytest.raises(SystemExit):
        example.main()
    assert "none.onnx" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


@pytest.fixture
def server(example, parsed, tmp_path):
    """Triton's protocol on the loopback: the model's config, and onnxruntime behind it; gives the address."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    config = parsed(example.make(write_model(tmp_path / "m.onnx"), tmp_path / "models", "cells"))
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelConfig(self, request, context):  # noqa: N802
            return service_pb2.ModelConfigResponse(config=config)

        def ModelInfer(self, request, context):  # noqa: N802
            types = {"UINT8": np.uint8, "INT64": np.int64}
            given = {
                one.name: np.frombuffer(raw, types[one.datatype]).reshape(one.shape)
                for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
            }
            answer = service_pb2.ModelInferResponse(model_name=request.model_name)
            for output, value in zip(session.get_outputs(), session.run(None, given), strict=True):
                value = value.reshape(len(value), -1) if output.name == "count" else value
                kind = {"float32": "FP32", "int64": "INT64"}[str(value.dtype)]
                answer.outputs.add(name=output.name, datatype=kind, shape=value.shape)
                answer.raw_output_contents.append(value.tobytes())
            return answer

    running = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}"
    running.stop(None).wait()


def test_the_client_gives_boxes_in_pixels_of_the_picture(server, tmp_path, monkeypatch, capsys):
    client = load("client")
    image = PIL.Image.fromarray(picture(120, 200, seed=0))
    with client.triton.InferenceServerClient(server) as connection:
        (found,) = client.detect(connection, "cells", image)
    assert found["name"] == "größe" and found["score"] == pytest.approx(0.9)
    assert found["box"] == pytest.approx([0, 0, 200, 120], abs=0.01)
    image.save(tmp_path / "a.png")
    monkeypatch.setattr(sys, "argv", ["client.py", str(tmp_path / "a.png"), "--model", "cells", "--url", server])
    client.main()
    assert "größe 0.90" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "how", "plane", "inside"),
    [
        ((200, 120), {"height": None, "width": None, "min_size": 60, "max_size": 80}, (48, 80), (48, 80)),
        ((200, 120), {"height": None, "width": None, "min_size": 0, "max_size": 0}, (120, 200), (120, 200)),
        ((200, 120), {"height": None, "width": None, "min_size": 60, "max_size": 0}, (60, 100), (60, 100)),
        ((101, 33), {"height": None, "width": None, "min_size": 20, "max_size": 80}, (20, 61), (20, 61)),
        ((200, 120), {"height": 64, "width": 64, "min_size": 60, "max_size": 80}, (64, 64), (38, 64)),
    ],
)
def test_pictures_are_laid_into_their_plane(size, how, plane, inside):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    images, sizes, enlarged = load("client").prepare(PIL.Image.new("RGB", size, (255, 255, 255)), how)
    assert images.shape == (1, 3, *plane) and sizes.tolist() == [list(inside)]
    assert images[0, :, : inside[0], : inside[1]].min() == 255 and images.sum() == 255 * 3 * inside[0] * inside[1]
    assert enlarged.tolist() == [inside[1] / size[0], inside[0] / size[1]] * 2
