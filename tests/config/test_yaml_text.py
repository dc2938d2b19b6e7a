"""YAML with limits: merges, tags, words that stay words, and texts that would do harm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from detframe.config import get_cfg, validate
from detframe.config.yaml_text import MAX_LENGTH, names, read_tree, safe_yaml, values
from detframe.data import read_catalogs
from detframe.errors import InvalidValueError, UserError


def load(tmp_path: Path, text: str | bytes):
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    cfg = get_cfg()
    cfg.merge_from_file(file)
    validate(cfg)
    return cfg


# ---------------------------------------------------------------- merges
def test_merges_are_resolved_as_yaml_says(tmp_path: Path):
    cfg = load(
        tmp_path,
        "slow: &slow {BASE_LR: 0.001, GAMMA: 0.5}\n"
        "light: &light {BASE_LR: 0.002, MOMENTUM: 0.5}\n"
        "SOLVER:\n  GAMMA: 0.2\n  <<: [*slow, *light]\n",
    )
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA, cfg.SOLVER.MOMENTUM) == (0.001, 0.2, 0.5)


def test_an_alias_stands_for_its_value(tmp_path: Path):
    cfg = load(tmp_path, "DATASETS:\n  TRAIN: &sets [a, b]\n  TEST: *sets\n")
    assert cfg.DATASETS.TRAIN == cfg.DATASETS.TEST == ("a", "b")


def test_a_merge_of_no_mapping_and_an_unused_place_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"<< takes over the keys of a mapping.*not a scalar \(.*c\.yaml:2\)"):
        load(tmp_path, "SOLVER:\n  <<: 5\n")
    with pytest.raises(KeyError, match=r"unknown config key slow\.BASE_LR"):
        load(tmp_path, "slow: {BASE_LR: 0.1}\n")


# ---------------------------------------------------------------- slips
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("_BASE_:\n", r"_BASE_ must be a config file or a list of them, not nothing \(.*c\.yaml:1\)"),
        ("_BASE_: [a.yaml, ]\n_BASE_: b\n", "_BASE_ is given twice"),
        ("_BASE_: {a: b}\n", "_BASE_ must be a config file or a list of them, not a section"),
        ("_BASE_: [[a]]\n", "_BASE_ must be a config file or a list of them, not"),
        ("_BASE_: 5\n", r"5 does not exist \(_BASE_ of"),
        ("_BASE_: .\n", "does not exist"),
        ("_BASE_: c.yaml\n", "runs in a circle"),
        ("SOLVER:\n\tBASE_LR: 1\n", "line 2, column 1.*spaces, not with tabs"),
        ("SEED: 1\n---\nSEED: 2\n", "expected a single document"),
        ("just words\n", "must hold KEY: VALUE pairs at the top, not a scalar"),
        ("? [a, b]\n: 1\n", "a key must be a word, not a sequence"),
        ("SEED: !!python/object:os.system {}\n", r"python/object:os\.system"),
        ("DATASETS: {TRAIN: !!set {a, b}}\n", "!!set makes no plain value"),
        ("DATASETS: {TRAIN: {}}\n", "DATASETS.TRAIN must be a list"),
        ("OUTPUT_DIR: !!binary aGVsbG8=\n", "OUTPUT_DIR cannot be read.*!!binary"),
        ("SEED: !!int abc\n", "SEED cannot be read"),
        ("SEED: &a [*a]\n", "an alias stands inside of what it stands for"),
        ("SEED: *a\n", "undefined alias"),
        ("SEED: 010\n", "SEED must be a whole number .*not 010"),  # 8 in YAML 1.1, 10 everywhere else
        ("SOLVER: {MAX_ITER: 1:30}\n", "SOLVER.MAX_ITER must be .*not 1:30"),
        ("OUTPUT_DIR: \n", "OUTPUT_DIR must be a string .*not nothing"),
        (b"SEED: 1\nOUTPUT_DIR: caf\xe9\n", "is not UTF-8 text: line 2"),
        ("SEED: 1\n".encode("utf-16"), "is not UTF-8 text: line 1"),
        ('OUTPUT_DIR: "a\\0b"\n', "OUTPUT_DIR must be text without"),
    ],
)
def test_slips_are_named(tmp_path: Path, text: str | bytes, match: str):
    with pytest.raises(UserError, match=match):
        load(tmp_path, text)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path):
    assert load(tmp_path, b"\xef\xbb\xbfSEED: 3\r\nOUTPUT_DIR: a\r\n").OUTPUT_DIR == "a"


def test_too_many_bases_are_not_read(tmp_path: Path):
    for number in range(12):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "12.yaml").write_text("SEED: 1\n")
    with pytest.raises(ValueError, match="_BASE_ leads to more than 100 files"):
        get_cfg().merge_from_file(tmp_path / "0.yaml")


# ---------------------------------------------------------------- limits
def bomb(levels: int) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (bomb(30), "it stands for more than 100000 values"),
        ("a: " + "[" * 100_000, "nest more than 40 deep"),
        ("a: " + "{b: " * 5_000, "nest more than 40 deep"),
        ("\n".join(f"a{i}: &a{i} [{f'*a{i - 1}' if i else 'x'}]" for i in range(500)), "nest more than 40 deep"),
        ("a: " + "x" * MAX_LENGTH, "more than 1048576 are not read"),
        ("a: &a {b: 1}\nc: {<<: &d {<<: *d}}\n", "an alias stands inside"),
    ],
    ids=["anchors", "lists", "mappings", "chain", "length", "merge"],
)
def test_texts_that_would_do_harm_are_refused_at_once(tmp_path: Path, text: str, match: str):
    start = time.perf_counter()
    with pytest.raises(InvalidValueError, match=match):
        safe_yaml(text, "the text")
    with pytest.raises(InvalidValueError, match=match):
        load(tmp_path, text)
    (tmp_path / "catalog.yaml").write_text(text)
    with pytest.raises(InvalidValueError, match=match):
        read_catalogs(str(tmp_path / "catalog.yaml"))
    assert time.perf_counter() - start < 30


def test_expressions_have_a_limit(tmp_path: Path):
    loops = "x"
    for _ in range(6):
        loops = f"[{loops} for x in [1,2,3,4,5,6,7,8,9]]"
    with pytest.raises(ValueError, match="takes more than 10000 steps"):
        load(tmp_path, f'MODEL: {{RPN: {{ANCHOR_SIZES: !!python/object/apply:eval ["{loops}"]}}}}\n')


# ---------------------------------------------------------------- words
WORDS = ["2012", "007", "2024_01", "1e5", "0x1F", "1:30", "on", "no", "Yes", "null", "true", "2024-05-01", ".5", "~x"]


@pytest.mark.parametrize("word", WORDS)
def test_names_that_look_like_something_else_stay_names(tmp_path: Path, word: str):
    cfg = load(tmp_path, f"DATASETS: {{TRAIN: [{word}, a]}}\n")
    assert cfg.DATASETS.TRAIN == (word, "a")
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(tmp_path / "dump.yaml")
    assert again == cfg
    for words in (f"[{word}, a]", f"['{word}', 'a']", [word, "a"]):
        other = get_cfg()
        other.merge_from_list(["DATASETS.TRAIN", words, "OUTPUT_DIR", word])
        assert other.DATASETS.TRAIN == (word, "a") and other.OUTPUT_DIR == word


def test_a_tree_keeps_words_and_meanings():
    tree = read_tree("{a: [007, no, x, '5'], 1e3: 2.5, b: null}", "a text")
    assert values(tree) == {"a": [7, False, "x", "5"], "1e3": 2.5, "b": None}
    assert names(tree) == {"a": ["007", "no", "x", "5"], "1e3": "2.5", "b": "null"}
    assert safe_yaml("{a: 1}", "a text") == {"a": 1}


def test_catalogs_keep_names(tmp_path: Path):
    file = tmp_path / "catalog.yaml"
    file.write_text(
        "2024_01: {format: voc, images: 007, annotations: 2024-05-01, classes: [1e5, no, null, 2012], one_based: no}\n"
    )
    entry = read_catalogs(str(file))["2024_01"]
    assert (entry.images, entry.annotations) == (tmp_path / "007", tmp_path / "2024-05-01")
    assert dict(entry.options) == {"classes": ["1e5", "no", "null", "2012"], "one_based": False}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: {format: coco, images: i, annotations: a}\na: {}\n", r"a is given twice \(the catalog .*:2\)"),
        ("a: {format: coco, images: [i], annotations: a}\n", "images of entry 'a' of .* must be a name or a path"),
        ("a: {format: coco, images: , annotations: a}\n", "images of entry 'a' of .* must be a name or a path"),
        ("[a]\n", "must map names to entries, not be list"),
        ("", "must map names to entries, not be NoneType"),
        ("a: !!python/object:os.x {}\n", "python/object:os"),
    ],
)
def test_slips_in_catalogs_are_named(tmp_path: Path, text: str, match: str):
    (tmp_path / "catalog.yaml").write_text(text)
    with pytest.raises(InvalidValueError, match=match):
        read_catalogs(str(tmp_path / "catalog.yaml"))
