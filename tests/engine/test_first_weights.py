"""Where a training starts: frozen random bodies are refused, and weights bring their input format into the run."""

from __future__ import annotations

import pickle

import pytest
import torch
import yaml

from detframe.compat import download
from detframe.compat.body_weights import address_of
from detframe.data import load_records
from detframe.engine import evaluate, train
from detframe.modeling import build_detection_model

ONE_STEP = ("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "TEST.VISUALIZE", 0)


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.RESNETS.NORM", "FrozenBN"),
        ("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 1),
        ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 2),
    ],
)
def test_a_frozen_random_body_is_refused(tiny, overrides):
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty.*R-18-FPN are frozen") as error:
        train(tiny(*ONE_STEP, *overrides))
    named = "MODEL.WEIGHTS torchvision://ResNet18_Weights.IMAGENET1K_V1, or train"
    for remedy in (named, "FREEZE_CONV_BODY_AT 0", "MODEL.RESNETS.NORM BN or GN"):
        assert remedy in str(error.value)
    assert " 0 " not in str(error.value).partition("are frozen")[0], "what there is none of is not named"


def test_it_may_be_built_and_go_on_from_weights(tiny, tmp_path):
    cfg = tiny(*ONE_STEP, "MODEL.RESNETS.NORM", "FrozenBN", "DATASETS.TEST", (), "MODEL.NUM_CLASSES", 5)
    model = build_detection_model(cfg)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    train(cfg)
    # a run that goes on has its weights from the checkpoint
    cfg.MODEL.WEIGHTS = ""
    cfg.SOLVER.MAX_ITER = 2
    train(cfg, resume=True)
    assert "going on from" in (tmp_path / "out" / "log.txt").read_text()


def test_class_outputs_follow_the_names_of_the_data_set(tiny, tmp_path):
    """A checkpoint with the same classes in another order, and one class that the data set does not have."""
    model = build_detection_model(tiny(*ONE_STEP, "MODEL.NUM_CLASSES", 3))
    records = load_records(tiny().DATASETS.TRAIN, tiny().DATASETS.CATALOG, True)
    names = records.metadata.class_names
    theirs = [names[2].upper(), "zebra", names[0].replace("_", " ")]
    torch.save({"model": model.state_dict(), "meta": {"class_names": theirs}}, tmp_path / "w.pth")
    train(tiny(*ONE_STEP, "DATASETS.TEST", (), "MODEL.WEIGHTS", str(tmp_path / "w.pth")))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"class rows copied: 2 of {len(names)} ({names[0]}, {names[2]}); new: {names[1]}" in log


def test_the_format_of_the_weights_reaches_config_checkpoint_and_evaluation(tiny, tmp_path, monkeypatch):
    """msra://R-50 from the cache, with a body of another width as its content: nothing is downloaded."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    r50 = ("MODEL.BACKBONE.CONV_BODY", "R-50-FPN", "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.NUM_CLASSES", 5)
    with pytest.raises(FileNotFoundError, match=r"DETFRAME_OFFLINE.*put the file at .*R-50\.pkl"):
        train(tiny(*ONE_STEP, *r50, "MODEL.WEIGHTS", "msra://R-50"))
    place = download.cache_path(address_of("msra://R-50"))
    place.parent.mkdir(parents=True)
    body = {k: v.numpy() for k, v in build_detection_model(tiny(*r50)).state_dict().items()}
    place.write_bytes(pickle.dumps({"model": body}))

    trained = train(tiny(*ONE_STEP, *r50, "MODEL.WEIGHTS", "msra://R-50"))
    out = tmp_path / "out"
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["INPUT"]["FORMAT"] == "BGR" and saved["INPUT"]["PIXEL_STD"] == [1.0, 1.0, 1.0]
    assert saved["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is True
    assert torch.load(out / "model_final.pth", weights_only=True)["meta"]["input_format"] == "BGR"
    assert "set with the weights msra://R-50: INPUT.FORMAT BGR" in (out / "log.txt").read_text()

    # the config of the evaluation says nothing of the format; it comes with the checkpoint
    again = tiny(*ONE_STEP, *r50, "OUTPUT_DIR", str(tmp_path / "e"), "MODEL.WEIGHTS", str(out / "model_final.pth"))
    assert evaluate(again) == pytest.approx(trained, abs=1e-9, nan_ok=True)
    assert "set with the weights the checkpoint" in (tmp_path / "e" / "log.txt").read_text()
