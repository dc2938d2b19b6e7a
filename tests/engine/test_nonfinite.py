"""Weights that are not finite are never saved, and each cause of such numbers is told from the others."""

import math

import pytest
import torch
from torch import nn

from detframe.engine.causes import STEP_CAUSES, UPDATE_CAUSES
from detframe.engine.hooks import EvaluationHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.nonfinite import FiniteHook
from detframe.engine.replaying import run_step
from detframe.engine.saving import BestHook, CheckpointHook
from detframe.engine.step import RunningBuffers, all_finite, infinite_buffers
from detframe.errors import NonFiniteError
from detframe.solver import build_lr_schedule, check_schedule
from tests.engine.fakes import Regressor, last_state, make_batch, make_checkpointer, make_config, make_trainer

INF, NAN = math.inf, math.nan


class Normed(Regressor):
    """With batch norm, whose running statistics every forward pass changes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.first = nn.Linear(3, 3)

    def forward(self, images, targets):
        x = torch.stack([image.float().mean((1, 2)) / 255 for image in images])
        wanted = torch.stack([target["boxes"][0, :2] for target in targets])
        error = (self.layer(self.norm(self.first(x))) - wanted).square().mean(0)
        return {"loss_a": error[0], "loss_b": 2 * error[1]}


class Frozen(nn.Module):
    """A loss of its own: `loss(model, images, targets)` in place of loss_b."""

    def __init__(self, loss):
        super().__init__()
        self.inner, self.loss = Regressor(), loss

    def forward(self, images, targets):
        losses = self.inner(images, targets)
        return {**losses, "loss_b": self.loss(self.inner.layer.weight, images, losses)}


def failure(folder, cfg=None, model=None, data=None, hooks=(), schedule=lambda i: 1.0, ema=0.0, **settings):
    """The message with which a training ends; a checkpoint is saved after every step."""
    hooks = [*hooks, FiniteHook(4), CheckpointHook(make_checkpointer(folder, 0), 1)]
    trainer = make_trainer(folder, cfg, model, data, hooks, ema, schedule, **settings)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    for path in folder.glob("model_*.pth"):  # whatever happened, what lies there is good
        content = torch.load(path, weights_only=True)
        state = content["training"]["optimizer"]["state"]
        tensors = [*content["model"].values(), *(v for s in state.values() for v in s.values() if v is not None)]
        assert all_finite(t for t in tensors if isinstance(t, torch.Tensor))
        assert path.name != "model_final.pth"
    return str(caught.value)


def cause(message):
    return message.split("likely cause: ")[1].splitlines()[0]


# ---------------------------------------------------------------------------------------------- never saved
UPDATES = {
    "decay": ({"WEIGHT_DECAY": NAN}, "SOLVER.WEIGHT_DECAY is nan"),
    "infinite decay": ({"WEIGHT_DECAY": INF}, "SOLVER.WEIGHT_DECAY is inf"),
    "momentum": ({"MOMENTUM": INF}, "SOLVER.MOMENTUM is inf"),
    "Adam's decay": ({"OPTIMIZER": "AdamW", "WEIGHT_DECAY": NAN}, "SOLVER.WEIGHT_DECAY is nan"),
    "huge decay": ({"WEIGHT_DECAY": 1e30}, "SOLVER.WEIGHT_DECAY 1e+30 (or that of norms or biases): with the learning"),
    "large decay": ({"WEIGHT_DECAY": 1e12, "MAX_ITER": 20}, "SOLVER.WEIGHT_DECAY 1e+12"),
    "large momentum": ({"MOMENTUM": 1e10, "MAX_ITER": 20}, "SOLVER.MOMENTUM 1e+10: from 1 on"),
}


@pytest.mark.parametrize("kind", UPDATES)
def test_settings_that_break_weights(tmp_path, kind):
    options, wanted = UPDATES[kind]
    message = failure(tmp_path, make_config(**options))
    assert wanted in cause(message), message
    assert "iteration" in message.splitlines()[0]


def test_broken_weights_end_the_run_at_the_save(tmp_path):
    """The very last update: no forward pass comes after it that would notice."""
    cfg = make_config(WEIGHT_DECAY=NAN, MAX_ITER=1)
    message = failure(tmp_path, cfg)
    assert message.startswith(
        "after the update of iteration 1 the weights are not finite, so they are not saved: layer.weight, layer.bias"
    )
    assert "no checkpoint has been saved yet" in message
    assert list(tmp_path.glob("model_*")) == []
    assert NonFiniteError.exit_code == 1


def test_the_last_good_checkpoint_is_named(tmp_path):
    cfg = make_config(MAX_ITER=6)

    class Spoil(FiniteHook):
        def after_step(self, trainer):
            if trainer.iteration == 5:
                trainer.model.layer.bias.data[0] = INF

    message = failure(tmp_path, cfg, hooks=[Spoil()])
    assert f"the last good checkpoint is {tmp_path / 'model_0000004.pth'}" in message
    assert "layer.bias" in message
    assert "layer.weight" not in message
    assert (tmp_path / "last_checkpoint").read_text().strip() == "model_0000004.pth"


@pytest.mark.parametrize("what", ["average", "momentum", "statistics"])
def test_all_that_a_checkpoint_holds_must_be_finite(tmp_path, what):
    class Spoil(FiniteHook):
        def after_step(self, trainer):
            if trainer.iteration == 2:
                held = {
                    "average": lambda: trainer.ema.average["layer.bias"],
                    "momentum": lambda: trainer.optimizer.state[trainer.model.layer.bias]["momentum_buffer"],
                    "statistics": lambda: trainer.model.norm.running_var,
                }
                held[what]()[0] = NAN

    message = failure(tmp_path, model=Normed(), hooks=[Spoil()], ema=0.9)
    wanted = {
        "average": "layer.bias (average)",
        "momentum": "layer.bias (optimizer's momentum_buffer)",
        "statistics": "norm.running_var",
    }
    assert wanted[what] in message


def test_an_evaluation_that_would_save_the_best_model(tmp_path):
    writer, checkpointer = MetricsWriter(tmp_path, board=False), make_checkpointer(tmp_path)
    hooks = [
        EvaluationHook(lambda iteration: {"bbox/AP": 0.0}, writer, 1),
        BestHook(checkpointer, "bbox/AP"),
    ]
    failure(tmp_path, make_config(WEIGHT_DECAY=NAN), hooks=hooks)
    assert not (tmp_path / "model_best.pth").exists()


def test_infinities_by_design_are_saved(tmp_path):
    model = Regressor()
    model.register_buffer("mask", torch.tensor([0.0, -INF]))
    assert infinite_buffers(model) == {"mask"}
    make_trainer(tmp_path, model=model, hooks=[CheckpointHook(make_checkpointer(tmp_path), 4)]).train()
    assert last_state(tmp_path)["infinite_buffers"] == ["mask"]


def test_large_finite_numbers_are_finite():
    assert all_finite([torch.full((4,), 3e38), torch.ones(2, dtype=torch.bfloat16), torch.arange(3)])
    assert not all_finite([torch.ones(2), torch.tensor([1.0, NAN])])
    assert all_finite([])


# ---------------------------------------------------------------------------------------------- learning rates
@pytest.mark.parametrize(
    "schedule",
    [lambda i: INF if i == 3 else 1.0, lambda i: NAN if i == 3 else 1.0, lambda i: 1e300 ** (i - 2), lambda i: 1e40**i],
)
def test_a_rate_is_looked_at_before_the_step(tmp_path, schedule):
    message = failure(tmp_path, schedule=schedule)
    assert "the learning rate of step" in message
    assert "SOLVER.LR_SCHEDULE step makes it of BASE_LR 0.1, GAMMA" in message
    assert "last good checkpoint" in message or "no checkpoint" in message


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"BASE_LR": INF}, 1),
        ({"BASE_LR": NAN}, 1),
        ({"GAMMA": 1e45, "STEPS": (6,)}, 7),
        ({"GAMMA": 1e45, "STEPS": tuple(range(8))}, 1),
        ({"GAMMA": 1e200, "STEPS": (3, 4)}, 4),
        ({"WARMUP_ITERS": 4, "WARMUP_FACTOR": INF}, 1),
        ({"LR_SCHEDULE": "cosine", "COSINE_END_FACTOR": 1e60}, 8),
    ],
)
def test_known_schedules_are_looked_through_at_the_start(options, step):
    cfg = make_config(**{"WARMUP_ITERS": 0, **options})
    with pytest.raises(NonFiniteError, match=f"the learning rate of step {step} is .* Nothing was trained"):
        check_schedule(cfg, build_lr_schedule(cfg))


def test_sound_schedules_pass():
    for options in ({"GAMMA": 0.1, "STEPS": (6, 7)}, {"LR_SCHEDULE": "cosine"}, {"GAMMA": 1e45, "STEPS": (80,)}):
        cfg = make_config(**options)
        check_schedule(cfg, build_lr_schedule(cfg))


# ---------------------------------------------------------------------------------------------- causes of a bad step
def test_batch_norm_does_not_hide_the_learning_rate(tmp_path):
    """The forward pass that fails spoils the running statistics too; they were sound before it."""
    message = failure(tmp_path, make_config(BASE_LR=1e30), Normed())
    assert cause(message).startswith("the learning rate: 1e+30 is"), message
    (path,) = (tmp_path / "nonfinite").iterdir()
    bundle = torch.load(path, weights_only=True)
    assert all_finite(bundle["model"].values())
    model = Normed()
    model.load_state_dict(bundle["model"])
    report = run_step(model, bundle)
    assert report.reproduced
    assert report.broken_weight == ""
    assert report.losses.keys() == bundle["losses"].keys()


def test_running_buffers_are_those_before_the_step():
    model = Normed()
    running = RunningBuffers(model)
    copy = running.copy()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(*make_batch(0))
    named = running.named(copy)
    assert named.keys() == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert all(torch.equal(named[name], before[name]) for name in named)
    assert not torch.equal(model.norm.running_mean, named["norm.running_mean"])


def batch_with(**changes):
    images, targets = make_batch(0)
    targets[1] = {**targets[1], **{k: v for k, v in changes.items() if k != "image"}}
    images[1] = changes.get("image", images[1])
    return [(images, targets)]


def explode(weight, images, losses):
    return losses["loss_b"] * torch.exp(50 * losses["loss_b"].detach())


CASES = {
    "image": ({"data": batch_with(image=torch.full((3, 2, 2), NAN))}, "image 1 holds pixels that are not finite"),
    "infinite image": ({"data": batch_with(image=torch.full((3, 2, 2), INF))}, "image 1 holds pixels"),
    "box": ({"data": batch_with(boxes=torch.tensor([[NAN, 0, 1, 1]]))}, "an invalid target: target of image 1: box"),
    "label": (
        {"data": batch_with(labels=torch.tensor([9]), boxes=torch.tensor([[NAN, 0, 1, 1]]))},
        "an invalid target: target of image 1: label 9",
    ),
    "keypoints": (
        {"data": batch_with(keypoints=torch.tensor([[[NAN, 0, 2]]]), image=torch.full((3, 2, 2), 1.0))},
        "an invalid target: keypoints of image 1",
    ),
    "own loss": (
        {"model": Frozen(lambda weight, *_: (weight.sum() * 0).log() * 0)},
        "the computation of loss_b itself",
    ),
    "own loss, high rate": (
        {"model": Frozen(lambda weight, *_: (weight.sum() * 0).log() * 0), "cfg": make_config(BASE_LR=1e6)},
        "the computation of loss_b itself",
    ),
    "own gradient": (
        {"model": Frozen(lambda weight, _, losses: losses["loss_b"] + (weight.sum() * 0).sqrt())},
        "the backward pass in 1 of 2 parameters, as inner.layer.weight",
    ),
    "own gradient, each clipped": (
        {"model": Frozen(lambda weight, *_: (weight.sum() * 0).sqrt()), "clip_norm": 1.0, "clip_each": True},
        "the backward pass in 1 of 2 parameters, as inner.layer.weight",
    ),
    "infinite gradient, made finite by clipping": (
        {"model": Frozen(lambda weight, *_: (weight - weight.detach()).sum().sqrt()), "clip_value": 1.0},
        "the backward pass: the losses are finite",
    ),
    "rate": ({"cfg": make_config(BASE_LR=1e9, MAX_ITER=20)}, "the learning rate: 1e+09 is"),
    "warm-up": (
        {"schedule": lambda i: 1e25, "cfg": make_config(BASE_LR=0.005)},
        "times SOLVER.BASE_LR 0.005: see WARMUP_FACTOR",
    ),
    "growing": (
        {"model": Frozen(explode), "cfg": make_config(BASE_LR=0.005, MAX_ITER=50)},
        "the training grew unstable: ",
    ),
    "fp16": (
        {"model": Frozen(lambda weight, *_: overflow(weight)), "amp_dtype": torch.bfloat16},
        "an overflow in bfloat16",
    ),
}


def overflow(weight):
    """Finite only in full precision: a stand-in for fp16's largest number."""
    value = weight.sum() * 0 + 1
    return value / 0 if torch.is_autocast_enabled("cpu") else value


