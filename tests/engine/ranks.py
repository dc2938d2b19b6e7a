"""What the tests run in processes of their own; everything here must be importable there."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import torch

from detframe.config import get_cfg
from detframe.engine import newest
from detframe.engine.callbacks import StopTogether
from detframe.engine.inputs import describe_exchange
from detframe.engine.newest import open_newest
from detframe.engine.saving import CheckpointHook
from detframe.engine.step import check_losses
from detframe.engine.trainer import Hook
from detframe.errors import InvalidValueError
from detframe.modeling.compiling import compile_model
from detframe.parallel.collectives import any_rank, barrier, gather_objects, on_rank_zero, rank, world_size
from detframe.parallel.joining import process_group
from detframe.parallel.stopping import StopSignals
from tests.engine.budgets import Clock, budgeted
from tests.engine.fakes import Regressor, make_checkpointer, make_config, make_data, make_trainer, weights
from tests.modeling.compiled import SAMPLED, Counter, images_of, made
from tests.modeling.tiny import EMPTY, FULL

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.ANCHOR_SIZES": ((8,), (16,), (32,), (64,), (128,)),
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 50,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 100,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 50,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MAX_SIZE_TRAIN": 64,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 64,
    "DATASETS.TRAIN": ("shapes_train",),
    "DATASETS.TEST": ("shapes_val",),
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.MAX_ITER": 8,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.STEPS": (6,),
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.CHECKPOINT_PERIOD": 4,
    "SOLVER.LOG_PERIOD": 2,
    "SOLVER.AMP": "off",
    "TEST.VISUALIZE": 1,
    "TEST.REPORT": False,
}


def tiny_config(overrides=()):
    cfg = get_cfg()
    cfg.merge_from_list([word for pair in TINY.items() for word in pair])
    cfg.merge_from_list(list(overrides))
    return cfg


# ---------------------------------------------------------------------------------------------- launch
def fail_on_rank_one():
    """Rank 1 fails; rank 0 waits for it in a collective."""
    with process_group("cpu"):
        if rank() == 1:
            raise ValueError("the message of rank 1")
        barrier()
        time.sleep(60)


# ---------------------------------------------------------------------------------------------- two ranks, fake model
class BreaksOnRankOne(Regressor):
    calls = 0

    def forward(self, images, targets):
        losses = super().forward(images, targets)
        self.calls += 1
        if rank() == 1 and self.calls == 3:
            losses["loss_a"] = losses["loss_a"] * float("inf")
        return losses


def two_ranks(folder):
    """Everything that two ranks with the fake model can show; rank 0 returns it."""
    with process_group("cpu"):
        found = {"world": world_size(), "any": any_rank(rank() == 1), "threads": torch.get_num_threads()}
        found["weights"] = {steps: _train(folder, accumulate_steps=steps) for steps in (1, 2)}
        found["nonfinite"] = gather_objects(_nonfinite(folder))
        found["skipping"] = gather_objects(_nonfinite(f"{folder}/skipping", SKIP_NONFINITE=1))
        found["rank zero"] = gather_objects(_rank_zero_error())
        found["exchange"] = gather_objects(describe_exchange(Regressor(), torch.device("cpu")))
        found["keys"] = gather_objects(_different_keys())
        found["broken"] = gather_objects(_broken(Path(folder)))
        found["newest"] = gather_objects(_newest(Path(folder) / "damaged"))
        torch.set_num_threads(1)
        found["compiled"] = compiled_training(Path(folder), "step")
        return found


def _train(folder, **settings):
    trainer = make_trainer(Path(folder), data=make_data(0, 4, rank(), world_size()), **settings)
    trainer.train()
    return as_arrays(trainer)


def as_arrays(trainer):
    """The weights without tensors, whose memory would end with their process."""
    return {name: value.numpy() for name, value in weights(trainer).items()}


def _nonfinite(folder, **solver):
    data = make_data(0, 4, rank(), world_size())
    trainer = make_trainer(Path(folder), make_config(**solver), BreaksOnRankOne(), data)
    try:
        trainer.train()
    except FloatingPointError as error:
        return str(error), as_arrays(trainer)
    return "no error", as_arrays(trainer)


def compiled_training(folder, how):
    """Two steps of Faster R-CNN by MODEL.COMPILE: weights, graphs that were made, and how many PyTorch was given."""
    # large enough for two buckets of gradients
    model, counter = made("faster_rcnn", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 512, *SAMPLED), Counter()
    compile_model(model, how, torch.device("cpu"), backend=counter)
    images = [image for _ in range(2) for image in images_of(128, 128)]
    targets = [{**(FULL, EMPTY)[i > 1], "seed": i} for i in range(4)]  # rank 1 has no objects
    share = slice(rank() * 4 // world_size(), (rank() + 1) * 4 // world_size())
    trainer = make_trainer(
        folder, make_config(MAX_ITER=2, BASE_LR=0.01), model, itertools.repeat((images[share], targets[share]))
    )
    trainer.train()
    return as_arrays(trainer), [graph.call for graph in model.graphs.made] if model.graphs else [], counter.graphs


def _rank_zero_error():
    def full():
        raise OSError("cannot write model.pth: the disk is full")

    try:
        on_rank_zero(full, "to save")
    except (OSError, RuntimeError) as error:
        return type(error).__name__, str(error)
    return "none", ""


def _different_keys():
    try:
        check_losses({f"loss_{rank()}": torch.tensor(1.0)})
    except ValueError as error:
        return str(error)
    return ""


class BreakRankOne(Hook):
    """Only one rank's weights are broken, after the last update."""

    def after_step(self, trainer):
        if rank() == 1 and trainer.iteration == trainer.max_iter:
            trainer.model.layer.bias.data[0] = float("nan")


