"""Rewrite another program's config as detframe's: tools/translate_config.py and `detframe translate-config`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from detframe.cli.arguments import base_parser, local_path
from detframe.cli.common import log_to_terminal, run_command
from detframe.config import ConfigNode, get_cfg, validate
from detframe.config.foreign import PROGRAMS
from detframe.config.yaml_files import write_yaml
from detframe.errors import InvalidValueError

EPILOG = """\
The config goes to the standard output, what became of each key to the standard error:

    tools/translate_config.py e2e_faster_rcnn_R_50_FPN_1x.yaml > faster_rcnn.yaml

Files of {programs} are understood, with the files that their _BASE_ names. Overrides
may be in their words or in detframe's. The commands of detframe take such a file as it is, too: --config-file OLD.yaml.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    *others, last = (program.name for program in PROGRAMS)
    epilog = EPILOG.format(programs=f"{', '.join(others)} and {last}")
    parser = base_parser("translate-config", "Rewrite another program's config as detframe's.", epilog)
    parser.add_argument(
        "config_file", type=local_path, metavar="OLD.yaml", help=f"a config of {', '.join(others)} or {last}"
    )
    parser.add_argument("opts", metavar="KEY VALUE", nargs="*", help="overrides")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if not cfg.translation:
        raise InvalidValueError(
            f"{args.config_file} is a config of detframe already: all of its keys are detframe's own"
        )
    validate(cfg)
    sys.stdout.write(f"# Translated from {args.config_file}\n{dump_changes(cfg)}")
    return 0


def dump_changes(cfg: ConfigNode) -> str:
    """The keys whose values are not detframe's defaults, as YAML, without the sections of detectors that it is not."""
    defaults = dict(get_cfg().leaves())
    unused = _unused_sections(cfg)
    tree: dict[str, Any] = {}
    for key, value in cfg.leaves():
        if value != defaults[key] and not key.startswith(unused):
            *parents, name = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = value
    return write_yaml(tree)


def _unused_sections(cfg: ConfigNode) -> tuple[str, ...]:
    model = cfg.MODEL
    used = {
        "MODEL.RETINANET.": model.RPN.NAME == "RetinaNet",
        "MODEL.FCOS.": model.RPN.NAME == "FCOS",
        "MODEL.RPN.ANCHOR_": model.RPN.NAME == "AnchorRPN",
        "MODEL.ROI_BOX_HEAD.": bool(model.ROI_HEADS.NAME),
        "MODEL.ROI_MASK_HEAD.": model.MASK_ON,
        "MODEL.POINT_HEAD.": model.MASK_ON,
        "MODEL.ROI_KEYPOINT_HEAD.": model.KEYPOINT_ON,
    }
    return tuple(section for section, on in used.items() if not on)
