"""What the tests of OUTPUT_DIR on a store share: a short run, a machine that is gone, and the weights that it left."""

from __future__ import annotations

import io
import shutil

import torch

from detframe.engine.output_place import local_folder
from detframe.storage.folders import StoreFolder

SHORT = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.STEPS", (3,), "SOLVER.LOG_PERIOD", 1)


def forget(server, name):
    """What a machine that is gone had of a run."""
    shutil.rmtree(local_folder(StoreFolder(f"{server.address}/{name}")).parent)


def fail(trainer):
    raise ArithmeticError("the machine is gone")


def final(server, name, file="model_final.pth"):
    return torch.load(io.BytesIO(server.content(f"{name}/{file}")), weights_only=True)
