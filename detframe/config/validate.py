"""What a config must satisfy beyond the type of each key: its limits, and keys that must agree. All findings are
reported at once."""

from __future__ import annotations

from detframe.config.agreements import agreements, misfit, value_of
from detframe.config.bounds import Choice
from detframe.config.coerce import DURATION_KEYS
from detframe.config.config import ConfigNode
from detframe.config.durations import parse_duration
from detframe.config.limits import RULES
from detframe.errors import InvalidValueError

CHOICES = {key: rule.values for key, rule in RULES.items() if isinstance(rule, Choice)}


def validate(cfg: ConfigNode) -> None:
    """Check the limits of every key, and keys that must agree.

    Raises:
        ValueError: a list of every finding, each with its key, its value, and where the value was set.
    """
    findings = [*_limits(cfg), *_durations(cfg)]
    if not findings:  # what agrees is asked of sound values alone
        findings = agreements(cfg)
    if findings:
        raise InvalidValueError("the config has errors:\n" + "\n".join(f"  {line}" for line in findings))


def _limits(cfg: ConfigNode) -> list[str]:
    wrong = {key: rule.wrong(value_of(cfg, key)) for key, rule in RULES.items()}
    return [misfit(cfg, key, wanted) for key, wanted in wrong.items() if wanted]


def _durations(cfg: ConfigNode) -> list[str]:
    out = []
    values = [(key, value_of(cfg, key)) for key in sorted(DURATION_KEYS)]
    for key, value in [*values, *(("SOLVER.STEPS", step) for step in cfg.SOLVER.STEPS)]:
        try:
            parse_duration(value, 1, 1, key)
        except ValueError as error:
            out.append(f"{error} (from {cfg.source(key)})")
    return out
