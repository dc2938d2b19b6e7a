"""What of the machine the loaders use: worker processes and page-locked memory."""

from __future__ import annotations

import ctypes
import logging
import sys
from typing import Any

import torch

from detframe.parallel.environment import env_number, share_of_cores

logger = logging.getLogger(__name__)

WORKERS_PER_CORE, MIN_LIMIT_OF_WORKERS = 4, 16


def num_workers(cfg: Any, world_size: int) -> int:
    """DATALOADER.NUM_WORKERS, or what fits this machine where that is -1; never far more than there are cores."""
    per_rank = share_of_cores(env_number("LOCAL_WORLD_SIZE", world_size))
    wanted = cfg.DATALOADER.NUM_WORKERS
    if wanted >= 0:
        most = max(MIN_LIMIT_OF_WORKERS, WORKERS_PER_CORE * per_rank)
        if wanted > most:
            logger.warning(
                "DATALOADER.NUM_WORKERS is %d; %d are started: more than %d for each of the %d cores of this process "
                "only take memory",
                wanted,
                most,
                WORKERS_PER_CORE,
                per_rank,
            )
        return min(wanted, most)
    # With two cores, decoding on both would only take turns with the training
    return 1 if per_rank <= 2 else min(8, per_rank)


def pins_memory(cfg: Any) -> bool:
    """Whether batches come in page-locked memory, from which a GPU copies them while it computes."""
    return torch.cuda.is_available() and cfg.MODEL.DEVICE != "cpu"


def give_back_memory() -> None:
    """Return to the system what lies free between the memory in use, as arrays that grow leave it; on Linux alone."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
