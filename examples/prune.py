"""Train by a config, and give up early when the detector is worse than it should be by then.

    python examples/prune.py --config-file cells.yaml --metric bbox/AP50 --after 2000 --least 20

The callback below is all that is needed: it sees every evaluation, and ends the run by saying why.
"""

from __future__ import annotations

import argparse
import math

import detframe


class Prune(detframe.Hook):
    """Ends the training where `metric` is below `least` in two evaluations in a row after `after` steps."""

    name = "prune"

    def __init__(self, metric: str, least: float, after: int) -> None:
        self.metric, self.least, self.after = metric, least, after
        self.low = 0  # evaluations in a row

    def after_evaluation(self, trainer, metrics) -> None:
        """Count the evaluations that are too low; the second one ends the run."""
        value = metrics[self.metric]
        too_low = trainer.evaluated >= self.after and (math.isnan(value) or value < self.least)
        self.low = self.low + 1 if too_low else 0
        if self.low == 2:
            trainer.stop_reason = f"pruned at iteration {trainer.evaluated}: {self.metric} {value:.2f} < {self.least:g}"

    def state_dict(self):
        """What `--resume` needs to go on counting."""
        return {"low": self.low}

    def load_state_dict(self, state) -> None:
        """Take it over; {} where the run began without this callback."""
        self.low = state.get("low", 0)


def main() -> None:
    """Read the command line, and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--metric", default="bbox/AP50")
    parser.add_argument("--least", type=float, required=True, help="what the metric should have reached")
    parser.add_argument("--after", type=int, default=0, help="steps before which nothing is judged")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    args = parser.parse_args()
    prune = Prune(args.metric, args.least, args.after)
    metrics = detframe.train(args.config_file, resume=args.resume, callbacks=[prune])
    print({name: round(value, 2) for name, value in metrics.items() if name == args.metric})


if __name__ == "__main__":
    main()
