"""Devices that this PyTorch, or this machine, does not have."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from detframe.config import get_cfg
from detframe.engine.preflight import check_names
from detframe.errors import InvalidValueError
from detframe.ops.boxes import widened
from detframe.parallel import device as device_module
from detframe.parallel.device import resolve_amp, resolve_device
from detframe.parallel.joining import process_group, wrap


@pytest.mark.parametrize("name", ["hpu", "vulkan", "ipu", "maia", "gpu", "cuda:-1"])
def test_devices_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"MODEL.DEVICE .*{name}"):
        resolve_device(name)


def test_batch_norms_over_ranks_are_refused_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detframe.parallel.joining.world_size", lambda: 2)
    with pytest.raises(InvalidValueError, match="NORM of a part of the model is 'SyncBN', which PyTorch has for GPUs"):
        wrap(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.SyncBatchNorm(4)), torch.device("cpu"))


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


# ---------------------------------------------------------------------------------------------- mps and xpu
@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A machine whose only accelerator is of that kind."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(request.param))
    monkeypatch.setattr(device_module, "_check_works", lambda name, device: None)
    before = torch.is_warn_always_enabled()
    yield request.param
    torch.set_warn_always(before)


@pytest.mark.parametrize(
    ("accelerator", "chosen"), [("mps", "mps"), ("xpu", "xpu"), ("hpu", "cpu")], indirect=["accelerator"]
)
def test_auto_takes_what_the_machine_has(accelerator: str, chosen: str) -> None:
    with warnings.catch_warnings():
        assert resolve_device("auto").type == chosen
    assert resolve_amp("auto", torch.device(chosen)) in (None, torch.bfloat16)


@pytest.mark.parametrize("accelerator", ["mps"], indirect=True)
def test_each_operation_that_falls_back_is_told_once(accelerator: str) -> None:
    text = "The operator '{}' is not currently supported on the MPS backend and will fall back to run on the CPU."
    with warnings.catch_warnings(record=True) as told:
        resolve_device("auto")
        assert torch.is_warn_always_enabled()
        for _ in range(2):
            warnings.warn(text.format("aten::unique"), UserWarning, stacklevel=1)
            warnings.warn(text.format("torchvision::roi_align"), UserWarning, stacklevel=1)
        warnings.warn(text.format("aten::unique"), UserWarning, stacklevel=1)
    assert [str(one.message).split("'")[1] for one in told] == ["aten::unique", "torchvision::roi_align"]


@pytest.mark.parametrize("accelerator", ["xpu"], indirect=True)
def test_such_devices_train_alone(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with warnings.catch_warnings(), pytest.raises(InvalidValueError, match="2 processes cannot train together on xpu"):
        with process_group("auto"):
            pass


@pytest.mark.parametrize(("kind", "wide"), [("cpu", True), ("mps", False), ("xpu", False)])
def test_double_precision_where_there_is_some(kind: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(has_fp64=False))
    values = SimpleNamespace(device=torch.device(kind), double=lambda: "wide")
    assert (widened(values) == "wide") == wide


@pytest.mark.parametrize(
    ("listed", "windows", "fast"),
    [
        (["vendor_id\t: GenuineIntel"], "", True),
        (["vendor_id\t: AuthenticAMD"], "", False),
        ([], "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel", True),
        ([], "", False),
    ],
)
def test_intels_library_is_fast_on_intels_processors(
    listed: list[str], windows: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(device_module, "_cpu_lines", lambda *names: listed)
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", windows)
    assert device_module.multiplies_fast() is fast
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not device_module.multiplies_fast()
