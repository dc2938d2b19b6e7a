"""Configs: every key with every kind of value, in a file and as an override; YAML files of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode, get_cfg, validate
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import DEPTH, FEWEST, TEXTS, byte_changes, clear, lines_changed, no_files, text_changes

# Whose values may be of another type than the default: iterations, or epochs or a share in words or as a number
DURATIONS = (
    *("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD", "IMAGE_PERIOD", "EVAL_PERIOD"),
    *("SWA_START", "SWA_PERIOD", "CLOSE_AT"),
)
LARGE = ("long text", "long list", "900 lists", "100000 lists", "100000 dicts")
SOUND = """\
_BASE_: base.yaml
MODEL:
  RPN:
    NAME: FCOS
    NMS_THRESH: 0.6
  ROI_HEADS: {NAME: ""}
SOLVER:
  BASE_LR: 1e-3
  STEPS: [60000, 80000]
DATASETS:
  TRAIN: (shapes_train,)
OUTPUT_DIR: out
"""
BASE = "SOLVER: {MAX_ITER: 100}\n"
BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
TAGS = (
    "!!python/object/apply:os.system [ls]",
    "!!python/name:os.system",
    "!!binary 0x",
    "!!set {a, b}",
    "!!omap [a: 1]",
)
EXPRESSIONS = (
    "[9**9**9**9]",
    "[[0]*10**9]",
    "['__import__(\"os\")']",
    "[(((((1)))))]",
    "['1/0']",
    "['[x for x in 5]']",
)
DOCUMENTS = {
    "anchors of anchors": f"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{BOMB}SOLVER: {{STEPS: *a11}}\n",
    "an anchor in itself": "SOLVER: &a {STEPS: [*a]}\n",
    "a list in itself": "SOLVER: {STEPS: &a [*a]}\n",
    "a section in itself": "SOLVER: &a\n  SOLVER: *a\n",
    "an unknown anchor": "SOLVER: *nothing\n",
    "a merged section": "x: &x {BASE_LR: 1}\nSOLVER:\n  <<: *x\n",
    "two documents": "SEED: 1\n---\nSEED: 2\n",
    "a list": "- SEED\n- 1\n",
    "a word": "SEED\n",
    "a number": "1\n",
    "a date": "OUTPUT_DIR: 2020-01-01\n",
    "a wrong date": "OUTPUT_DIR: 2020-99-99\n",
    "sexagesimal": "OUTPUT_DIR: 1:30:00\n",
    "octal": "SEED: 0o17\n",
    "a key of two": "? [SEED, x]\n: 1\n",
    "a key of no text": "1: 2\n",
    "a key of nothing": "~: 2\n",
    "an empty key": "'': 2\n",
    "a key with dots": "SOLVER.BASE_LR: 0.1\n",
    "a key with dots alone": "...: 2\n",
    "a very long key": f"{'K' * 100_000}: 1\n",
    "a key of control characters": '"a\\u0000\\e[31m": 1\n',
    "a key twice": "SEED: 1\nSEED: 2\n",
    "tabs": "SOLVER:\n\tBASE_LR: 1\n",
    "an open bracket": "SOLVER: {STEPS: [1, 2\n",
    "lists in lists": "SOLVER: {STEPS: " + "[" * DEPTH + "]" * DEPTH + "}\n",
    "sections in sections": "{a: " * DEPTH + "1" + "}" * DEPTH,
    "sections in sections of a list": "SOLVER: {STEPS: [" + "{a: " * 2000 + "1" + "}" * 2000 + "]}\n",
    "indented sections": "".join(f"{' ' * i}a:\n" for i in range(3000)),
    "a section as a value": "SEED: {a: 1}\n",
    "a value as a section": "SOLVER: 1\n",
    "a section of nothing": "SOLVER:\n",
    "a percent sign": "%YAML 9.9\n---\nSEED: 1\n",
    "a base of itself": "_BASE_: sound.yaml\n",
    "bases in a circle": "_BASE_: circle.yaml\n",
    **{f"the base {name}": f"_BASE_: {text}\n" for name, text in TEXTS.items() if name not in LARGE},
    **{f"the tag {tag.split()[0]}": f"SOLVER: {{STEPS: {tag}}}\n" for tag in TAGS},
    **{
        f"the expression {text}": f"SOLVER: {{STEPS: !!python/object/apply:eval {text}}}\n" for text in EXPRESSIONS
    },
}  # fmt: skip
FOREIGN = """\
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  RESNETS: {OUT_FEATURES: [res2, res3, res4, res5], DEPTH: 50}
  ROI_HEADS: {NUM_CLASSES: 20, IN_FEATURES: [p2, p3, p4, p5]}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}
  PIXEL_MEAN: [103.5, 116.3, 123.7]