@pytest.mark.parametrize("kind", CASES)
def test_causes_of_a_step(tmp_path, kind):
    options, wanted = CASES[kind]
    options = {key: iter(value) if key == "data" else value for key, value in options.items()}
    if kind == "keypoints":  # the loss looks at them
        options["model"] = KeypointLoss()
    message = failure(tmp_path, **options)
    assert wanted in cause(message), message
    assert "replay it: " in message


class KeypointLoss(Regressor):
    def forward(self, images, targets):
        losses = super().forward(images, targets)
        points = [t["keypoints"].sum() for t in targets if "keypoints" in t]
        return {**losses, "loss_k": torch.stack(points).sum() + 0 * losses["loss_a"]}


def test_the_replay_of_code_of_ones_own_is_told_to_import_it(tmp_path):
    cfg = make_config()
    cfg.CUSTOM_IMPORTS = ["my_detector.py"]
    message = failure(tmp_path, cfg, data=iter(batch_with(image=torch.full((3, 2, 2), NAN))))
    assert "_rank0.pth --allow-custom-imports\n" in message


def test_weights_broken_before_any_update(tmp_path):
    model = Regressor()
    model.layer.weight.data[0, 0] = NAN
    assert "as layer.weight, before any update; see MODEL.WEIGHTS" in cause(failure(tmp_path, model=model))


