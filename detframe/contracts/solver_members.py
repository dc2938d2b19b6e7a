"""The contract of what moves the weights: optimizers and learning-rate schedules."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detframe.config import ConfigNode, resolve_durations
from detframe.contracts.inputs import BASE, Place
from detframe.contracts.results import Test
from detframe.contracts.words import listed, need
from detframe.registry import LR_SCHEDULES, OPTIMIZERS
from detframe.solver import build_optimizer, load_optimizer_state, parameter_groups, set_learning_rate
from detframe.torch_files import read_torch_file, write_torch_file

STEPS = 100  # in which a convex loss must fall
RATES = (0.1, 0.01, 0.001, 0.0001)  # with one of these, or with SOLVER.BASE_LR
FALL = 0.9  # of the loss that may be left
HALF = 4  # steps before a state is saved, and after it
IMAGES = 100  # in an epoch, where a config counts in epochs


def tests_of(place: Place) -> list[Test]:
    """The tests of a member of OPTIMIZERS or LR_SCHEDULES, in the order in which they are made."""
    return {OPTIMIZERS.name: _of_optimizer, LR_SCHEDULES.name: _of_schedule}[place.registry](place)


def _cfg(place: Place, *pairs: tuple[str, Any]) -> ConfigNode:
    """The config of the member's place, with durations in iterations, and some keys set for the test."""
    keys = {OPTIMIZERS.name: "SOLVER.OPTIMIZER", LR_SCHEDULES.name: "SOLVER.LR_SCHEDULE"}
    return resolve_durations(place.read({keys[place.registry]: place.name}, BASE).changed(pairs), IMAGES)


# --------------------------------------------------------------------------------------------------------- optimizers
def _of_optimizer(place: Place) -> list[Test]:
    return [
        ("it is built", lambda: _optimizer(place)),
        ("its groups are those that it is given", lambda: _keeps_groups(place)),
        ("a convex loss falls", lambda: _lowers(place)),
        ("each group has its own learning rate", lambda: _follows_rates(place)),
        ("gradients of 0, or none", lambda: _survives_zeros(place)),
        ("equal gradients give equal weights", lambda: _repeats(place)),
        ("saved and resumed", lambda: _resumes(place)),
    ]


class _Problem(nn.Module):
    """Least squares of two linear maps whose results are added: convex, with parameters of a backbone and of a head.

    Args:
        cfg: makes the groups of parameters and the optimizer.
    """

    def __init__(self, cfg: ConfigNode) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.backbone, self.head = nn.Linear(6, 3), nn.Linear(6, 3)
        self.x = torch.randn((32, 6), generator=generator)
        self.y = self.x @ torch.randn((6, 3), generator=generator) * 3 + 1
        self.optimizer = build_optimizer(cfg, self)

    def step(self, rate: float) -> float:
        """One step at a rate; returns the loss before it."""
        set_learning_rate(self.optimizer, rate)
        loss = (self.backbone(self.x) + self.head(self.x) - self.y).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def values(self) -> dict[str, Tensor]:
        """A copy of the parameters, by name."""
        return {name: p.detach().clone() for name, p in self.named_parameters()}


def _problem_cfg(place: Place) -> ConfigNode:
    """The config, whose backbone has a group of its own; patterns of a real model's names match nothing here."""
    return _cfg(place, ("SOLVER.BACKBONE_LR_FACTOR", 0.5), ("SOLVER.LR_FACTORS", []), ("SOLVER.LAYER_DECAY", 1.0))


def _optimizer(place: Place) -> None:
    cfg = _problem_cfg(place)
    for fused in (False, True):
        made = OPTIMIZERS.get(place.name)(cfg, parameter_groups(cfg, nn.Linear(2, 2)), fused)
        right = isinstance(made, Optimizer)
        need(right, f"it must return a torch.optim.Optimizer, not a {type(made).__name__}: derive a class from that")


