"""From minutes to steps: what ends in time, and what does not fit."""

from __future__ import annotations

import pytest

from detframe.recipes.budget import FEWEST_STEPS, TOO_SHORT, Pace, by_epochs, by_minutes, evaluations_within


def seconds(steps: int, every: int, pace: Pace, val_images: int) -> float:
    """How long such a training takes, as a clock that this pace drives would say."""
    count = 1 if not every else -(-steps // every)
    return pace.spent + pace.start + steps * pace.step + count * val_images * pace.image


@pytest.mark.parametrize("minutes", [1, 3, 10, 60, 600])
@pytest.mark.parametrize("slowness", [0.05, 1, 2, 5])
@pytest.mark.parametrize("val_images", [1, 50, 400])
def test_a_training_ends_in_time_and_wastes_little(minutes: float, slowness: float, val_images: int):
    pace = Pace(step=0.4 * slowness, image=0.05 * slowness, start=5 * slowness, spent=6 * slowness)
    length = by_minutes(minutes, pace, val_images, 10**9, "")
    took = seconds(length.steps, length.evaluate_every, pace, val_images)
    if length.reason.startswith(TOO_SHORT):
        assert length.steps == FEWEST_STEPS
    else:
        assert took <= 60 * minutes
        assert took >= 0.9 * 60 * minutes - 2 * pace.step - (pace.image * val_images if minutes < 10 else 0)


def test_a_machine_twice_as_slow_makes_half_the_steps():
    fast, slow = (by_minutes(10, Pace(s, s / 10, 4 * s, 8 * s), 50, 10**9, "") for s in (0.5, 1.0))
    assert slow.steps == pytest.approx(fast.steps / 2, rel=0.1)


def test_too_little_time_makes_the_fewest_steps_and_says_so():
    length = by_minutes(0.1, Pace(step=1, spent=20), 50, 10**9, "")
    assert length.steps == FEWEST_STEPS and length.reason.startswith(TOO_SHORT)
    assert "0.1 minutes" in length.reason


def test_more_time_than_is_of_use_is_left_over():
    length = by_minutes(60, Pace(step=0.1), 50, 700, "seven hundred are enough")
    assert (length.steps, length.reason) == (700, "seven hundred are enough")


def test_evaluations_take_their_share_at_most_but_the_last_is_made():
    assert evaluations_within(1000, 20) == 6
    assert evaluations_within(1000, 500) == 1
    assert evaluations_within(-5, 20) == 1
    assert evaluations_within(1000, 0) == 8
    assert by_minutes(10, Pace(step=0.1, image=5), 100, 10**9, "").evaluate_every == 0


def test_epochs():
    length = by_epochs(12, 100, 4, ", as --epochs says")
    assert (length.steps, length.evaluate_every) == (300, 50)
    assert length.reason == "12 epochs of 100 images, as --epochs says"
    assert by_epochs(0.001, 1, 4, "").steps == 1
    assert by_epochs(1, 100, 4, "").reason == "1 epoch of 100 images"
