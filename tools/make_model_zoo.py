"""Write the tables of MODEL_ZOO.md anew; measure the models that docs/model_zoo.json lacks. --check changes nothing.

Text is written by hand in MODEL_ZOO.md; what stands between two comments, as <!-- configs: fcos/* --> and <!-- end -->,
is made here. Patterns name the configs of a table, those after ! the ones that it leaves out. A config that
is in no table is an error, so that a new one is never missing.
"""

import argparse
import fnmatch
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from detframe import model_zoo
from detframe.compat.detector_weights import DETECTOR_WEIGHTS, DetectorWeights
from detframe.compat.download import split_digest
from detframe.compat.files import address_of_weights
from detframe.config import ConfigNode
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.modeling.analysis import multiply_adds

ROOT = Path(__file__).resolve().parent.parent
PAGE, MEASURED = ROOT / "MODEL_ZOO.md", ROOT / "docs" / "model_zoo.json"
SIZE_HW = (800, 1216)

Rows = dict[str, dict[str, Any]]

MEASURES = {"box": "box AP", "mask": "mask AP", "keypoint": "keypoint AP", "proposal": "AR of 1000 proposals"}
# What owners published for an architecture without a checkpoint that loads here, and on COCO test-dev (FCOS's README;
# detectron2's "new baselines", which know no copy-paste)
MORE_AP = {
    "fcos/fcos_R_50_FPN_1x.yaml": {"box AP, FCOS (test-dev)": "37.4"},
    "fcos/fcos_R_101_FPN_2x.yaml": {"box AP, FCOS (test-dev)": "41.5"},
    "fcos/fcos_X_101_32x8d_FPN_2x.yaml": {"box AP, FCOS": "42.5", "box AP, FCOS (test-dev)": "42.7"},
    "fcos/fcos_X_101_64x4d_FPN_2x.yaml": {"box AP, FCOS (test-dev)": "43.2"},
    "fcos/fcos_imprv_X_101_64x4d_FPN_2x.yaml": {"box AP, FCOS (test-dev)": "44.7"},
    "fcos/fcos_imprv_dcnv2_X_101_64x4d_FPN_2x.yaml": {"box AP, FCOS (test-dev)": "49.0 (several scales)"},
    # the READMEs of mmdetection, whose recipe is the same schedule
    "atss/atss_R_50_FPN_1x.yaml": {"box AP, mmdetection": "39.3"},
    "atss/atss_R_50_FPN_dyhead_1x.yaml": {"box AP, mmdetection": "43.3"},
    "gfl/gfl_R_50_FPN_1x.yaml": {"box AP, mmdetection": "40.2"},
    "tood/tood_R_50_FPN_1x.yaml": {"box AP, mmdetection": "42.4"},
    "mask_rcnn/mask_rcnn_R_50_FPN_lsj_100ep.yaml": {
        "box AP, detectron2": "44.6 (no copy-paste)",
        "mask AP, detectron2": "40.3 (no copy-paste)",
    },
}
# Owner, configs of whose very architecture a test has reference weights, and the test
PARITY = (
    ("torchvision", "faster_rcnn/*", "tests/modeling/test_torchvision_parity.py"),
    ("torchvision", "fcos/*", "tests/modeling/test_fcos_torchvision.py"),
    ("torchvision", "retinanet/*", "tests/modeling/test_retinanet_parity.py"),
    ("torchvision", "mask_rcnn/*", "tests/modeling/test_mask_parity.py"),
    ("torchvision", "keypoint_rcnn/*", "tests/modeling/test_mask_parity.py"),
    ("torchvision", "*", "tests/test_model_zoo.py"),
    ("detectron2", "faster_rcnn/faster_rcnn_R_50_FPN_*", "tests/modeling/test_detectron2_parity.py"),
    ("detectron2", "retinanet/retinanet_R_50_FPN_*", "tests/modeling/test_retinanet_parity.py"),
    ("detectron2", "mask_rcnn/mask_rcnn_R_50_FPN_*", "tests/modeling/test_mask_parity.py"),
    ("FCOS", "fcos/fcos_R_50_FPN_*", "tests/modeling/test_fcos_parity.py"),
    ("FCOS", "fcos/fcos_imprv_R_50_FPN_*", "tests/modeling/test_fcos_parity.py"),
)
# Title, page, heading there, and how the paragraphs, commands and tables below it begin that are copied
RESULTS = (
    ("Shapes", "benchmarks.md", "Shapes from random weights", ("800 training", "```bash", "A region", "|")),
    ("Blood cells (BCCD)", "benchmarks.md", "Blood cells (BCCD) from random weights", ("292", "```bash", "|", "†")),
    (
        "Masks and keypoints, overfitted",
        "benchmarks.md",
        "Overfitting some images: masks and keypoints",
        ("Photographs", "```bash", "|"),
    ),
    (
        "EFPN on small objects",
        "efpn.md",
        "What it brings: our own runs",
        ("Small detectors", "| | shapes", "```bash\npython datasets"),
    ),
    (
        "The FPN paper's ablations on shapes",
        "fpn_ablations.md",
        "Running them",
        ("On shapes", "```bash\npython datasets", "Ours", "| variant"),
    ),
)


