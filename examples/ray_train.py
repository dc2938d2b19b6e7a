"""A training in Ray: `detframe.train(cfg)` in each worker of a TorchTrainer (Ray Train V2).

    pip install "detframe[ray]"
    python examples/ray_train.py --config-file configs/quick/fcos_R_18_FPN_shapes.yaml --workers 2 --storage ray_results
    python examples/ray_train.py --config-file my.yaml --workers 16 --gpu --storage s3://bucket/runs --name cars \
        DATASETS.TRAIN cars_train

Each checkpoint of the training becomes one of Ray, in --storage: the whole OUTPUT_DIR, which is a temporary folder on
each machine. When a worker or its machine dies, Ray starts all of them again, and they go on from the newest checkpoint
that Ray holds, on whatever machines they are then. --name of a run that was cut off goes on as well.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

import detframe
import detframe.checkpoint
from detframe.config import ConfigNode
from detframe.engine import Hook, Trainer
from detframe.engine.step import Step


class ReportToRay(Hook):
    """Hands every new training checkpoint of OUTPUT_DIR to Ray, with the numbers of its iteration.

    Ray waits in `report` until each worker has called it: all ranks have the same hooks and see the same
    `trainer.saved`, so that they report equally often. Files and numbers are rank 0's.
    """

    name = "report to ray"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reported: Path | None = None
        self.before: tuple[int, Step] | None = None

    def before_train(self, trainer: Trainer) -> None:
        """The checkpoint that the run goes on from is Ray's already."""
        self.reported = trainer.saved

    def after_step(self, trainer: Trainer) -> None:
        """Callbacks come before the checkpoint that is due at a step, so what is new now was saved after the last."""
        before, self.before = self.before, (trainer.iteration, trainer.last_step)
        if before is not None and trainer.saved != self.reported:
            iteration, step = before
            loss = sum(float(value) for value in step.losses.values())
            report({"iteration": iteration, "loss": loss, "lr": step.lr, **trainer.metrics}, self.folder)
            self.reported = trainer.saved


def report(metrics: dict[str, float], folder: Path) -> None:
    """On every rank: the metrics, and on rank 0 what is in the folder."""
    checkpoint = Checkpoint.from_directory(folder) if ray.train.get_context().get_world_rank() == 0 else None
    ray.train.report(metrics, checkpoint=checkpoint)


def reached(folder: Path) -> dict[str, float]:
    """On rank 0, the iteration that the last weights are of: a run may end before SOLVER.MAX_ITER."""
    if ray.train.get_context().get_world_rank() != 0:
        return {}  # Ray keeps the numbers of rank 0, and the file may be on its machine alone
    return {"iteration": detframe.checkpoint.Checkpoint.read(folder / "model_final.pth").iteration}


def train_on_worker(settings: dict[str, Any]) -> None:
    """What each worker does; Ray has made the process group. `settings["cfg"]` is the config."""
    context, held = ray.train.get_context(), ray.train.get_checkpoint()
    folder = Path(tempfile.gettempdir(), f"detframe_{context.get_experiment_name()}")
    if context.get_local_rank() == 0:  # on each machine, one worker makes its folder what Ray holds
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if held is not None:
            held.to_directory(folder)
    dist.barrier()
    # a report takes the folder as it is, so no thread may still be writing a checkpoint
    cfg: ConfigNode = settings["cfg"].changed([("OUTPUT_DIR", str(folder)), ("SOLVER.CHECKPOINT_ASYNC", False)])
    metrics = detframe.train(cfg, resume=held is not None, callbacks=[ReportToRay(folder)])
    report({**reached(folder), **metrics}, folder)  # with model_final.pth and the report of the run
    if context.get_local_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    """Train with as many workers of Ray as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--workers", type=int, default=2, help="processes that train together (%(default)s)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker, instead of a processor")
    parser.add_argument("--storage", required=True, help="where Ray keeps checkpoints: a shared folder or s3://, gs://")
    parser.add_argument("--name", default="detframe", help="of the run; the same one goes on (%(default)s)")
    parser.add_argument("--failures", type=int, default=3, help="so often the workers start again (%(default)s)")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_args(arguments)

    cfg = detframe.get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"cfg": cfg},
        scaling_config=ScalingConfig(num_workers=args.workers, use_gpu=args.gpu),
        run_config=RunConfig(
            name=args.name,
            storage_path=args.storage if "://" in args.storage else str(Path(args.storage).resolve()),
            failure_config=FailureConfig(max_failures=args.failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    result = trainer.fit()
    print(f"metrics: {result.metrics}")
    print(f"checkpoint: {result.checkpoint.path if result.checkpoint else None}")


if __name__ == "__main__":
    main()
