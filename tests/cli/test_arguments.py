"""Arguments: any order, negative numbers, --print-config with and without KEY, local ranks."""

from __future__ import annotations

import os

import pytest

from detframe.cli.arguments import add_config_arguments, add_launch_arguments, base_parser, parse


def read(*words: str):
    parser = base_parser("train", "")
    add_config_arguments(parser)
    add_launch_arguments(parser)
    parser.add_argument("--resume", action="store_true")
    return parse(parser, words)


@pytest.fixture(autouse=True)
def no_rank(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "")
    monkeypatch.delenv("LOCAL_RANK")


def test_options_may_stand_before_after_and_between_overrides():
    for words in (
        ["--resume", "--config-file", "a.yaml", "SEED", "1", "OUTPUT_DIR", "out"],
        ["SEED", "1", "OUTPUT_DIR", "out", "--config-file", "a.yaml", "--resume"],
        ["SEED", "1", "--resume", "OUTPUT_DIR", "out", "--config-file=a.yaml"],
    ):
        args = read(*words)
        assert (args.resume, args.config_file, args.opts) == (True, "a.yaml", ["SEED", "1", "OUTPUT_DIR", "out"])


@pytest.mark.parametrize("number", ["-1", "-1e-3", "-.5", "-2.5E+4"])
def test_negative_numbers_are_values(number: str):
    assert read("SEED", number, "--resume").opts == ["SEED", number]


@pytest.mark.parametrize(
    ("words", "key", "opts"),
    [
        (["--print-config"], "", []),
        (["--print-config", "SEED"], "SEED", []),
        (["--print-config", "SEED", "1"], "", ["SEED", "1"]),
        (["--print-config", "SEED", "OUTPUT_DIR", "out"], "SEED", ["OUTPUT_DIR", "out"]),
        (["OUTPUT_DIR", "out", "--print-config", "SEED"], "SEED", ["OUTPUT_DIR", "out"]),
        (["--print-config", "--resume", "SEED", "1"], "", ["SEED", "1"]),
        (["SEED", "1"], None, ["SEED", "1"]),
    ],
)
def test_print_config_takes_a_key_where_the_rest_is_pairs(words: list[str], key: str | None, opts: list[str]):
    args = read(*words)
    assert (args.print_config, args.opts) == (key, opts)


@pytest.mark.parametrize("spelling", ["--local-rank=3", "--local_rank=3"])
def test_both_spellings_of_the_local_rank_reach_the_environment(spelling: str):
    assert read(spelling, "SEED", "1").local_rank == 3
    assert os.environ["LOCAL_RANK"] == "3"


def test_the_environment_of_torchrun_comes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    read("--local-rank=3")
    assert os.environ["LOCAL_RANK"] == "1"


def test_num_gpus_is_a_positive_number(capsys: pytest.CaptureFixture[str]):
    assert read("--num-gpus", "2").num_gpus == 2
    with pytest.raises(SystemExit) as caught:
        read("--num-gpus", "0")
    assert caught.value.code == 2 and "must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["quiet", "verbose"])
def test_how_much_a_command_says_is_handed_on_to_its_processes(monkeypatch, word):
    monkeypatch.setenv("DETFRAME_VERBOSITY", "")
    parse(base_parser("train", "Train."), [f"--{word}"])
    assert os.environ["DETFRAME_VERBOSITY"] == word
    with pytest.raises(SystemExit):
        parse(base_parser("train", "Train."), ["--quiet", "--verbose"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--imgsz", "320"], "unrecognized arguments: --imgsz; write INPUT.MIN_SIZE_TRAIN N"),
        (["--batch_size=8"], "unrecognized arguments: --batch_size=8; write SOLVER.IMS_PER_BATCH N"),
        (["--cfg", "a.yaml"], "--cfg; write --config-file"),
        (["--num-gpu-s", "2"], "did you mean --num-gpus?"),
        (["--source=a"], "unrecognized arguments: --source=a\n"),  # an option of other commands alone
        (["--wholly-unlike"], "unrecognized arguments: --wholly-unlike\n"),
    ],
)
def test_what_an_option_of_another_program_is_here(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        read(*words)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
