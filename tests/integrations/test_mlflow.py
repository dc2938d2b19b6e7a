"""The flavour of MLflow against MLflow itself: saved, logged, loaded back, and served as a table."""

from __future__ import annotations

import base64
import json

import numpy as np
import PIL.Image
import pytest
import torch

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (mlflow-skinny is enough)")
pandas = pytest.importorskip("pandas", reason="pandas is not installed")
from detframe.errors import InvalidValueError  # noqa: E402
from detframe.inference import Detector  # noqa: E402
from detframe.integrations import mlflow as flavour  # noqa: E402
from tests.inference.conftest import NAMES, picture, tiny_checkpoint  # noqa: E402

COLUMNS = ["image", "class_name", "label", "category_id", "score", "x1", "y1", "x2", "y2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model_best.pth"
    torch.save(tiny_checkpoint(), path)
    return path


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector.load(checkpoint, device="cpu", amp="off")


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("mlflow") / "model"
    flavour.save_model(detector, path)
    return path


@pytest.fixture(scope="module")
def served(saved):
    return mlflow.pyfunc.load_model(str(saved), model_config={"device": "cpu", "amp": "off"})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{index}.png" for index in range(2)]
    for index, path in enumerate(paths):
        PIL.Image.fromarray(picture(60 + 20 * index, 90, seed=index)).save(path)
    return paths


def assert_rows(table, detector, pictures, score_threshold=0.0):
    """The rows are what Detector.predict finds."""
    assert list(table.columns) == COLUMNS
    predictions = detector.predict(pictures, score_threshold=score_threshold)
    assert len(table) == sum(len(p["scores"]) for p in predictions) > 0
    for index, prediction in enumerate(predictions):
        rows = table[table["image"] == index]
        boxes = rows[["x1", "y1", "x2", "y2"]].to_numpy().astype(np.float32)
        assert np.array_equal(boxes, prediction["boxes"].numpy())
        assert np.array_equal(rows["score"].to_numpy().astype(np.float32), prediction["scores"].numpy())
        assert rows["label"].tolist() == prediction["labels"].tolist()
        assert rows["class_name"].tolist() == prediction["names"]
        assert rows["category_id"].tolist() == [(1, 5, 9)[label - 1] for label in prediction["labels"]]


def test_a_list_of_paths_gives_the_rows_of_the_detector(served, detector, photos):
    assert_rows(served.predict([str(path) for path in photos]), detector, photos)


@pytest.mark.parametrize("kind", ["table", "bytes", "base64", "data URI", "arrays", "one path", "array of paths"])
def test_every_kind_of_picture_gives_the_same_rows(served, detector, photos, kind):
    data = [path.read_bytes() for path in photos]
    text = [base64.b64encode(content).decode() for content in data]
    given = {
        "table": pandas.DataFrame({"photo": list(map(str, photos))}),
        "bytes": pandas.DataFrame({"image": data}),
        "base64": text,
        "data URI": [f"data:image/png;base64,{one}" for one in text],
        "arrays": pandas.DataFrame({"image": [picture(60, 90, seed=0), picture(80, 90, seed=1)]}),
        "one path": str(photos[0]),
        "array of paths": np.array(list(map(str, photos))),
    }[kind]
    assert_rows(served.predict(given), detector, photos[:1] if kind == "one path" else photos)


def test_parameters_of_a_prediction(served, detector, photos):
    paths = [str(path) for path in photos]
    scores = served.predict(paths)["score"]
    threshold = float(scores.median())
    some = served.predict(paths, params={"score_threshold": threshold, "batch_size": 1})
    assert 0 < len(some) < len(scores) and some["score"].min() >= threshold
    nothing = served.predict(paths, params={"score_threshold": 1.0})
    assert len(nothing) == 0 and list(nothing.columns) == COLUMNS
    assert nothing["image"].dtype == np.int64 and nothing["x1"].dtype == np.float64


def test_large_pictures_in_tiles(detector, saved, photos):
    paths = [str(path) for path in photos]
    cut = mlflow.pyfunc.load_model(str(saved), model_config={"tiles": 48, "device": "cpu", "amp": "off"}).predict(paths)
    wanted = detector.predict(paths, tiles=48)
    assert len(cut) == sum(len(prediction["scores"]) for prediction in wanted)
    np.testing.assert_allclose(cut["score"], np.concatenate([np.asarray(p["scores"]) for p in wanted]), atol=1e-5)
    with pytest.raises(InvalidValueError, match="SIZE"):
        flavour.Served(detector, tiles=-5)


def test_the_model_says_what_it_takes_gives_and_needs(saved):
    info = mlflow.models.get_model_info(str(saved))
    assert info.signature.outputs.input_names() == COLUMNS
    assert [p.name for p in info.signature.params.params] == ["score_threshold", "batch_size"]
    needed = (saved / "requirements.txt").read_text().split()
    assert f"torch=={torch.__version__.partition('+')[0]}" in [line.partition("+")[0] for line in needed]
    assert any(line.startswith("detframe==") for line in needed)
    assert not [path for path in saved.rglob("*") if path.suffix in (".pkl", ".pickle", ".pth", ".pt")]


def test_its_example_is_one_that_a_server_understands(saved, served):
    """The request of the example, as MLflow's scoring server parses it."""
    from mlflow.models.utils import load_serving_example

    request = json.loads(load_serving_example(str(saved)))
    table = pandas.DataFrame(**request["dataframe_split"])
    found = served.predict(table)
    assert list(found.columns) == COLUMNS and set(found["image"]) <= {0}
    json.dumps(found.to_dict(orient="records"))


def test_without_a_signature_bare_arrays_are_taken(detector, tmp_path):
    flavour.save_model(detector, tmp_path / "model", signature=False, pip_requirements=["detframe"])
    bare = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"device": "cpu", "amp": "off"})
    images = [picture(60, 90, seed=0), picture(60, 90, seed=1)]
    assert_rows(bare.predict(np.stack(images)), detector, images)
    assert_rows(bare.predict(images[0]), detector, images[:1])
    assert_rows(bare.predict([images[0].tolist()]), detector, images[:1])
    assert (tmp_path / "model" / "requirements.txt").read_text().split()[-1] == "detframe"


