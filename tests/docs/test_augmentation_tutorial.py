"""The transform of docs/augmentation.md, as its page has it, in a training's images; and the page's other claims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detframe.config import import_modules
from detframe.data import build_train_loader
from detframe.data.transforms import build_train_transforms
from detframe.registry import TRANSFORMS
from tests.data.test_transform_lists import batches, config, data

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "augmentation.md").read_text(encoding="utf-8")


def block(language: str, with_text: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return next(text for text in found if with_text in text)


def test_the_tutorial_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TRANSFORMS, "_members", dict(TRANSFORMS._members))
    (tmp_path / "my_rain.py").write_text(block("python", "class Rain"))
    cfg = config()
    cfg.merge_from_text(block("yaml", "CUSTOM_IMPORTS"), "the page")
    import_modules(cfg)
    names = [line.partition("(")[0] for line in build_train_transforms(cfg).lines()]
    assert names == ["Resize", "Rain", "HorizontalFlip"]
    cfg.merge_from_list(["INPUT.TRANSFORMS", ["Resize", {"Rain": {"drops": 5000}}]])
    records = data(tmp_path / "set")
    rainy, dry = batches(cfg, records, 1)[0][0][0], batches(config("Resize"), records, 1)[0][0][0]
    assert (rainy != dry).any() and set(rainy[rainy != dry].tolist()) == {230}
    with pytest.raises(ValueError, match="entry 1: Rain: length must be 1 or more, not 0"):
        build_train_loader(config({"Rain": {"length": 0}}), records)
    with pytest.raises(ValueError, match="entry 1: Rain: drops must be a whole number, not 'many'"):
        build_train_loader(config({"Rain": {"drops": "many"}}), records)


def test_the_table_has_every_transform_with_its_defaults() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|([^|]*)\|", PAGE, flags=re.MULTILINE)
    told = {word: cells for names, cells in rows for word in re.findall(r"`(\w+)`", names)}
    own = {name for name, member in TRANSFORMS if member.__module__.startswith("detframe.")}
    assert own == set(told)
    for name in own - {"Resize", "LargeScaleJitter"}:
        pipeline = build_train_transforms(config("Resize", name))
        arguments = (
            pipeline.lines()[1].partition("(")[2].partition("p=0.5" if "p=0.5" in pipeline.lines()[1] else "p=1")[0]
        )
        assert told[name].replace("`", "").strip() == arguments.replace("=", ": ").rstrip(", "), name
