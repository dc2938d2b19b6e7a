"""Many trainings to find the best values of some keys: `detframe tune`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from detframe.cli.arguments import add_config_arguments, base_parser, local_path, positive, processes
from detframe.cli.common import load_config, run_command
from detframe.errors import InvalidValueError

EPILOG = """\
The space is a YAML file that says what is tried, a range or a list of values for each key:

  SOLVER.BASE_LR: {low: 1e-4, high: 1e-1, log: true}
  SOLVER.WARMUP_ITERS: {low: 0, high: 500, step: 100}
  SOLVER.OPTIMIZER: [SGD, AdamW]

Every trial is a training in a folder of its own, OUTPUT_DIR/trial_0007; the first one is the config as it is. They are
judged by SOLVER.BEST_METRIC on DATASETS.TEST, which should be a validation set, and those that fall behind are ended
early, at one of their evaluations (TEST.EVAL_PERIOD). The same command goes on with a study that was ended, and may be
given on several machines that share OUTPUT_DIR.

In OUTPUT_DIR afterwards: best.yaml, a config for `detframe train`; results.csv and results.md, a table of all trials.

examples:
  detframe tune --config-file my.yaml --space space.yaml --trials 30 OUTPUT_DIR output/study
  two at a time, in two hours:   detframe tune ... --processes 2 --minutes 120
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("tune", "Find the best values of some keys of a config by many trainings (Optuna).", EPILOG)
    add_config_arguments(parser)
    parser.add_argument("--space", type=local_path, metavar="FILE", help="YAML file with the keys to try")
    parser.add_argument("--trials", type=positive, default=20, metavar="N", help="of the study in all (20)")
    parser.add_argument("--minutes", type=minutes, default=0.0, metavar="M", help="begin no trial that would end later")
    parser.add_argument("--processes", type=processes, default=1, metavar="N", help="trials side by side (1)")
    parser.add_argument(
        "--pruner", default="median", metavar="NAME", help="which trials end early: median, hyperband or none (median)"
    )
    parser.add_argument("--storage", default="", metavar="URL", help="store of the study (a file in OUTPUT_DIR)")
    parser.add_argument("--study", default="", metavar="NAME", help="its name in the store (that of OUTPUT_DIR)")
    return run_command(parser, argv, _run)


def minutes(text: str) -> float:
    """An argument that is a time above 0."""
    number = float(text)  # argparse words the ValueError
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of minutes above 0, not {text}")
    return number


def _run(args: argparse.Namespace) -> int:
    if not args.config_file:
        raise InvalidValueError("--config-file is missing: a study trains one config with other values of some keys")
    if not args.space:
        raise InvalidValueError("--space is missing: a YAML file that says which keys are tried; --help shows one")
    cfg = load_config(args)
    from detframe.tuning import tune

    found = tune(
        cfg,
        args.space,
        args.trials,
        minutes=args.minutes,
        processes=args.processes,
        pruner=args.pruner,
        storage=args.storage,
        study=args.study,
    )
    sys.stdout.write(found.text)
    return 0