def _broken(folder):
    hooks = [BreakRankOne(), CheckpointHook(make_checkpointer(folder), 0)]
    trainer = make_trainer(folder, data=make_data(0, 4, rank(), world_size()), hooks=hooks)
    try:
        trainer.train()
    except FloatingPointError as error:
        return str(error), sorted(path.name for path in folder.glob("model_*"))
    return "no error", []


def _newest(folder):
    """The newest checkpoint; then the same where rank 1 cannot read it."""
    found = [open_newest(folder).source.name]
    if rank() == 1:
        newest.read_training_checkpoint = _unreadable
    try:
        open_newest(folder)
    except ValueError as error:
        found.append(str(error))
    return found


def _unreadable(path):
    raise InvalidValueError(f"{path} is not whole here")


def stop_on_rank_one(folder):
    """Rank 1 alone cannot read its third batch; in a second run it alone gets a signal. Each rank notes what it saw."""
    from detframe.engine.trainer import Hook

    class Send(Hook):
        def after_step(self, trainer):
            if rank() == 1 and trainer.iteration == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

    def ending():
        for number, batch in enumerate(make_data(0, 4, rank(), world_size())):
            if rank() == 1 and number == 2:
                raise OSError("no more pictures")
            yield batch

    with process_group("cpu"):
        note = Path(folder, f"rank{rank()}.txt")
        try:
            _stoppable(Path(folder, "2"), ending(), [])
        except (OSError, RuntimeError) as error:
            note.write_text(f"2 {type(error).__name__} {error}\n")
        try:
            _stoppable(Path(folder, "3"), make_data(0, 4, rank(), world_size()), [Send()])
        except BaseException as error:
            note.write_text(note.read_text() + f"3 {type(error).__name__}")
            raise


def full_disk_on_rank_zero(folder):
    """Rank 0 finds the disk full while it writes a checkpoint in the background. Each rank notes what it saw."""
    from detframe.engine.saving import CheckpointHook
    from tests.engine.test_background import full_disk

    with process_group("cpu"), full_disk():
        hooks = [CheckpointHook(make_checkpointer(Path(folder), background=True), 2)]
        try:
            make_trainer(Path(folder), data=make_data(0, 4, rank(), world_size()), hooks=hooks).train()
        except OSError as error:
            return gather_objects(f"{type(error).__name__} {error}")
        except RuntimeError as error:
            return gather_objects(f"{type(error).__name__} {error}")


def _stoppable(folder, data, hooks):
    from detframe.engine.saving import CheckpointHook

    folder.mkdir(exist_ok=True)
    trainer = make_trainer(folder, data=data, hooks=[*hooks, CheckpointHook(make_checkpointer(folder), 0)])
    trainer.stop = StopSignals()
    with trainer.stop.handled():
        trainer.train()


# ---------------------------------------------------------------------------------------------- two ranks, real model
def two_ranks_detector(train_cfg, evaluate_cfg):
    """Train; evaluate weights that somebody else trained; train on a rank without objects."""
    from detframe.engine import evaluate, train

    torch.set_num_threads(1)
    with process_group("cpu"):
        metrics = train(train_cfg)
        return {
            "metrics": metrics,
            "evaluated": evaluate(evaluate_cfg),
            "empty": [gather_objects(empty_rank(cfg)) for cfg in empty_rank_configs(train_cfg)],
        }


