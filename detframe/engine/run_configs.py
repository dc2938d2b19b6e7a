"""config.yaml of many runs beside each other: read line by line, in a hundredth of the time that YAML takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from detframe.config import get_cfg

_LINE = re.compile(r"^( *)'?([A-Za-z_][\w.-]*)'?:(?: (.*))?$")
_OPEN, _SHUT = "[{", "]}"
_PLACES = ("OUTPUT_DIR",)  # differs between any two runs, and says nothing of either


def flat_config(text: str) -> dict[str, str]:
    """The values of a config by dotted keys, as the texts that `ConfigNode.dump` has written.

    What cannot be read, as a file that was cut off or is no config, is left out.
    """
    out: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # indent and name of the sections around
    key, depth = "", 0
    for line in text.splitlines():
        found = _LINE.match(line) if depth <= 0 else None
        if found is None:
            if key and line.strip() and not line.startswith("#"):  # a list goes on
                out[key] = f"{out.get(key, '')} {line.strip()}".strip()
                depth += _depth(line)
            continue
        indent, name, value = len(found[1]), found[2], (found[3] or "").strip()
        above = [(width, outer) for width, outer in above if width < indent]
        key = ".".join([*(outer for _, outer in above), name])
        depth = _depth(value)
        if value:
            out[key] = value
        else:
            above.append((indent, name))
    return out


def _depth(text: str) -> int:
    return sum(text.count(sign) for sign in _OPEN) - sum(text.count(sign) for sign in _SHUT)


def differing_keys(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys in which some configs differ, in the order of detframe's; what one lacks has there its default."""
    full = with_defaults(configs)
    keys = dict.fromkeys(key for config in full for key in config)
    return [key for key in keys if key not in _PLACES and len({config.get(key) for config in full}) > 1]


def with_defaults(configs: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The configs with the keys that came with a later version than theirs; one of which nothing is known stays so."""
    defaults = flat_config(get_cfg().dump())
    return [{**defaults, **config} if config else {} for config in configs]


def short_names(keys: Sequence[str]) -> list[str]:
    """Each key by its last words, as many as tell it from the others: BASE_LR, FCOS.NUM_CONVS."""
    words = {key: key.split(".") for key in keys}
    tails = {key: [".".join(words[key][start:]) for start in reversed(range(len(words[key])))] for key in keys}
    counts = Counter(tail for key in keys for tail in tails[key])
    return [next((tail for tail in tails[key] if counts[tail] == 1), key) for key in keys]