def test_weights_broken_by_the_update_before(tmp_path):
    hooks = [CheckpointHook(make_checkpointer(tmp_path, 0), 0)]
    trainer = make_trainer(tmp_path, make_config(MOMENTUM=INF), hooks=hooks)
    with pytest.raises(NonFiniteError, match=r"since the update of iteration 2: SOLVER\.MOMENTUM is inf"):
        trainer.train()


def test_statistics_broken_by_an_earlier_step(tmp_path):
    class Spoil(FiniteHook):
        def after_step(self, trainer):
            if trainer.iteration == 2:
                trainer.model.norm.running_mean[0] = INF
                trainer.data = iter([(make_batch(3)[0], batch_with(boxes=torch.full((1, 4), NAN))[0][1])])

    trainer = make_trainer(tmp_path, model=Normed(), hooks=[Spoil()])
    with pytest.raises(NonFiniteError, match=r"the buffer norm\.running_mean was not finite before the step"):
        trainer.train()


def test_constants_of_the_pixels(tmp_path):
    class Model(Regressor):
        def __init__(self):
            super().__init__()
            self.register_buffer("std", torch.tensor([1.0, 0.0, 1.0]), persistent=False)

        def forward(self, images, targets):
            return super().forward([image / self.std[:, None, None] for image in images], targets)

    assert "INPUT.PIXEL_STD [1.0, 0.0, 1.0]" in cause(failure(tmp_path, model=Model()))


def test_fp16_that_never_fits(tmp_path):
    trainer = make_trainer(tmp_path, hooks=[FiniteHook(1)])
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-21)
    with pytest.raises(NonFiniteError, match="whatever the loss scale"):
        trainer.train()


def test_every_cause_has_an_end(tmp_path):
    """The last one of each list always has something to say."""
    assert STEP_CAUSES[-1].__name__ == "unknown_step"
    assert UPDATE_CAUSES[-1].__name__ == "unknown_update"
    message = failure(tmp_path, model=AllBroken())
    assert cause(message).startswith("the first step already: the model or its losses")


class AllBroken(Regressor):
    def forward(self, images, targets):
        return {key: value * NAN for key, value in super().forward(images, targets).items()}
