"""Draw docs/images/data_way.svg, the way of the data; with --check only say whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from html import escape
from pathlib import Path

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "data_way.svg"
WIDTH, HEIGHT = 960, 690
STYLE = """
  text { font: 14px sans-serif; fill: #1c2540; text-anchor: middle; }
  .small { font-size: 12px; fill: #55608a; }
  .file { fill: #fff7df; stroke: #d9a400; }
  .data { fill: #e7ecff; stroke: #3f51b5; }
  .part { fill: #e6f5ec; stroke: #2e8b57; }
  .frame { fill: none; stroke: #2e8b57; stroke-dasharray: 6 4; }
  line { stroke: #55608a; stroke-width: 1.6; marker-end: url(#arrow); }
"""

# (kind, x and y of the middle, width, what it is, what more there is to say)
Box = tuple[str, int, int, int, str, str]
BOXES: list[Box] = [
    ("file", 170, 40, 260, "YAML files, overrides", "of the config and of the command"),
    ("data", 170, 135, 260, "ConfigNode", "config/: one closed, typed tree, frozen"),
    ("part", 170, 230, 260, "build_detection_model", "registries: which class; from_config"),
    ("file", 790, 40, 300, "annotation files, folders, archives", "COCO, VOC, YOLO, CSV and more"),
    ("data", 790, 135, 300, "Records", "data/formats/: packed once, shared by workers"),
    ("part", 790, 230, 300, "TrainSampler, TrainLoader", "which image when; decode, resize, augment"),
    ("data", 790, 325, 300, "a batch", "uint8 images, and a Target for each"),
    ("part", 390, 325, 240, "Preprocessor, pack_targets", "ImageList, GroundTruth: padded"),
    ("part", 390, 410, 240, "backbone", "body and pyramid: maps, fine to coarse"),
    ("part", 390, 495, 240, "AnchorRPN, FCOS, RetinaNet, ...", "Proposals, or detections"),
    ("part", 390, 580, 240, "StandardROIHeads, ...", "classes, masks, keypoints"),
    ("data", 660, 495, 160, "losses", "in training"),
    ("data", 660, 605, 160, "Predictions", "in evaluation"),
    ("part", 855, 440, 170, "Trainer.step", "hooks: logs, evaluation"),
    ("file", 855, 535, 170, "Checkpoint", "Detector, --resume, export"),
    ("part", 855, 650, 170, "COCOEvaluator, ...", "AP, and the report"),
]
# From the middle of one side to that of another
LINES = [
    (170, 62, 170, 110), (170, 157, 170, 205), (790, 62, 790, 110), (790, 157, 790, 205), (790, 252, 790, 300),
    (640, 325, 513, 325), (170, 252, 252, 300), (390, 347, 390, 385), (390, 432, 390, 470), (390, 517, 390, 555),
    (510, 495, 577, 495), (510, 580, 577, 600), (740, 485, 767, 462), (855, 462, 855, 510), (740, 617, 767, 640),
]  # fmt: skip


def drawing() -> str:
    """The picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#55608a"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        '<rect class="frame" x="255" y="270" width="270" height="345" rx="10"/>',
        '<text x="390" y="290">GeneralizedRCNN</text>',
    ]
    parts += [f'<line x1="{a}" y1="{b}" x2="{c}" y2="{d}"/>' for a, b, c, d in LINES]
    for kind, x, y, width, name, more in BOXES:
        parts.append(f'<rect class="{kind}" x="{x - width // 2}" y="{y - 23}" width="{width}" height="46" rx="6"/>')
        parts.append(f'<text x="{x}" y="{y - 3}">{escape(name)}</text>')
        parts.append(f'<text class="small" x="{x}" y="{y + 14}">{escape(more)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where it is out of date")
    args = parser.parse_args()
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == drawing():
        return 0
    if args.check:
        sys.stderr.write(f"{PICTURE} is out of date; run `make docs`\n")
        return 1
    PICTURE.write_text(drawing(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