def model_config(name: str, device: str) -> ConfigNode:
    """The config of a model as it is measured: with the classes of its data set, and a full set of detections."""
    cfg = model_zoo.get_config(name)
    cfg.MODEL.NUM_CLASSES, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = model_zoo.data_classes(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = device, ""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH, cfg.MODEL.ROI_HEADS.NMS = -1.0, 1.0
    return cfg


def count_parameters(name: str) -> int:
    """The number of parameters of a config's model, which is not given any memory."""
    with torch.device("meta"):
        model = build_detection_model(model_config(name, "meta"))
    return sum(parameter.numel() for parameter in model.parameters())


def count_gmac(name: str) -> float:
    """Multiply-adds, in 1e9, of one image of SIZE_HW, with random weights.

    Raises:
        RuntimeError: fewer detections than a config allows, so that its ROI heads were not counted in full.
    """
    torch.manual_seed(0)
    cfg = model_config(name, "cpu")
    model: GeneralizedRCNN = build_detection_model(cfg).eval()
    calm(model)
    image = torch.randint(0, 256, (3, *SIZE_HW), dtype=torch.uint8)
    found: list[int] = []
    model.register_forward_hook(lambda _m, _a, out: found.append(len(out[0]["boxes"])))
    with torch.inference_mode():
        macs = multiply_adds(model, [image], paste_masks=False)[""]
    if cfg.MODEL.ROI_HEADS.NAME and found != [cfg.TEST.DETECTIONS_PER_IMG]:
        raise RuntimeError(f"{name} found {found} objects in noise instead of {cfg.TEST.DETECTIONS_PER_IMG}")
    return round(macs / 1e9, 1)


def calm(model: torch.nn.Module) -> None:
    """Residual blocks that add nothing: at random, a deep backbone's activations grow until no proposal is finite."""
    for module in model.modules():
        last = getattr(module, "bn3", getattr(module, "bn2", None))
        if last is not None:
            last.weight.data.zero_()


def measure(known: Rows, save: Any) -> Rows:
    """What is known, less what is no config any more, with the configs that are new."""
    names = model_zoo.list_configs()
    rows = {name: known[name] for name in names if name in known}
    same: dict[str, dict[str, Any]] = {model_config(name, "cpu").MODEL.dump(): row for name, row in rows.items()}
    for name in names:
        if name in rows:
            continue
        cfg = model_config(name, "cpu")
        key = cfg.MODEL.dump()
        if key not in same:
            logging.info("measuring %s", name)
            same[key] = {
                "classes": cfg.MODEL.NUM_CLASSES,
                "parameters": count_parameters(name),
                "gmac": count_gmac(name),
            }
        rows[name] = same[key]
        save(rows)
    return dict(sorted(rows.items()))


def read_measured() -> Rows:
    """docs/model_zoo.json."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))["models"] if MEASURED.is_file() else {}


def write_measured(rows: Rows) -> None:
    """docs/model_zoo.json, one line a model."""
    head = {"command": "python tools/make_model_zoo.py", "size_hw": SIZE_HW}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
    MEASURED.write_text(f'{json.dumps(head)[:-1]}, "models": {{\n{lines}\n}}}}\n', encoding="utf-8")


# ------------------------------------------------------------------------------------------------ tables of configs
def config_table(names: list[str], rows: Rows) -> str:
    """One line a config: its backbone, schedule, size, cost, and what its owners published."""
    published = {name: published_ap(name) for name in names}
    columns = sorted({column for cells in published.values() for column in cells}, key=column_order)
    head = ["config", "backbone", "steps of images", "classes", "parameters, M", "GMAC", *columns]
    table = []
    for name in names:
        cfg, row = model_zoo.get_config(name), rows[name]
        table.append(
            [
                f"[{name.rpartition('/')[0].partition('/')[2] + '/' if name.count('/') > 1 else ''}"
                f"{Path(name).stem}](configs/{name})",
                cfg.MODEL.BACKBONE.CONV_BODY,
                f"{cfg.SOLVER.MAX_ITER} of {cfg.SOLVER.IMS_PER_BATCH}",
                row["classes"],
                f"{row['parameters'] / 1e6:.1f}",
                f"{row['gmac']:.0f}",
                *(published[name].get(column, "") for column in columns),
            ]
        )
    return as_table(head, table)


def published_ap(name: str) -> dict[str, str]:
    """Column -> AP of a config: of each owner, its first checkpoint for it, and what no checkpoint belongs to."""
    cells = dict(MORE_AP.get(name, {}))
    for entry in reversed(DETECTOR_WEIGHTS):
        if entry.config == name:
            cells |= {f"{MEASURES[kind]}, {entry.owner}": f"{value:.1f}" for kind, value in entry.ap.items()}
    return cells


def column_order(column: str) -> tuple[int, str]:
    """By owner, then COCO's validation set before others, then boxes before masks before keypoints."""
    kind, _, owner = column.partition(", ")
    name, _, other_set = owner.partition(" ")
    return ("torchvision", "detectron2", "FCOS", "mmdetection").index(
        name
    ), f"{other_set}{list(MEASURES.values()).index(kind)}"


def as_table(head: list[str], rows: list[list[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


# ------------------------------------------------------------------------------------------ checkpoints of others
def checkpoint_table(owner: str) -> str:
    """One line a checkpoint of an owner."""
    head = ["config", "file", "published by the owner", "digest that is checked", "parity measured by"]
    return as_table(head, [checkpoint_row(entry) for entry in DETECTOR_WEIGHTS if entry.owner == owner])


def checkpoint_row(entry: DetectorWeights) -> list[str]:
    """The cells of `checkpoint_table`."""
    address, (algorithm, digits) = split_digest(address_of_weights(entry.weights))
    shown = entry.weights if entry.owner == "torchvision" else address.rpartition("/")[2]
    digest = f"{algorithm} {digits[:8]}{'…' if len(digits) > 8 else ''}" if digits else "none is known"
    found = [test for owner, pattern, test in PARITY if owner == entry.owner and fnmatch.fnmatch(entry.config, pattern)]
    return [
        f"[{Path(entry.config).stem}](configs/{entry.config})",
        f"[{shown.removeprefix('torchvision://')}]({address})",
        ", ".join(f"{MEASURES[kind]} {value:.1f}" for kind, value in entry.ap.items()),
        digest,
        ", ".join(f"[{Path(test).stem}]({test})" for test in found) or "not measured",
    ]


# ------------------------------------------------------------------------------------------------ our own results
def results() -> str:
    """Of each page that reports runs of ours: what was run, the commands, and the tables, as they stand there."""
    parts = []
    for title, page, heading, starts in RESULTS:
        anchor = re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        parts.append(f"### {title}\n\nFrom [docs/{page}](docs/{page}#{anchor}):")
        blocks = [block for block in section(ROOT / "docs" / page, heading) if block.startswith(starts)]
        lost = [start for start in starts if not any(block.startswith(start) for block in blocks)]
        if lost:
            raise ValueError(f"docs/{page}, {heading}: nothing begins with {lost} any more; see RESULTS")
        parts += [rebased(block) for block in blocks]
    return "\n\n".join(parts)


def section(path: Path, heading: str) -> list[str]:
    """The paragraphs, tables and commands below a heading, up to the next one."""
    text = re.split(rf"^#+ {re.escape(heading)}\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    return [block for block in re.split(r"^##+ ", text, flags=re.MULTILINE)[0].strip().split("\n\n") if block]


def rebased(block: str) -> str:
    """A block of a page in docs/ with its links as they are from the root."""
    return re.sub(r"\]\((?!https?://)(?:\.\./(?P<root>[^)]+)|(?P<beside>[^)]+))\)", link_from_root, block)


def link_from_root(match: re.Match[str]) -> str:
    """The replacement for `rebased`."""
    return f"]({match['root'] or 'docs/' + match['beside']})"


# ---------------------------------------------------------------------------------------------------- the page
def page(text: str, rows: Rows) -> str:
    """MODEL_ZOO.md with its tables made anew."""
    patterns = re.findall(r"^<!-- configs: (.+) -->$", text, flags=re.MULTILINE)
    taken = {name for words in patterns for name in chosen(words)}
    missing = [name for name in rows if name not in taken]
    if missing:
        sys.exit(
            f"MODEL_ZOO.md has no table for {', '.join(missing)}: write a pattern that fits, <!-- configs: ... -->"
        )

    def table(match: re.Match[str]) -> str:
        """What belongs between two comments."""
        kind, _, argument = match[1].partition(": ")
        if kind == "configs":
            content = config_table(chosen(argument), rows)
        else:
            content = results() if kind == "results" else checkpoint_table(argument)
        return f"<!-- {match[1]} -->\n\n{content.rstrip()}\n\n<!-- end -->"

    return re.sub(r"<!-- ((?:configs|checkpoints|results)\b.*?) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def chosen(words: str) -> list[str]:
    """The configs that fit one of the patterns and none of those after !, in the order of the patterns."""
    wanted = [word for word in words.split() if not word.startswith("!")]
    unwanted = [word[1:] for word in words.split() if word.startswith("!")]
    names = {name: None for word in wanted for name in by_size(model_zoo.list_configs(word))}
    return [name for name in names if not any(fnmatch.fnmatchcase(name, word) for word in unwanted)]


def by_size(names: list[str]) -> Iterator[str]:
    """R_50 before R_101 before X_101."""
    yield from sorted(names, key=lambda name: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", name)])


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 where the page is out of date"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    known = read_measured()
    missing = [name for name in model_zoo.list_configs() if name not in known]
    present = PAGE.read_text(encoding="utf-8")
    if args.check:
        if missing or page(present, known) != present:
            sys.stderr.write(f"{PAGE} is out of date {missing or ''}; run `make docs`\n")
            return 1
        return 0
    rows = measure(known, write_measured)
    write_measured(rows)
    PAGE.write_text(page(present, rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
