"""An address given to what takes a path of this machine is refused as it was typed, and nothing is made of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.cli.main import main
from detframe.errors import InvalidValueError
from detframe.inference import Detector

REFUSED = [
    "analyze --config-file s3://b/c.yaml",
    "analyze --json s3://b/c.json",
    "benchmark --what ops --json s3://b/o.json",
    "check --data s3://b/d",
    "check --data DATA --write s3://b/a.json",
    "compare s3://b/a s3://b/c",
    "compare a c --output s3://b/c.html",
    "configure --data DATA --output ftp://b/o",
    "configure --data DATA --output s3://b/o",
    "evaluate --config-file s3://b/c.yaml",
    "evaluate --weights https://b/w.onnx DATASETS.TEST shapes_val",
    "export --weights https://b/w.pth --output o.onnx",
    "export --weights w.pth --output s3://b/o.onnx",
    "export-weights --weights w.pth --to torchvision --output s3://b/o.pth",
    "export-weights --weights w.pth --to torchvision --output o.pth --like s3://b/o.pth",
    "import-weights --weights w.pth --output s3://b/o.pth",
    "new head my_head --output s3://b/o",
    "predict --weights w.pth --input x.jpg --output s3://b/o",
    "predict --weights w.pth --input s3://b/x.jpg --output o",
    "quickstart OUTPUT_DIR https://b/o",
    "replay s3://b/bundle.pth",
    "report https://b/run",
    "report s3x://b/run",
    "report run --output s3://b/o.html",
    "runs s3://b/runs",
    "shard-data --datasets a --output ftp://b/o",
    "shard-data --index s3://b/o",
    "shard-data --datasets a --output o --catalog s3://b/c.yaml",
    "shrink-data --datasets a --output s3://b/o",
    "test-module s3://b/m.py",
    "train --data DATA --output https://b/o",
    "train --config-file s3://b/c.yaml",
    "train OUTPUT_DIR ftp://b/o DATASETS.TRAIN shapes_train",
    "train DATASETS.CATALOG s3://b/c.yaml DATASETS.TRAIN a",
    "train-efpn --stages s3://b/stages",
    "translate-config s3://b/c.yaml",
    "tune --config-file c.yaml --space s3://b/s.yaml",
    "tune --config-file quick/faster_rcnn_R_18_FPN_shapes.yaml --space s.yaml OUTPUT_DIR s3://b/o",
    "visualize-data OUTPUT_DIR s3://b/o DATASETS.TRAIN shapes_train",
    "visualize-data --output s3://b/o",
]
NEEDS = {"export": "onnxscript", "tune": "optuna"}


@pytest.mark.parametrize("words", REFUSED)
def test_it_is_refused_as_it_was_typed(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(NEEDS.get(words.split()[0], "detframe"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    (tmp_path / "s.yaml").write_text("SOLVER.BASE_LR: {low: 0.1, high: 1}\n")
    given = next(word for word in words.split() if "://" in word)
    try:
        code = main(words.replace("DATA", str(tmp_path), 1).split() if "--data DATA" in words else words.split())
    except SystemExit as end:  # of argparse
        code = end.code
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    assert (
        f"error: {given}" in said or f": {given} is" in said or f"OUTPUT_DIR {given}" in said or f"not {given}" in said
    )
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]


def test_what_only_reads_does_not_speak_of_writing(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("report https://b/run --output page.html", "report ftp://b/run"):
        assert main(words.split()) == 2
        said = capsys.readouterr().err
        assert "at which no run can be; runs are in folders of this machine, and at s3://, " in said
        assert "writ" not in said


def test_a_secret_in_an_address_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main("export --weights w.pth --output https://me:secret@b/o.onnx?sig=secret".split())
    said = capsys.readouterr().err
    assert "https://b/o.onnx is an address" in said and "secret" not in said


def test_a_detector_from_the_web_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"^https://b/w\.pth is an address.*download it"):
        Detector.load("https://b/w.pth")
