"""examples/step_times.py: two configs are timed in turn, and told apart by a ratio."""

from tests.examples.conftest import load_example


def test_configs_are_timed_in_turn(capsys):
    small = "configs/quick/rpn_R_18_FPN_shapes.yaml"
    load_example("step_times").main(["64", "64", small, f"{small} MODEL.RPN.ASSIGNER atss x2", "--rounds", "1"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[1:] == ["ms", "1.00", small]
    milliseconds, unit, ratio, *words = second.split()
    assert (unit, words) == ("ms", [small, "MODEL.RPN.ASSIGNER", "atss", "x2"])
    assert int(milliseconds) > 0 and float(ratio) > 1  # four times the pixels