def test_logged_with_a_run_and_loaded_back(detector, checkpoint, tmp_path, monkeypatch, photos):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        info = flavour.log_model(checkpoint, name="cells", tags={"of": "a test"})
    assert info.run_id == run.info.run_id
    back = flavour.load_model(info.model_uri, device="cpu", amp="off")
    assert back.class_names == NAMES
    served = mlflow.pyfunc.load_model(info.model_uri, model_config={"device": "cpu", "amp": "off"})
    assert_rows(served.predict([str(path) for path in photos]), detector, photos)
    assert_rows(flavour.Served(back).predict(photos), detector, photos)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_exported_file_needs_its_runtime_and_no_torch(kind, tmp_path, photos):
    pytest.importorskip("onnxruntime" if kind == "onnx" else "openvino")
    from tests.backends import handmade

    if kind == "onnx":
        path = handmade.write(tmp_path / "m.onnx")
    else:
        path = handmade.write_openvino(tmp_path / "m.xml", handmade.card())
    flavour.save_model(path, tmp_path / "model")
    needed = (tmp_path / "model" / "requirements.txt").read_text()
    assert ("onnxruntime" if kind == "onnx" else "openvino") in needed and "torch" not in needed
    back = flavour.load_model(str(tmp_path / "model"))
    assert back.class_names == ("cat", "dog")
    table = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict([str(path) for path in photos])
    (first, _) = back.predict(photos)
    assert table[table["image"] == 0]["class_name"].tolist() == first["names"] == ["cat", "dog"]
    assert table["category_id"].tolist()[:2] == [17, 18]
    with pytest.raises(ValueError, match="hand in the file's path"):
        flavour.save_model(back, tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["no/such/photo.jpg"], ValueError, "picture 0, 'no/such/photo.jpg', is neither a file here"),
        (["http://127.0.0.1:9/secret.png"], ValueError, "is neither a file here"),
        (["file:///etc/passwd"], ValueError, "is neither a file here"),
        ([b"no picture"], ValueError, "no picture|image"),
        ([base64.b64encode(b"no picture").decode()], ValueError, "image"),
        ([3.5], TypeError, "picture 0 is a float; a path, base64"),
        (pandas.DataFrame({"a": ["x"], "b": ["y"]}), ValueError, r"the table has 2 columns \(a, b\)"),
        ({"a": ["x"], "b": ["y"]}, ValueError, "got a dict with a, b"),
    ],
)
def test_what_is_no_picture(detector, given, error, message):
    with pytest.raises(error, match=message):
        flavour.Served(detector).predict(given)


def test_what_is_no_detector_is_not_saved(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no detector at"):
        flavour.save_model(tmp_path / "none.onnx", tmp_path / "model")
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.pth"):
        flavour.save_model(tmp_path / "bad.pth", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_of_another_flavour(tmp_path):
    other = mlflow.models.Model()
    other.add_flavor("sklearn", data="x")
    (tmp_path / "other").mkdir()
    other.save(str(tmp_path / "other" / "MLmodel"))
    with pytest.raises(ValueError, match="is no model of detframe; its flavours are sklearn"):
        flavour.load_model(str(tmp_path / "other"))


def test_nothing_found_anywhere_is_an_empty_table(detector):
    assert list(flavour.Served(detector).predict([]).columns) == COLUMNS
