"""INPUT.DECODE scaled in prediction: files are decoded small, and what is found is in pixels of the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from detframe.config import get_cfg
from detframe.inference import Detector, inputs
from tests.backends import handmade
from tests.data.sets import pixels

SIZE_HW = (241, 323)


@pytest.fixture
def photograph(tmp_path) -> Path:
    path = tmp_path / "photograph.jpg"
    PIL.Image.fromarray(pixels(*SIZE_HW)).save(path, quality=95)
    return path


def test_what_is_read(photograph):
    for source in (photograph, str(photograph), photograph.read_bytes(), photograph.as_uri()):
        small, size_hw = inputs.as_small_array(source, lambda _: (50, 60))
        assert (small.shape, size_hw) == ((61, 81, 3), SIZE_HW)
        whole, size_hw = inputs.as_small_array(source, None)
        assert (whole.shape, size_hw) == ((*SIZE_HW, 3), SIZE_HW)
    for source in (whole, torch.from_numpy(whole).permute(2, 0, 1), PIL.Image.fromarray(whole)):
        image, size_hw = inputs.as_small_tensor(source, lambda _: (50, 60))
        assert (tuple(image.shape), size_hw) == ((3, *SIZE_HW), SIZE_HW)


def seen_by(detector, monkeypatch) -> list[tuple[int, int]]:
    """The sizes of the images that files are decoded to from here on."""
    sizes = []
    for module in ("model_backend", "file_backend"):
        name = "as_small_tensor" if module == "model_backend" else "as_small_array"
        read = getattr(inputs, name)

        def noted(source, wanted, *form, read=read):
            image, size_hw = read(source, wanted, *form)
            sizes.append(tuple(sorted(image.shape)[1:]))
            return image, size_hw

        monkeypatch.setattr(f"detframe.inference.{module}.{name}", noted)
    return sizes


@pytest.mark.parametrize("decode", ["exact", "scaled"])
def test_a_checkpoint(checkpoint_path, photograph, decode, tmp_path, monkeypatch):
    content = torch.load(checkpoint_path, weights_only=True)
    cfg = get_cfg()
    (tmp_path / "c.yaml").write_text(content["meta"]["config"])
    cfg.merge_from_file(tmp_path / "c.yaml")
    cfg.merge_from_list(["INPUT.DECODE", decode])
    content["meta"]["config"] = cfg.dump()
    torch.save(content, tmp_path / "m.pth")
    detector = Detector.load(tmp_path / "m.pth", device="cpu")
    sizes = seen_by(detector, monkeypatch)
    (found,) = detector.predict(photograph)
    assert sizes == [(121, 162) if decode == "scaled" else SIZE_HW]
    assert found.size_hw == SIZE_HW
    assert len(found["boxes"])
    assert found["boxes"][:, 2].max() > 200
    detector.predict(photograph, augment=True)
    assert sizes[1:] == [SIZE_HW]


@pytest.mark.parametrize("decode", ["exact", "scaled", None])
def test_an_exported_file(photograph, decode, tmp_path, monkeypatch):
    small = handmade.DYNAMIC.__class__(None, None, None, min_size=80, max_size=100, divisor=32)
    config = json.dumps({"INPUT": {"DECODE": decode} if decode else {}})  # files made before have no such key
    detector = Detector.load(
        handmade.write(tmp_path / "m.onnx", handmade.card(input=small, config=config)), arrays="numpy"
    )
    sizes = seen_by(detector, monkeypatch)
    (found,) = detector.predict(photograph)
    assert sizes == [(121, 162) if decode == "scaled" else SIZE_HW]  # 75x100 are wanted
    np.testing.assert_allclose(found["boxes"][0], [0, 0, 323 / 2, 241 / 2], rtol=1e-3)
    assert found.size_hw == SIZE_HW
