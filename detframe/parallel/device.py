"""Which device and which precision a run computes in."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from detframe.errors import InvalidValueError
from detframe.parallel.environment import env_number

WITH_FALLBACK = ("mps", "xpu")  # devices that lack some operations, which the CPU then does
FALLBACK = r".*(not currently supported on the MPS backend|fall ?back.* (to|on) the CPU)"


def resolve_device(name: str) -> torch.device:
    """The device of MODEL.DEVICE: "auto" is the local rank's GPU where CUDA works, else one of Apple (mps) or Intel
    (xpu), else the CPU. What such a device cannot compute, the CPU does, with a warning for each operation.

    Raises:
        ValueError: an unknown name, or a device that this PyTorch or this machine does not have.
    """
    if name == "auto":
        name = _best()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidValueError(f"MODEL.DEVICE {name!r} is not a device; use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InvalidValueError(f"MODEL.DEVICE is {name!r}, but this PyTorch sees no CUDA device; use cpu or auto")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise InvalidValueError(
                f"MODEL.DEVICE is {name!r}, but the last CUDA device here is cuda:{torch.cuda.device_count() - 1}"
            )
        if device.index is None:
            device = torch.device("cuda", env_number("LOCAL_RANK", 0) % torch.cuda.device_count())
    elif device.type != "cpu":
        _check_works(name, device)
    if device.type in WITH_FALLBACK:
        _tell_fallbacks()
    return device


def _best() -> str:
    """The kind of device of "auto"."""
    if torch.cuda.is_available():
        return "cuda"
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found.type if found is not None and found.type in WITH_FALLBACK else "cpu"


def _tell_fallbacks() -> None:
    """PyTorch warns once of operations that the CPU has to do in place of the device; this makes it once for each."""
    torch.set_warn_always(True)
    warnings.filterwarnings("once", message=FALLBACK)


def _check_works(name: str, device: torch.device) -> None:
    """Neither CPU nor CUDA: PyTorch knows many names of devices that it then does not have."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, NotImplementedError, ImportError, AssertionError) as error:
        raise InvalidValueError(
            f"MODEL.DEVICE is {name!r}, which this PyTorch cannot compute on here; use cpu, cuda or auto"
        ) from error


def resolve_amp(mode: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of SOLVER.AMP on a device, or None for plain fp32.

    "auto" is bf16 where the hardware computes in it (CUDA capability 8.0 or newer, CPUs with AVX-512 BF16 or AMX).

    Raises:
        ValueError: fp16 on the CPU, where loss scaling and most kernels are missing.
    """
    if mode == "auto":
        mode = "bf16" if _fast_bf16(device) else "off"
    if mode == "fp16" and device.type != "cuda":
        raise InvalidValueError(f"SOLVER.AMP fp16 needs CUDA, the device is {device}; use bf16, auto or off")
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mode]


def _fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        return bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})
    return False


def multiplies_fast() -> bool:
    """Whether the CPU's products are faster than its convolutions: with Intel's library on Intel's processors.

    Elsewhere oneDNN's convolutions are what is written for the processor.
    """
    makers = (os.environ.get("PROCESSOR_IDENTIFIER", ""), *_cpu_lines("vendor_id"))  # of Windows; of Linux
    has_library: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_library and any("GenuineIntel" in maker for maker in makers)


def _cpu_flags() -> set[str]:
    """What the kernel lists as the CPU's features; empty where it lists none (macOS, Windows)."""
    return {flag for line in _cpu_lines("flags", "features") for flag in line.split()}


def _cpu_lines(*names: str) -> list[str]:
    """The lines of these names in the kernel's list of processors; none on macOS and Windows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.lower().startswith(names)]
