"""The contracts of optimizers and schedules: detframe's own keep them, and each fault is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detframe.contracts import running
from detframe.contracts.inputs import Place
from detframe.contracts.results import result_of
from tests.contracts.faults import broken, found

RATES, ZEROS = "each group has its own learning rate", "gradients of 0, or none"
EQUAL, RESUMED, RANGE = "equal gradients give equal weights", "saved and resumed", "factors are numbers from 0 on"
ALONE = "the iteration alone decides"
MEMBERS = [
    *(("OPTIMIZERS", name) for name in ("SGD", "AdamW")),
    *(("LR_SCHEDULES", name) for name in ("step", "cosine", "polynomial", "one_cycle")),
]


@pytest.mark.parametrize(("registry", "name"), MEMBERS)
@pytest.mark.parametrize("words", [(), ("SOLVER.MAX_ITER", "3ep", "SOLVER.NESTEROV", True)])
def test_those_of_detframe_keep_it(registry: str, name: str, words: tuple, tmp_path: Path):
    path = tmp_path / "nothing_more.py"
    path.write_text("")
    tests = running.tests_of(Place(registry, name, path, overrides=words))
    results = [result_of(name, title, body, path) for title, body in tests]
    assert [str(result) for result in results if result.state != "ok"] == []


BROKEN = [
    (
        "optimizer",
        "(groups, betas=(0.9, 0.99))",
        ".__doc__",
        "it is built",
        "must return a torch.optim.Optimizer, not a str",
    ),
    (
        "optimizer",
        "super().__init__(groups, {",
        "super().__init__([p for g in groups for p in g['params']], {",
        "its groups are those that it is given",
        "given 2 groups of parameters, and has 1",
    ),
    (
        "optimizer",
        '"weight_decay": 0.0})',
        '"weight_decay": 0.0})\n        self.param_groups[0]["weight_decay"] = 7.0',
        "its groups are those that it is given",
        r"group 0 was given weight_decay 0\.01, and has 7\.0",
    ),
    (
        "optimizer",
        '"weight_decay": 0.0})',
        '"weight_decay": 0.0})\n        self.param_groups[0]["params"].reverse()',
        "its groups are those that it is given",
        "group 0 has other parameters than it was given, or in another order",
    ),
    (
        "optimizer",
        '"weight_decay": 0.0})',
        '"weight_decay": 0.0})\n        self.param_groups[0]["params"][0].data.zero_()',
        "its groups are those that it is given",
        "changed when it was built, before any step",
    ),
    (
        "optimizer",
        '.sub_(group["lr"]',
        '.add_(group["lr"]',
        "a convex loss falls",
        r"100 steps .* leave .* of a loss of .*does it step against the gradient\?",
    ),
    (
        "optimizer",
        "closure: Callable[[], float] | None = None)",
        "closure)",
        "a convex loss falls",
        "TypeError: .*'closure'",
    ),
    (
        "optimizer",
        '.sub_(group["lr"]',
        ".sub_(0.001",
        RATES,
        r"backbone.weight, backbone.bias moved though the `lr` of the group is 0: step\(\) must read",
    ),
    (
        "optimizer",
        '.sub_(group["lr"]',
        '.sub_(self.param_groups[0]["lr"]',
        RATES,
        "head.weight, head.bias moved though the `lr` of the group is 0",
    ),
    (
        "optimizer",
        "for group in self.param_groups:",
        "for group in self.param_groups:\n            group['lr'] = self.param_groups[0]['lr']",
        RATES,
        "group 1 with `lr` 0.01 did not move while that of group 0 was 0",
    ),
    ("optimizer", ".sign_()", "", "a convex loss falls", "ok$"),  # a slower optimizer is one as well
    (
        "optimizer",
        ".sign_()",
        ".div_(parameter.grad.norm())",
        ZEROS,
        "backbone.weight, backbone.bias, head.weight and 1 more is not finite after a step whose gradients are 0",
    ),
    (
        "optimizer",
        "if parameter.grad is None:\n                    continue",
        "if False: pass",
        ZEROS,
        r"(TypeError|AttributeError): .*\(broken_\w+\.py, line \d+\)",
    ),
    (
        "optimizer",
        "if parameter.grad is None:\n                    continue",
        "if parameter.grad is None: parameter.grad = torch.ones_like(parameter)",
        ZEROS,
        "a parameter without a gradient .* was changed: leave it out",
    ),
    (
        "optimizer",
        ".sign_()",
        ".sign_().mul_(torch.rand(()))",
        EQUAL,
        "backbone.weight depends on the random numbers of the process",
    ),
    (
        "optimizer",
        "state = self.state[parameter]",
        "state = self.__dict__.setdefault('kept', {}).setdefault(parameter, {})",
        RESUMED,
        "after 4 steps, a checkpoint and 4 more is not that of 8 steps: what step.. keeps must be in self.state",
    ),
    (
        "optimizer",
        'first, second = group["betas"]',
        'first, second = group["betas"]; group["betas"] = (first * 0.8, second)',
        RESUMED,
        "the groups are made anew from the config",
    ),
    (
        "optimizer",
        'state["mean"] = torch.zeros_like(parameter)',
        'state["mean"] = torch.zeros_like(parameter); state["odd"] = range',
        RESUMED,
        "range",
    ),
    ("schedule", "return factor\n", "return factor(0)\n", "it is built", "a function of the iteration, not a float"),
    (
        "schedule",
        "return min(1.0, left",
        "return min(1.0, left - 1",
        RANGE,
        r"the factor at iteration 900 is -0\.\d+: below 0",
    ),
    ("schedule", "return min(1.0,", "return float('nan') + min(1.0,", RANGE, "the factor at iteration 0 is nan"),
    ("schedule", "return min(1.0,", "return str(left) or min(1.0,", RANGE, "must be a number, not '900'"),
    ("schedule", "return min(1.0,", "return 0 * min(1.0,", RANGE, "all factors of a run of 900 iterations are 0"),
    (
        "schedule",
        "left = max(length - iteration, 0)",
        "left = list(range(length, -1, -1))[iteration]",
        RANGE,
        r"TypeError: list indices must be integers.*\(broken_\w+\.py, line 21\)",
    ),
    (
        "schedule",
        "max(COOLDOWN * length, 1)",
        "(COOLDOWN * (length - 1))",
        "short runs",
        r"ZeroDivisionError: .*\(broken_\w+\.py, line 22\)",
    ),
    (
        "schedule",
        "left = max(length - iteration, 0)",
        "calls.append(0); left = max(length - len(calls), 0)",
        ALONE,
        "it may depend on the iteration alone, not on calls before it, time or chance",
    ),
    (
        "schedule",
        "left = max(length - iteration, 0)",
        "calls.append(iteration); left = max(length - (iteration - calls[0]), 0)",
        "a run that goes on",
        r"the factor at iteration \d+ is 0\.\d+ in a whole run, and 1 in one that was resumed at iteration \d+",
    ),
]


@pytest.mark.parametrize(("kind", "old", "new", "test", "says"), BROKEN)
def test_what_is_broken_is_named(kind: str, old: str, new: str, test: str, says: str, tmp_path: Path):
    path = broken(kind, old, new, tmp_path)
    if "calls" in new:
        path.write_text(path.read_text().replace("    length: int = cfg", "    calls = []\n    length: int = cfg"))
    result = found(kind, path, test)
    assert re.search(says, str(result)), result


@pytest.mark.parametrize("kind", ["optimizer", "schedule"])
def test_with_a_config_of_its_own(kind: str, tmp_path: Path):
    """Patterns of names and durations in epochs mean nothing to a small problem, and do not disturb it."""
    path = broken(kind, "from detframe import registry", "from detframe import registry  # mine", tmp_path)
    config = tmp_path / "mine.yaml"
    keys = "{BASE_LR: 0.5, MAX_ITER: 12ep, LR_FACTORS: [['backbone.fpn.*', 2]], LAYER_DECAY: 0.9}"
    config.write_text(f"CUSTOM_IMPORTS: [{path.name}]\nSOLVER: {keys}\n", encoding="utf-8")
    results = running.test_file(path, config)
    assert len(results) >= 5 and [str(result) for result in results if result.state != "ok"] == []


def test_a_module_of_a_package_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As it is installed: with an import from beside it, which a file by itself cannot have."""
    imports = "from detframe import registry"
    source = broken("schedule", imports, f"from . import beside\n{imports}", tmp_path)
    package = tmp_path / "installed_package"
    package.mkdir()
    for name in ("__init__", "beside"):
        (package / f"{name}.py").touch()
    source.rename(package / "schedules.py")
    monkeypatch.syspath_prepend(tmp_path)
    results = running.test_file("installed_package.schedules")
    assert len(results) >= 4 and [str(result) for result in results if result.state != "ok"] == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("installed_package.no_such_module", "neither a file that is there nor a module that Python finds"),
        ("no_such_file.py", "no_such_file.py is not there: name the Python file"),
        ("a folder/heads", "a folder/heads is not there: name the Python file"),
    ],
)
def test_what_is_neither_a_file_nor_a_module(name: str, says: str):
    with pytest.raises(FileNotFoundError, match=says):
        running.test_file(name)


def test_a_module_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "failing_module.py").write_text("import no_such_library\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (result,) = running.test_file("failing_module")
    assert result.state == "FAILED" and "no_such_library" in result.why
