"""The picture of a run's curves."""

from __future__ import annotations

import json
import math

import cv2
import pytest

from detframe.visualization import draw_curves
from detframe.visualization.curves import read_metrics, ticks


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_panel_for_each_kind_of_curve(tmp_path):
    rows = [{"iteration": i, "loss": 2 / i, "loss_box_reg": 1 / i, "lr": 0.01, "images_per_s": 3} for i in range(1, 50)]
    without = cv2.imread(str(draw_curves(write(tmp_path / "a.jsonl", rows), tmp_path / "pictures" / "a.png")))
    rows.append({"iteration": 50, "bbox/AP": 12.0, "my_set/bbox/AP50": 30.0, "bbox/APl": math.nan})
    full = cv2.imread(str(draw_curves(write(tmp_path / "b.jsonl", rows), tmp_path / "b.png")))
    assert full.shape[1] == without.shape[1] and full.shape[0] * 2 == without.shape[0] * 3
    assert (full < 200).any(axis=2).mean() > 0.005
    again = cv2.imread(str(draw_curves(tmp_path / "b.jsonl", tmp_path / "c.png")))
    assert (again == full).all()


def test_curves_go_where_the_values_are(tmp_path):
    """A falling loss: ink above left and below right, none in the other corners of the plot."""
    rows = [{"iteration": i, "loss": 10 - i / 10} for i in range(1, 101)]
    image = cv2.imread(str(draw_curves(write(tmp_path / "a.jsonl", rows), tmp_path / "a.png")))
    ink = image.max(axis=2).astype(int) - image.min(axis=2) > 60  # coloured
    plot = ink[45:270, 85:785]
    assert plot[:80, :150].any() and plot[-80:, -150:].any()
    assert not plot[:80, -150:].any() and not plot[-80:, :150].any()


def test_reading(tmp_path, caplog):
    path = tmp_path / "m.jsonl"
    lines = ['{"iteration": 2, "loss": 5}', '{"iteration": 1, "loss": NaN}', "broken", '{"iteration": 2, "loss": 4}']
    path.write_text("\n".join([*lines, '{"iteration": 1, "loss": 7, "name": "x"}', '{"iteration": 3, "lo']))
    assert read_metrics(path) == {"loss": [(1.0, 7.0), (2.0, 4.0)]}
    assert [record.getMessage().endswith("m.jsonl:3 is no JSON and is left out") for record in caplog.records] == [True]


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        draw_curves(tmp_path / "absent.jsonl", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no loss, lr or AP.*speed"):
        draw_curves(write(tmp_path / "a.jsonl", [{"iteration": 1, "speed": 1}]), tmp_path / "a.png")


@pytest.mark.parametrize("row", [{"loss": 0.0}, {"loss": 5.0}, {"lr": 1e-9}, {"loss": -3.0}, {"loss": 1e12}])
def test_a_single_point(tmp_path, row):
    assert draw_curves(write(tmp_path / "a.jsonl", [{"iteration": 0, **row}]), tmp_path / "a.png").is_file()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.037), (-3, 7), (0, 90000), (5, 5), (0, 0), (1e-7, 3e-7)])
def test_ticks_are_round_and_cover(low, high):
    values = ticks(low, high)
    assert 1 <= len(values) <= 9
    step = max(abs(low), abs(high), 1e-12)
    assert values[0] <= low + 1e-9 * step and values[-1] >= high - 1e-9 * step
    for value in values:
        assert float(f"{value:.3g}") == pytest.approx(value)


def test_validation_losses_stand_beside_those_of_training(tmp_path):
    """In the panel of losses, also where several data sets are evaluated; other numbers of a data set do not."""
    rows = [{"iteration": i, "loss": 2.0} for i in range(1, 9)]
    picture = cv2.imread(str(draw_curves(write(tmp_path / "a.jsonl", rows), tmp_path / "a.png")))
    for key, drawn in (("val/loss", True), ("my_set/val/loss_rpn_cls", True), ("my_set/val/lossless", False)):
        more = write(tmp_path / "b.jsonl", [*rows, {"iteration": 4, key: 1.0}, {"iteration": 8, key: 1.5}])
        with_more = cv2.imread(str(draw_curves(more, tmp_path / "b.png")))
        assert with_more.shape == picture.shape and (with_more != picture).any() == drawn