DATASETS: {TRAIN: (coco_2017_train,), TEST: (coco_2017_val,)}
SOLVER: {BASE_LR: 0.02, STEPS: (60000, 80000), MAX_ITER: 90000}
"""


def checked(cfg: ConfigNode) -> str:
    """The config is valid, its values are of the types of the defaults, finite, and it reads back equal.

    Raises:
        NonsenseError: they are not.
    """
    validate(cfg)
    defaults = get_cfg()
    for (key, value), (_, default) in zip(cfg.leaves(), defaults.leaves(), strict=True):
        if key.split(".")[-1] in DURATIONS:
            continue
        if type(value) is not type(default) or not all(map(_sane, _flat(value))):
            raise NonsenseError(f"{key} is {str(value)[:200]!r}")
    return READ


def reads_back(cfg: ConfigNode, path: Path) -> str:
    """What `dump` writes is the same config again."""
    path.write_text(cfg.dump(), encoding="utf-8")
    again = get_cfg()
    again.merge_from_file(path)
    if again.to_dict() != cfg.to_dict():
        wrong = [key for (key, a), (_, b) in zip(cfg.leaves(), again.leaves(), strict=True) if a != b]
        raise NonsenseError(f"{wrong} do not read back")
    return READ


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, tuple) else [value]


def _sane(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return value.isprintable() and not any("\ud800" <= c < "\ue000" for c in value)
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)


def cases(folder: Path) -> Iterator[Case]:
    yield from overrides()
    yield from values(folder)
    yield from files(folder)


def overrides() -> Iterator[Case]:
    """Each key with each value, as Python and as a word of the command line."""

    def merged(key: str, value: Any) -> str:
        cfg = get_cfg()
        cfg.merge_from_list([key, value])
        return checked(cfg)

    keys = [key for key, _ in get_cfg().leaves()]
    large = {"SOLVER.BASE_LR", "SOLVER.STEPS", "OUTPUT_DIR", "DATASETS.TRAIN", "SEED", "MODEL.RPN.ANCHOR_SIZES"}
    for key in keys:
        for name, value in FEWEST.items():
            yield Case(f"{key}={name}", lambda k=key, v=value: merged(k, v), (key.rpartition(".")[2],))
    for key in sorted(large):
        for name, text in TEXTS.items():
            words = (key.rpartition(".")[2],)
            yield Case(f"{key} {name} as a word", lambda k=key, t=text: merged(k, t), words)
    for name, value in {"5000 digits": 10**4000, "a huge power": "9**9**9**9", "parentheses": "(" * DEPTH}.items():
        yield Case(f"SEED={name}", lambda v=value: merged("SEED", v), ("SEED",))


def values(folder: Path) -> Iterator[Case]:
    """Keys in a file, and the words of other programs in one."""
    path, back = folder / "mine.yaml", folder / "back.yaml"

    def read(text: str) -> str:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        cfg = get_cfg()
        cfg.merge_from_file(path)
        return checked(cfg) and reads_back(cfg, back)

    for key in ("SOLVER.BASE_LR", "SOLVER.STEPS", "OUTPUT_DIR", "DATASETS.TRAIN", "SEED", "MODEL.RPN.NAME", "SOLVER"):
        *sections, last = key.split(".")
        before, after = "".join(f"{s}: {{" for s in sections), "}" * len(sections)
        for name, text in TEXTS.items():
            if name in LARGE and key != "SOLVER.STEPS":
                continue  # at one key is enough
            document = f"{before}{last}: {text}{after}\n"
            yield Case(f"{key}={name} in a file", lambda d=document: read(d), ("mine.yaml", last))
    for number, line in enumerate(FOREIGN.splitlines()):
        for name, text in TEXTS.items():
            if name in LARGE or ": " not in line:
                continue
            changed = f"{line.split(': ')[0]}: {text}"
            document = "\n".join(changed if i == number else other for i, other in enumerate(FOREIGN.splitlines()))
            yield Case(f"detectron2's {line.strip()[:30]}={name}", lambda d=document: read(d), ("mine.yaml", "config"))


def files(folder: Path) -> Iterator[Case]:
    """Whole files."""
    path, base = folder / "sound.yaml", folder / "base.yaml"
    (folder / "circle.yaml").write_text("_BASE_: sound.yaml\n")

    def read(place: Callable[[], object], target: Path) -> str:
        for file, text in ((path, SOUND), (base, BASE)):
            clear(file)
            file.write_text(text)
        clear(target)
        place()
        cfg = get_cfg()
        cfg.merge_from_file(path)
        return checked(cfg) and reads_back(cfg, folder / "back.yaml")

    def written(content: bytes, target: Path) -> Callable[[], str]:
        return lambda: read(lambda: target.write_bytes(content), target)

    documents = [(name, text.encode("utf-8", "surrogatepass")) for name, text in DOCUMENTS.items()]
    changes = [*documents, *byte_changes(SOUND.encode()), *text_changes(SOUND), *lines_changed(SOUND)]
    for name, content in changes:
        yield Case(f"file {name}", written(content, path), ("sound.yaml", "config"))
    for name, content in [*byte_changes(BASE.encode()), *text_changes(BASE)]:
        yield Case(f"base {name}", written(content, base), ("base.yaml", "config"))
    for name, place in no_files(path, endless=True):
        yield Case(f"file {name}", lambda p=place: read(p, path), ("sound.yaml",))
    for name, place in no_files(base, endless=True):
        yield Case(f"base {name}", lambda p=place: read(p, base), ("base.yaml",))


def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("config", tmp_path, at_least=2500)
