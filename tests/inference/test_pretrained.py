"""A detector as a folder: it predicts bit for bit as the checkpoint, its card is true, and wrong folders say so."""

from __future__ import annotations

import json
import logging

import pytest
import torch
import yaml

from detframe.inference import Detector
from tests.inference.conftest import NAMES, picture, tiny_cfg, tiny_checkpoint

METRICS = {"bbox/AP": 12.5, "bbox/AP50": 30.25, "bbox/APs": float("nan"), "bbox/AP-circle": 40.0, "bbox/AP-star": 1.5}


def save_checkpoint(path, settings=(), **meta):
    content = tiny_checkpoint()
    cfg = tiny_cfg()
    cfg.merge_from_list([word for pair in settings for word in pair])
    content["meta"] = {**content["meta"], "config": cfg.dump(), **meta}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "model_best.pth"
    settings = [("DATASETS.TRAIN", ("shapes_train",)), ("DATASETS.TEST", ("shapes_val",))]
    return save_checkpoint(path, settings, metrics=METRICS)


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector.load(checkpoint, device="cpu", amp="off")


@pytest.fixture
def folder(detector, tmp_path):
    return detector.save_pretrained(tmp_path / "cells")


def card(folder):
    """(front matter, text) of README.md."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def edit(path, **changes):
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}), encoding="utf-8")


def assert_equal(a, b):
    assert a.keys() == b.keys() and len(a["scores"]) > 0 and a["names"] == b["names"]
    for key in a.keys() - {"names"}:
        assert torch.equal(a[key], b[key])


# ---------------------------------------------------------------------------------------------- there and back
def test_it_predicts_bit_for_bit_as_the_checkpoint(detector, folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "config.yaml",
        "model.safetensors",
    ]
    images = [picture(60, 90, seed=0), picture(120, 80, seed=1)]
    back = Detector.from_pretrained(folder, device="cpu", amp="off")
    for ours, theirs in zip(detector.predict(images), back.predict(images), strict=True):
        assert_equal(ours, theirs)
    assert_equal(detector.predict(images[0])[0], Detector.load(folder, device="cpu", amp="off").predict(images[0])[0])


def test_what_the_checkpoint_says_is_kept(detector, folder):
    back = Detector.from_pretrained(folder, device="cpu")
    assert back.class_names == NAMES and back.category_ids == (1, 5, 9)
    assert back.meta["iteration"] == 7 and back.meta["input_format"] == "RGB"
    assert back.meta["metrics"] == {key: value for key, value in METRICS.items() if value == value}
    same = dict(back.cfg.leaves())
    assert {key: value for key, value in detector.cfg.leaves() if same[key] != value} == {}


def test_saved_again_it_is_the_same(folder, tmp_path):
    again = Detector.from_pretrained(folder, device="cpu").save_pretrained(tmp_path / "again" / "cells")
    for name in ("model.safetensors", "config.yaml", "config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_the_weights_are_safetensors_that_its_library_reads(detector, folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert set(file.keys()) == set(detector.model.state_dict())


def test_nothing_of_the_machine_is_told(tmp_path):
    private = [("DATASETS.CATALOG", "/home/somebody/catalog.yaml"), ("MODEL.WEIGHTS", "/home/somebody/body.pth")]
    path = save_checkpoint(tmp_path / "m.pth", private)
    folder = Detector.load(path, device="cpu").save_pretrained(tmp_path / "cells")
    texts = "".join((folder / name).read_text(encoding="utf-8") for name in ("README.md", "config.json", "config.yaml"))
    assert "somebody" not in texts and "/a/folder/of/another/machine" not in texts and str(tmp_path) not in texts
    assert "| Initial weights | body.pth |" in texts


def test_weights_that_share_memory_or_lie_otherwise(tmp_path, detector):
    loaded = Detector.load(save_checkpoint(tmp_path / "m.pth"), device="cpu", amp="off")
    head = loaded.model.roi_heads
    state = {key: value for key, value in head.state_dict().items() if value.ndim == 2}
    key = next(iter(state))
    owner = head.get_submodule(key.rpartition(".")[0])
    owner.weight = torch.nn.Parameter(owner.weight.detach().t().contiguous().t())  # not contiguous
    back = Detector.from_pretrained(loaded.save_pretrained(tmp_path / "cells"), device="cpu", amp="off")
    assert_equal(loaded.predict(picture(60, 90, seed=0))[0], back.predict(picture(60, 90, seed=0))[0])


def test_what_json_cannot_say_is_left_out_with_a_word(tmp_path, caplog):
    path = save_checkpoint(tmp_path / "m.pth", notes={"table": torch.zeros(2)}, place="a bench")
    loaded = Detector.load(path, device="cpu")
    with caplog.at_level(logging.WARNING, logger="detframe"):
        folder = loaded.save_pretrained(tmp_path / "cells")
    assert "the checkpoint's notes is nothing that JSON can say" in caplog.text
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert about["place"] == "a bench" and "notes" not in about


# ---------------------------------------------------------------------------------------------- the model card
def test_the_card_is_written_from_the_checkpoint(folder):
    front, text = card(folder)
    assert front["library_name"] == "detframe" and front["pipeline_tag"] == "object-detection"
    assert {"object-detection", "detframe", "r-18-fpn"} <= set(front["tags"]) and "license" not in front
    (result,) = front["model-index"][0]["results"]
    assert front["model-index"][0]["name"] == "cells" and result["dataset"]["name"] == "shapes_val"
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("mAP", 12.5), ("AP50", 30.25)]
    assert (
        "| 1 | circle | 1 | 40.00 |" in text and "| 2 | square | 5 |  |" in text and "| 3 | star | 9 | 1.50 |" in text
    )
    assert "Detector.from_pretrained('cells')" in text and "| Iteration | 7 |" in text
    assert "It knows what shapes\\_train shows." in text and "No license" in text


def test_the_library_of_the_hub_reads_the_card(folder):
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    data = huggingface_hub.ModelCard.load(folder / "README.md").data
    assert data.library_name == "detframe" and data.pipeline_tag == "object-detection" and data.model_name == "cells"
    assert {r.metric_name: r.metric_value for r in data.eval_results} == {"bbox/AP": 12.5, "bbox/AP50": 30.25}


def test_a_card_without_numbers_has_no_model_index(tmp_path):
    path = save_checkpoint(tmp_path / "m.pth", metrics={})
    front, text = card(Detector.load(path, device="cpu").save_pretrained(tmp_path / "cells", license="apache-2.0"))
    assert "model-index" not in front and front["license"] == "apache-2.0"
    assert "Nobody evaluated these weights" in text and "License of the weights: apache-2.0" in text


def test_names_from_somebodys_file_mean_nothing_to_markdown_and_yaml(tmp_path):
    names = ["a|b", "<script>alert(1)</script>", "x: [1]\n---\n# head"]
    settings = [("DATASETS.TEST", ("no: 'name'",))]
    path = save_checkpoint(tmp_path / "m.pth", settings, class_names=names, metrics={"bbox/AP": 1.0})
    folder = Detector.load(path, device="cpu").save_pretrained(tmp_path / "cells")
    front, text = card(folder)
    assert front["model-index"][0]["results"][0]["dataset"]["name"] == "no: 'name'"
    assert r"| 1 | a\|b | 1 |" in text and r"\<script\>" in text and r"x: \[1\] --- \# head" in text
    assert Detector.from_pretrained(folder, device="cpu").class_names == tuple(names)


def test_several_data_sets_have_results_of_their_own(tmp_path):
    settings = [("DATASETS.TEST", ("day", "night"))]
    metrics = {"day/bbox/AP": 1.0, "night/bbox/AP": 2.0, "night/bbox/AP-star": 3.0}
    path = save_checkpoint(tmp_path / "m.pth", settings, metrics=metrics)
    front, _ = card(Detector.load(path, device="cpu").save_pretrained(tmp_path / "cells"))
    found = {r["dataset"]["name"]: r["metrics"] for r in front["model-index"][0]["results"]}
    assert {name: [(m["name"], m["value"]) for m in rows] for name, rows in found.items()} == {
        "day": [("bbox/AP", 1.0)],
        "night": [("bbox/AP", 2.0)],
    }


@pytest.mark.parametrize(
    ("evaluated", "row", "value", "source"),
    [
        (7, 7, 33.0, "evaluation.json"),
        (9, 7, 22.0, "metrics.jsonl"),
        (9, 8, 12.5, "the checkpoint"),
        (None, 7, 22.0, "metrics.jsonl"),
    ],
)
def test_the_runs_numbers_are_those_of_these_weights(detector, tmp_path, evaluated, row, value, source):
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"iteration": row, "bbox/AP": 22.0, "val/loss": 0.5}, {"iteration": 5, "loss": 1.0}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"iterat')
    if evaluated is not None:
        content = {"weights": "x.pth", "iteration": evaluated, "metrics": {"bbox/AP": 33.0, "bbox/APs": None}}
        (run / "evaluation.json").write_text(json.dumps(content))
    front, text = card(detector.save_pretrained(tmp_path / "cells", run=run))
    metrics = {m["name"]: m["value"] for m in front["model-index"][0]["results"][0]["metrics"]}
    assert metrics["bbox/AP"] == value and "bbox/APs" not in metrics and "val/loss" not in metrics
    assert f"from {source}." in text


def test_the_runs_log_tells_where_the_weights_come_from(detector, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.txt").write_text(
        "2026-01-02 03:04:05 training started with detframe 0.1.0, torch 2.9.0; command: train --token secret\n"
        "2026-01-02 03:04:06 training data shapes_train: 12 images\n2026-01-02 04:04:05 the end\n"
    )
    _, text = card(detector.save_pretrained(tmp_path / "cells", run=run))
    assert "| Trained on | shapes\\_train: 12 images |" in text and "| Time | 1:00:00 |" in text
    assert "| Versions | detframe 0.1.0, torch 2.9.0 |" in text
    assert "secret" not in text  # a command may hold what is nobody's business


def test_a_card_that_somebody_wrote_stays(detector, folder):
    ours = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text("old\n" + ours, encoding="utf-8")
    detector.save_pretrained(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == ours
    (folder / "README.md").write_text("# My words\n", encoding="utf-8")
    detector.save_pretrained(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == "# My words\n"


# ---------------------------------------------------------------------------------------------- what is wrong
def test_exported_files_come_along(detector, tmp_path):
    exported = tmp_path / "exported"
    exported.mkdir()
    for name in ("model.onnx", "model.xml", "model.bin"):
        (exported / name).write_bytes(name.encode())
    files = [exported / "model.onnx", exported / "model.xml"]
    folder = detector.save_pretrained(tmp_path / "cells", exported=files)
    for name in ("model.onnx", "model.xml", "model.bin"):
        assert (folder / name).read_bytes() == name.encode()
    assert "Detector.from_pretrained('cells', file='model.onnx')" in card(folder)[1]
    detector.save_pretrained(folder, exported=[folder / "model.onnx"])  # onto itself
    assert (folder / "model.onnx").read_bytes() == b"model.onnx"
    (exported / "model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"half of a model of OpenVINO: .*model\.bin"):
        detector.save_pretrained(tmp_path / "other", exported=files)
    assert not (tmp_path / "other").exists()


def test_an_exported_file_in_the_folder_predicts(detector, tmp_path):
    pytest.importorskip("onnxruntime")
    from tests.backends import handmade

    exported = handmade.write(tmp_path / "model.onnx")
    folder = detector.save_pretrained(tmp_path / "cells", exported=[exported])
    back = Detector.from_pretrained(folder, "model.onnx")
    assert back.class_names == ("cat", "dog") and Detector.from_pretrained(exported).class_names == ("cat", "dog")
    image = picture(40, 60, seed=0)
    assert_equal(back.predict(image)[0], Detector.load(exported).predict(image)[0])
    with pytest.raises(ValueError, match="is an exported file, which holds no model of PyTorch"):
        back.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors is not there"),
        (lambda f: (f / "config.yaml").unlink(), FileNotFoundError, "config.yaml is not there; it holds README.md"),
        (
            lambda f: [(f / "config.json").unlink(), (f / "model_best.pth").touch()],
            FileNotFoundError,
            r"is the folder of a run; name the weights in it: .*model_best\.pth$",
        ),
        (lambda f: (f / "config.json").write_text('{"a'), ValueError, r"config\.json is no JSON .*half-written"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), ValueError, r"config\.json is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "does not describe a detector of detframe;"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "detr"}'),
            ValueError,
            "but of 'detr'; Detector.save",
        ),
        (lambda f: edit(f / "config.json", weights_sha256=None), ValueError, "says no weights_sha256"),
        (lambda f: edit(f / "config.json", class_names=["a"]), ValueError, "contradicts itself: 1 class names"),
        (lambda f: edit(f / "config.json", class_names=None), ValueError, "says no class_names"),
        (lambda f: edit(f / "config.json", class_names=[[]]), ValueError, "class_names"),
        (lambda f: edit(f / "config.json", format=99), ValueError, "of the format 99"),
        (lambda f: (f / "config.yaml").write_text("MODEL: {WIDTH: 1}"), ValueError, "MODEL.WIDTH"),
        (lambda f: (f / "config.yaml").write_text("!!python/object/apply:os.abort []"), ValueError, "config"),
        (lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe"), ValueError, "UTF-8"),
    ],
)
def test_a_folder_that_is_not_whole_or_of_another(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        Detector.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that config\.json beside it was written"):
        Detector.from_pretrained(folder, device="cpu")


def test_a_pickle_in_the_place_of_the_weights_runs_nothing(folder, tmp_path):
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    data = pickle.dumps(Evil())
    (folder / "model.safetensors").write_bytes(data)
    edit(folder / "config.json", weights_sha256=hashlib.sha256(data).hexdigest())
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or half-written"):
        Detector.from_pretrained(folder, device="cpu")
    assert not (tmp_path / "ran").exists()


def test_code_of_the_author_needs_consent(tmp_path, own_sections):
    code = tmp_path / "secret_place" / "my_code.py"
    code.parent.mkdir()
    code.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n")
    path = save_checkpoint(tmp_path / "m.pth", [("CUSTOM_IMPORTS", (str(code),))])
    folder = Detector.load(path, device="cpu", allow_custom_imports=True).save_pretrained(tmp_path / "cells")
    assert "secret_place" not in (folder / "config.yaml").read_text() and not list(folder.glob("*.py"))
    assert "allow_custom_imports=True" in card(folder)[1]
    (folder / "my_code.py").write_text(code.read_text() + "# another\n")
    with pytest.raises(ValueError, match=r"names Python code of its author .*\n.*my_code\.py"):
        Detector.from_pretrained(folder, device="cpu")
    assert not (folder / "my_code.ran").exists()
    Detector.from_pretrained(folder, device="cpu", allow_custom_imports=True)
    assert (folder / "my_code.ran").exists()


def test_a_place_that_is_no_folder(detector, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; a folder is needed"):
        detector.save_pretrained(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*no_run of a run"):
        detector.save_pretrained(tmp_path / "cells", run=tmp_path / "no_run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is no OUTPUT_DIR of a run"):
        detector.save_pretrained(tmp_path / "cells", run=tmp_path / "empty")
    (tmp_path / "empty" / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"evaluation\.json is no JSON"):
        detector.save_pretrained(tmp_path / "cells", run=tmp_path / "empty")
    assert not (tmp_path / "cells").exists()


def test_a_folder_with_an_exported_file_alone_says_how_to_name_it(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"but model\.onnx; name the file, as file='model\.onnx'"):
        Detector.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no other\.onnx in .*, which holds model\.onnx"):
        Detector.from_pretrained(tmp_path, file="other.onnx")
