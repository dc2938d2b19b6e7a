"""examples/step_times.py: two configs are timed in turn, and told apart by a ratio."""

from tests.examples.conftest import load_example

SMALL = "configs/quick/rpn_R_18_FPN_shapes.yaml"


def test_configs_are_timed_in_turn(capsys):
    load_example("step_times").main(["64", "64", SMALL, f"{SMALL} MODEL.RPN.ASSIGNER atss x2", "--rounds", "5"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:] == ["ms", "1.00", SMALL]
    milliseconds, unit, ratio, *words = second.split()
    assert (unit, words) == ("ms", [SMALL, "MODEL.RPN.ASSIGNER", "atss", "x2"])
    assert int(milliseconds) > 0 and float(ratio) > 1  # four times the pixels


def test_the_ratio_is_that_to_the_first_config_in_the_same_round(capsys, monkeypatch):
    example = load_example("step_times")
    order = []

    def seconds(model, size_hw, corners):
        order.append(size_hw)
        return len(order) * size_hw[0] * size_hw[1] / 1e6  # slower and slower

    monkeypatch.setattr(example, "seconds", seconds)
    example.main(["100", "50", SMALL, f"{SMALL} x2", "--rounds", "3"])
    assert order == [(100, 50), (200, 100)] * 5
    first, second = (line.split()[:3] for line in capsys.readouterr().out.splitlines())
    assert first == ["35", "ms", "1.00"] and second == ["160", "ms", "4.57"]  # 7 and 8 of the fourth round, 4 * 8 / 7
