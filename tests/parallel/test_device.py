"""Devices that this PyTorch, or this machine, does not have."""

from __future__ import annotations

import pytest
import torch

from detframe.config import get_cfg
from detframe.engine.preflight import check_names
from detframe.errors import InvalidValueError
from detframe.parallel.device import resolve_device


@pytest.mark.parametrize("name", ["hpu", "vulkan", "ipu", "maia", "gpu", "cuda:-1"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"MODEL.DEVICE .*{name}"):
        resolve_device(name)


def test_a_number_beyond_the_last_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InvalidValueError, match=r"MODEL\.DEVICE is 'cuda:2', but the last CUDA device here is cuda:1"):
        resolve_device("cuda:2")


def test_models_are_built_on_meta_and_never_run() -> None:
    assert resolve_device("meta").type == "meta"
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "meta"])
    with pytest.raises(InvalidValueError, match=r"MODEL\.DEVICE meta holds shapes and no numbers"):
        check_names(cfg)
