"""Images and iterations of a run whose batch changes on the way."""

from __future__ import annotations

import pytest

from detframe.config import Pace, get_cfg, given_in_epochs, parse_duration, resolve_durations

DOUBLED = Pace.steady(4).changed(12, 8)  # 48 images, then 8 a step


def test_steady() -> None:
    pace = Pace.steady(4)
    assert [pace.images_at(i) for i in (0, 3)] == [0, 12]
    assert [pace.iteration_at(n) for n in (0, 1, 4, 5, 12.5)] == [0, 1, 1, 2, 4]
    assert pace.changed(7, 4) == pace
    assert [pace.by_images(i, 9) for i in range(12)] == list(range(12))


def test_changed() -> None:
    assert [DOUBLED.images_at(i) for i in (11, 12, 13)] == [44, 48, 56]
    assert [DOUBLED.iteration_at(n) for n in (44, 45, 48, 49, 56, 96)] == [11, 12, 12, 13, 13, 18]
    assert DOUBLED.by_images(12, 18) == 9  # half of the images, so half of the way
    assert DOUBLED.changed(12, 2).stretches[-1] == (12, 48, 2)
    assert DOUBLED.changed(12, 2).images_at(14) == 52
    again = DOUBLED.changed(14, 4)
    assert again.images_at(16) == 48 + 16 + 8
    assert all(again.iteration_at(again.images_at(i)) == i for i in range(30))
    assert Pace.steady(4).changed(0, 8).images_at(3) == 24


def test_durations_in_epochs_are_places_among_the_images() -> None:
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = "4ep", ("1ep", "3ep", 17), "0.5ep"
    cfg.TEST.EVAL_PERIOD = "1ep"
    out = resolve_durations(cfg, 24, DOUBLED)
    assert out.SOLVER.MAX_ITER == 18  # 96 images; with 4 all the way it was 24, with 8 it would be 12
    assert out.SOLVER.STEPS == (6, 15, 17)
    assert out.SOLVER.WARMUP_ITERS == 3
    assert out.TEST.EVAL_PERIOD == 3
    assert given_in_epochs(cfg) == {"SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS"}
    assert given_in_epochs(out) == set()


def test_shares_are_parts_of_the_training() -> None:
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 10
    cfg.merge_from_list(["SOLVER.MAX_ITER", "12ep", "SOLVER.STEPS", "0.7,0.9", "SOLVER.WARMUP_ITERS", 0.05])
    cfg.merge_from_list(["SOLVER.CHECKPOINT_PERIOD", "0.1", "TEST.EVAL_PERIOD", "0.5ep", "SOLVER.IMAGE_PERIOD", 1.0])
    out = resolve_durations(cfg, 100)
    assert (out.SOLVER.STEPS, out.SOLVER.WARMUP_ITERS) == ((84, 108), 6)
    assert (out.SOLVER.CHECKPOINT_PERIOD, out.TEST.EVAL_PERIOD, out.SOLVER.IMAGE_PERIOD) == (12, 5, 120)


def test_shares_of_a_run_whose_batch_has_changed_go_by_images() -> None:
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = "4ep", (0.25, 0.75), 0.125
    cfg.TEST.EVAL_PERIOD = 0.25
    out = resolve_durations(cfg, 24, DOUBLED)
    assert (out.SOLVER.STEPS, out.SOLVER.WARMUP_ITERS, out.TEST.EVAL_PERIOD) == ((6, 15), 3, 3)  # as 1ep, 3ep, 0.5ep
    assert given_in_epochs(cfg) == {"SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS"}


@pytest.mark.parametrize(("epochs", "images", "wanted"), [("1.1ep", 10, 11), ("0.7ep", 10, 7), ("0.07ep", 100, 7)])
def test_epochs_are_the_number_that_is_written(epochs: str, images: int, wanted: int) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", epochs, "SOLVER.IMS_PER_BATCH", 1])
    assert resolve_durations(cfg, images).SOLVER.MAX_ITER == wanted == parse_duration(epochs, images, 1)


def test_the_length_of_a_training_is_no_share_of_itself() -> None:
    with pytest.raises(
        ValueError, match=r'SOLVER.MAX_ITER must be iterations \(90000\) or epochs \("12ep"\) .*not 0.5'
    ):
        get_cfg().merge_from_list(["SOLVER.MAX_ITER", 0.5])


@pytest.mark.parametrize("value", [100, "100it"])
def test_iterations_stay_iterations(value: int | str) -> None:
    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER = value
    assert resolve_durations(cfg, 24, DOUBLED).SOLVER.MAX_ITER == 100
