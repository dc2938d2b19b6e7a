"""What the choices of a recipe look at in a machine: cores, memory, GPUs, and how many processes share the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from detframe.parallel.device import resolve_device
from detframe.parallel.environment import cpu_cores, free_memory
from detframe.texts import counted

GIGABYTE = 2**30


@dataclass(frozen=True)
class Machine:
    """Where a recipe is to train.

    Attributes:
        cores: that this process may use.
        memory: bytes of main memory that are free; 0 where the system does not say.
        gpu: name of the GPU on which rank 0 trains; "" for the CPU.
        gpu_memory: bytes of that GPU.
        ranks: processes that train together.
    """

    cores: int
    memory: int = 0
    gpu: str = ""
    gpu_memory: int = 0
    ranks: int = 1

    @property
    def words(self) -> str:
        """ "2 cores", "an NVIDIA L4 with 22 GB", "4 processes, each on an NVIDIA L4 with 22 GB"."""
        device = f"{self.gpu} with {self.gpu_memory / GIGABYTE:.0f} GB" if self.gpu else counted(self.cores, "core")
        if self.ranks == 1:
            return device
        return f"{self.ranks} processes, each on {device}" if self.gpu else f"{self.ranks} processes on {device}"


def this_machine(device: str = "auto", ranks: int = 1) -> Machine:
    """The machine that this process runs on.

    Args:
        device: MODEL.DEVICE.
        ranks: processes that will train together.

    Raises:
        ValueError: as `detframe.parallel.device.resolve_device`.
    """
    where = resolve_device(device)
    if where.type != "cuda":
        return Machine(cpu_cores(), free_memory(), ranks=ranks)
    properties = torch.cuda.get_device_properties(where)
    return Machine(cpu_cores(), free_memory(), properties.name, properties.total_memory, ranks)
