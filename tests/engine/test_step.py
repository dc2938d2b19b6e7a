"""Parts of a batch, on ranks or one after another, are one batch: in losses, gradients and the state that stays."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

from detframe.engine import launch
from detframe.engine.random_numbers import set_rng_state
from detframe.engine.replaying import run_step
from detframe.engine.step import count_parts, split_batch
from detframe.layers import StepCounts, first_part, global_normalizer, passes_per_step
from tests.engine import parts
from tests.engine.fakes import Regressor, make_batch, make_trainer


def assert_same_step(found, expected):
    """Equal up to the rounding of sums, by the largest value of each tensor."""
    assert found.keys() == expected.keys()
    assert sum(key.startswith("loss_") for key in expected) >= 2
    noise = 1e-7 * max(abs(value).max() for value in expected.values())  # of gradients that are 0 but for rounding
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=5e-5 * abs(value).max() + noise, err_msg=key)


@pytest.fixture(scope="module")
def whole_batch(tmp_path_factory):
    """The step in one part, once for each detector and layout."""
    return functools.cache(functools.partial(parts.step, tmp_path_factory.mktemp("whole"), num_parts=1))


@pytest.mark.parametrize("name", parts.DETECTORS)
@pytest.mark.parametrize(("layout", "num_parts"), [("first", 2), ("scattered", 4), ("none", 2)])
def test_parts_equal_the_batch(tmp_path, whole_batch, name, layout, num_parts):
    assert_same_step(parts.step(tmp_path, name, layout, num_parts), whole_batch(name, layout))


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return launch(parts.on_two_ranks, 2, (str(tmp_path_factory.mktemp("parts")),))


@pytest.mark.parametrize("name", parts.DETECTORS)
def test_parts_on_ranks_equal_the_batch(whole_batch, two_ranks, name):
    for layout, num_parts in parts.cases(name):
        assert_same_step(two_ranks[name, layout, num_parts], whole_batch(name, layout))


@pytest.mark.parametrize("name", ["FCOS", "masks and keypoints"])
def test_parts_in_half_precision(tmp_path, name):
    """Counts that depend on the forward pass are those of the same precision; gradients agree as bf16 lets them."""
    whole = parts.step(tmp_path, name, "first", 1, amp_dtype=torch.bfloat16)
    found = parts.step(tmp_path, name, "first", 4, amp_dtype=torch.bfloat16)
    for key, value in whole.items():
        if key.startswith("loss_"):
            np.testing.assert_allclose(found[key], value, rtol=2e-3, err_msg=key)


# ------------------------------------------------------------------------------------------------ the normaliser itself
def test_one_pass_is_divided_by_its_own_count():
    assert global_normalizer(torch.tensor(7)) == 7
    assert global_normalizer(torch.tensor(0.25)) == 1
    assert global_normalizer(torch.tensor(0.25), least=1e-6) == 0.25
    assert passes_per_step() == 1 and first_part()


def normalizers(per_part, ask):
    """What `ask(count)` gives in each part of a step."""
    counts = StepCounts(len(per_part))
    for count in per_part:
        with counts.counting():
            ask(torch.tensor(float(count)))
    out = []
    for index, count in enumerate(per_part):
        with counts.part(index):
            out.append(ask(torch.tensor(float(count))))
    return out


def test_parts_share_one_normaliser():
    assert normalizers((3, 0, 0, 1), global_normalizer) == [1.0] * 4
    assert normalizers((0, 10), lambda n: (global_normalizer(n), global_normalizer(2 * n), first_part())) == [
        (5.0, 10.0, True),
        (5.0, 10.0, False),
    ]


def test_the_least_count_is_that_of_the_step():
    """One object in four parts: dividing each part by 1, and then by 4 parts, would lose three quarters of its loss."""
    assert normalizers((1, 0, 0, 0), global_normalizer) == [0.25] * 4
    assert normalizers((0, 0), global_normalizer) == [0.5] * 2


def test_uneven_questions_are_refused():
    answers = iter([1, 2])
    with pytest.raises(ValueError, match=r"1 normalisers in the first part of a step and 2 in another: .*ACCUM"):
        normalizers((1, 2), lambda n: [global_normalizer(n) for _ in range(next(answers))])
    answers = iter([1, 1, 2])
    with pytest.raises(ValueError, match=r"more normalisers in a pass than when it was counted"):
        normalizers((1, 2), lambda n: [global_normalizer(n) for _ in range(next(answers))])


# ------------------------------------------------------------------------------------------------ counting
class Noisy(nn.Module):
    """Batch norm, dropout and noise of other generators: all that a forward pass in training may change."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, images, targets):
        x = torch.stack([image.float().mean((1, 2)) / 255 for image in images])
        out = self.layers(x) + np.random.rand()
        return {"loss_a": out.square().sum() / global_normalizer(torch.tensor(float(len(images))))}


def test_counting_changes_neither_statistics_nor_chance(tmp_path):
    data = make_batch(0, size=4)
    by_hand, trained = Noisy(), Noisy()
    torch.manual_seed(3), np.random.seed(3)
    expected = [by_hand(*part)["loss_a"].detach() for part in split_batch(*data, 2)]
    torch.manual_seed(3), np.random.seed(3)
    trainer = make_trainer(tmp_path, model=trained, data=iter([data]), accumulate_steps=2)
    trainer.step()
    torch.testing.assert_close(trainer.last_step.losses["loss_a"], sum(expected) / 2)
    statistics = dict(by_hand.named_buffers())
    assert int(statistics["layers.1.num_batches_tracked"]) == 2
    for name, value in trained.named_buffers():
        torch.testing.assert_close(value, statistics[name])


def test_a_single_part_is_not_counted():
    class Silent(nn.Module):
        def forward(self, images, targets):
            raise AssertionError("a forward pass too many")

    counts = count_parts(Silent(), split_batch(*make_batch(0), 1), torch.no_grad)
    with counts.part(0):
        assert passes_per_step() == 1


def test_replay_of_a_step_in_parts(tmp_path):
    """The recorded losses are those of all parts' counts, and so are the replayed ones."""

    class Breaks(Noisy):
        def forward(self, images, targets):
            count = sum(target["image_id"] for target in targets)  # uneven
            loss = super().forward(images, targets)["loss_a"]
            return {"loss_a": loss / global_normalizer(torch.tensor(float(count))), "loss_b": loss * float("nan")}

    data = make_batch(3, size=4)
    model = Breaks()
    trainer = make_trainer(tmp_path, model=copy.deepcopy(model), data=iter([data]), accumulate_steps=2)
    with pytest.raises(FloatingPointError, match="loss_b"):
        trainer.step()
    bundle = torch.load(tmp_path / "nonfinite" / "iter_0000001_rank0.pth", weights_only=True)
    set_rng_state(bundle["rng"])
    report = run_step(model.train(), bundle)
    assert report.losses["loss_a"] == pytest.approx(bundle["losses"]["loss_a"], rel=1e-6)


def test_models_without_normalisers_still_train(tmp_path):
    trainer = make_trainer(tmp_path, model=Regressor(), accumulate_steps=2)
    trainer.step()
    assert trainer.iteration == 1