DENSE = ("MODEL.ROI_HEADS.NAME", "", "MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET")
MASKS = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8)
EFPN = ("MODEL.BACKBONE.CONV_BODY", "R-18-EFPN", "MODEL.EFPN.WIDTH", 8)
EFPN += ("MODEL.RPN.IN_FEATURES", ("p2", "p3", "p4", "p5", "p6"))
KINDS = {
    "FCOS": (*DENSE, "MODEL.RPN.NAME", "FCOS"),
    "TOOD": (*DENSE, "MODEL.RPN.NAME", "TOOD", "MODEL.TOOD.NUM_CONVS", 2),
    "GFL": (*DENSE, "MODEL.RPN.NAME", "GFL"),
    "RetinaNet": (*DENSE, "MODEL.RPN.NAME", "RetinaNet"),
    "masks and keypoints": (
        *(*MASKS, "MODEL.KEYPOINT_ON", True),
        *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 4, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,)),
    ),
    "cascade": (*MASKS, "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
    "PointRend": (*MASKS, "MODEL.ROI_MASK_HEAD.NAME", "PointRend", "MODEL.POINT_HEAD.COARSE_FC_DIM", 8),
    "distillation": (
        # group norm over the single cell that is left of a halved image would magnify rounding
        *(*EFPN, "MODEL.DISTILL.ON", True, "MODEL.RESNETS.NORM", "FrozenBN"),
        *("MODEL.FREEZE", ("backbone.body.*", "backbone.fpn.*", "rpn.*", "roi_heads.*")),
    ),
}


def kind_config(cfg, name, kinds=KINDS):
    """The config of another kind of detector."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(["MODEL.RESNETS.NORM", "GN", "MODEL.NUM_CLASSES", 5, *kinds[name]])
    return cfg


def empty_rank_configs(cfg):
    """What an empty rank is tried with: the norms, and the kinds of detectors."""
    for norm in ("GN", "BN", "FrozenBN"):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.RESNETS.NORM = norm
        yield cfg
    for name in KINDS:
        yield kind_config(cfg, name)


def empty_rank(cfg):
    """Two steps in which rank 1, and then all ranks, see no object; returns parameters that got no gradient."""
    from detframe.modeling import build_detection_model

    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.NUM_CLASSES = 5
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    without = []

    def data():
        for step in range(2):
            yield [batch_with(0 if rank() == 1 or step else 2)[0]], [batch_with(0 if rank() == 1 or step else 2)[1]]

    def note(*_):
        without.extend(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)

    trainer = make_trainer(Path(cfg.OUTPUT_DIR), make_config(MAX_ITER=2, BASE_LR=0.01), model=model, data=data())
    trainer.optimizer.register_step_pre_hook(note)
    trainer.train()
    return trainer.iteration, without


def batch_with(objects):
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 4, 30, 30], [20, 24, 60, 50]])[:objects].reshape(-1, 4)
    target = {"boxes": boxes, "labels": torch.ones(objects, dtype=torch.int64), "image_id": 1, "seed": 3}
    masks = torch.zeros(objects, 64, 64, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    middles = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, torch.full((objects, 1), 2.0)], 1)
    keypoints = middles[:, None].repeat(1, 4, 1)
    return image, {**target, "orig_size_hw": (64, 64), "masks": masks, "keypoints": keypoints}


def callbacks_on_rank_one(folder):
    """A callback of rank 1 alone ends the run; rank 0 returns where each rank stopped, and why."""

    class Enough(Hook):
        def after_step(self, trainer):
            if rank() == 1 and trainer.iteration == 3:
                trainer.stop_reason = "enough of it"

    with process_group("cpu"):
        hooks = [Enough(), StopTogether(), CheckpointHook(make_checkpointer(Path(folder)), 0)]
        trainer = make_trainer(Path(folder), data=make_data(0, 4, rank(), world_size()), hooks=hooks)
        trainer.train()
        return gather_objects((trainer.iteration, trainer.stop_reason))


def budget_on_two_ranks(folder):
    """Rates of both ranks, whose clocks run at different speeds; rank 0 returns them."""
    with process_group("cpu"):
        clock = Clock(2.0 if rank() == 0 else 7.0, now=100.0 * rank())
        trainer, rates = budgeted(clock, Path(folder), 100.0, data=make_data(0, 4, rank(), world_size()))
        trainer.train()
        return gather_objects(rates.seen)