def _keeps_groups(place: Place) -> None:
    cfg = _problem_cfg(place)
    before = _Problem(cfg)  # what it is built with is the same each time, as its seed is
    wanted = parameter_groups(cfg, before)
    groups = before.optimizer.param_groups
    need(len(groups) == len(wanted), f"it was given {len(wanted)} groups of parameters, and has {len(groups)}")
    for i, (group, given) in enumerate(zip(groups, wanted, strict=True)):
        same = [id(p) for p in group["params"]] == [id(p) for p in given["params"]]
        need(same, f"group {i} has other parameters than it was given, or in another order")
        for key in ("lr_factor", "weight_decay"):
            need(group.get(key) == given[key], f"group {i} was given {key} {given[key]}, and has {group.get(key)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = nn.Linear(6, 3)
    need(torch.equal(before.backbone.weight, fresh.weight), "parameters changed when it was built, before any step")


def _lowers(place: Place) -> None:
    cfg = _problem_cfg(place)
    rates = list(dict.fromkeys((cfg.SOLVER.BASE_LR, *RATES)))
    best, first = math.inf, math.inf
    for rate in rates:
        problem = _Problem(cfg)
        losses = [problem.step(rate) for _ in range(STEPS)]
        first, last = losses[0], losses[-1]
        if last <= FALL * first:
            return
        best = min(best, last) if math.isfinite(last) else best
    tried = ", ".join(f"{rate:g}" for rate in rates)
    need(
        False,
        f"{STEPS} steps on a least-squares problem leave {best:.4g} of a loss of {first:.4g} at best (learning rates "
        f"{tried}): does it step against the gradient?",
    )


def _follows_rates(place: Place) -> None:
    cfg = _problem_cfg(place)
    for still in range(len(_Problem(cfg).optimizer.param_groups)):
        problem = _Problem(cfg)
        names = {p: name for name, p in problem.named_parameters()}
        for i, group in enumerate(problem.optimizer.param_groups):
            group["lr_factor"] = float(i != still)
        before = problem.values()
        for _ in range(3):
            problem.step(0.01)
        after = problem.values()
        for i, group in enumerate(problem.optimizer.param_groups):
            moved = [names[p] for p in group["params"] if not torch.equal(before[names[p]], after[names[p]])]
            if i == still:
                said = (
                    f"{listed(moved)} moved though the `lr` of the group is 0: step() must read group['lr'] each time"
                )
                need(not moved, said)
            else:
                said = f"group {i} with `lr` 0.01 did not move while that of group {still} was 0"
                need(bool(moved), f"{said}: step() must read the `lr` of each group")


def _survives_zeros(place: Place) -> None:
    problem = _Problem(_problem_cfg(place))
    for kept in (list(problem.parameters()), list(problem.head.parameters())):
        before = problem.values()
        for parameter in kept:
            parameter.grad = torch.zeros_like(parameter)
        set_learning_rate(problem.optimizer, 0.01)
        problem.optimizer.step()
        problem.optimizer.zero_grad(set_to_none=True)
        _check_finite(problem, "a step whose gradients are 0, as of images without objects")
    same = torch.equal(before["backbone.weight"], problem.backbone.weight)
    need(same, "a parameter without a gradient (grad is None) was changed: leave it out")
    for _ in range(HALF):
        problem.step(0.01)
    _check_finite(problem, "steps that follow one whose gradients are 0")


def _check_finite(problem: _Problem, after: str) -> None:
    odd = [name for name, p in problem.named_parameters() if not bool(torch.isfinite(p).all())]
    need(not odd, f"{listed(odd)} is not finite after {after}")


def _repeats(place: Place) -> None:
    results = []
    for seed in range(2):
        problem = _Problem(_problem_cfg(place))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(HALF):
                problem.step(0.01)
        results.append(problem.values())
    name = _first_other(*results)
    said = "nothing may be drawn by chance, or the processes of a training would have other weights"
    need(not name, f"{name} depends on the random numbers of the process: {said}")


def _resumes(place: Place) -> None:
    cfg = _problem_cfg(place)
    rates = [0.02 * (1 - i / (3 * HALF)) for i in range(2 * HALF)]
    whole, begun, resumed = (_Problem(cfg) for _ in range(3))
    for rate in rates:
        whole.step(rate)
    for rate in rates[:HALF]:
        begun.step(rate)
    resumed.load_state_dict(begun.state_dict())
    load_optimizer_state(resumed.optimizer, _as_saved(begun.optimizer.state_dict()))
    for rate in rates[HALF:]:
        resumed.step(rate)
    name = _first_other(whole.values(), resumed.values())
    need(
        not name,
        f"{name} after {HALF} steps, a checkpoint and {HALF} more is not that of {2 * HALF} steps: what step() keeps "
        "must be in self.state[parameter], which state_dict() holds; the groups are made anew from the config",
    )


def _as_saved(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint gives back of a state."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pth"
        write_torch_file({"optimizer": state}, path)
        found: dict[str, Any] = read_torch_file(path)["optimizer"]
    return found


def _first_other(first: dict[str, Tensor], second: dict[str, Tensor]) -> str:
    """The name of the first tensor that is not equal bit for bit; "": all are."""
    return next((name for name, value in first.items() if not torch.equal(value, second[name])), "")


# ---------------------------------------------------------------------------------------------------------- schedules
def _of_schedule(place: Place) -> list[Test]:
    return [
        ("it is built", lambda: _built_schedule(place)),
        ("factors are numbers from 0 on", lambda: _in_range(place)),
        ("short runs", lambda: _short(place)),
        ("the iteration alone decides", lambda: _iteration_decides(place)),
        ("a run that goes on", lambda: _goes_on(place)),
    ]


def _schedule(place: Place, *pairs: tuple[str, Any]) -> Callable[[float], Any]:
    made = LR_SCHEDULES.get(place.name)(_cfg(place, *pairs))
    need(callable(made), f"it must return a function of the iteration, not a {type(made).__name__}")
    return made  # type: ignore[no-any-return]


def _built_schedule(place: Place) -> None:
    _schedule(place)


def _iterations(length: int) -> list[float]:
    """Where a schedule is asked: over a long run some hundred iterations, the last ones, and between two."""
    spread = {round(i * length / 400) for i in range(400)}
    near = {i for i in range(max(length - 3, 0), length + 1)} | {0, 1}
    whole = sorted(i for i in spread | near if i <= length)
    return [*whole, *(i + 0.5 for i in whole if i < length)]


def _factors(schedule: Callable[[float], Any], iterations: Sequence[float], what: str = "") -> list[float]:
    out = []
    for i in iterations:
        factor = schedule(i)
        where = f"the factor at iteration {i:g}{what}"
        number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        need(number, f"{where} must be a number, not {factor!r}")
        need(math.isfinite(factor), f"{where} is {factor}")
        need(factor >= 0, f"{where} is {factor:g}: below 0 a step goes up the gradient")
        out.append(float(factor))
    return out


def _in_range(place: Place) -> None:
    length = _cfg(place).SOLVER.MAX_ITER
    factors = _factors(_schedule(place), _iterations(length))
    need(any(factors), f"all factors of a run of {length} iterations are 0: nothing would be learned")


def _short(place: Place) -> None:
    for length in (1, 2, 7):
        schedule = _schedule(place, ("SOLVER.MAX_ITER", length))
        _factors(schedule, _iterations(length), f" of a run of {length} iterations")


def _iteration_decides(place: Place) -> None:
    iterations = _iterations(_cfg(place).SOLVER.MAX_ITER)
    schedule = _schedule(place)
    first = _factors(schedule, iterations)
    again = _factors(schedule, iterations[::-1])[::-1]
    for i, factor, other in zip(iterations, first, again, strict=True):
        said = f"the factor at iteration {i:g} is {factor:g} when it is first asked for, and {other:g} later"
        need(factor == other, f"{said}: it may depend on the iteration alone, not on calls before it, time or chance")


def _goes_on(place: Place) -> None:
    iterations = _iterations(_cfg(place).SOLVER.MAX_ITER)
    later = [i for i in iterations if i >= iterations[len(iterations) // 4]]
    whole = dict(zip(iterations, _factors(_schedule(place), iterations), strict=True))
    for i, factor in zip(later, _factors(_schedule(place), later), strict=True):
        said = f"the factor at iteration {i:g} is {whole[i]:g} in a whole run, and {factor:g} in one that was resumed"
        need(factor == whole[i], f"{said} at iteration {later[0]:g}: compute it from the iteration")
