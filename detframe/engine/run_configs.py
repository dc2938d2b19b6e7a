"""config.yaml of many runs beside each other: read line by line, in a hundredth of the time that YAML takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from detframe.config import ConfigNode, get_cfg
from detframe.config.effects import idle_keys
from detframe.config.keys import all_keys
from detframe.config.yaml_text import safe_yaml

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
    """The keys in which some configs differ, in the order of detframe's; what one lacks has there its default.

    A value that another key of its config turns off (`effects.idle_keys`) counts as the default. Configs of which
    nothing is known count for nothing.
    """
    full = [config for config in with_defaults(configs) if config]
    keys = [key for key in dict.fromkeys(key for config in full for key in config) if key not in _PLACES]
    differing = _differing(keys, full)
    common, defaults = get_cfg(), flat_config(get_cfg().dump())
    _set(common, {key: text for config in full[:1] for key, text in config.items() if key not in differing})
    for config in full:
        cfg = common.clone()
        _set(cfg, {key: config[key] for key in differing if key in config})
        config.update({key: defaults[key] for idle, _ in idle_keys(cfg) for key in idle})
    return _differing(differing, full)


def _differing(keys: Sequence[str], configs: Sequence[Mapping[str, str]]) -> list[str]:
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


def _set(cfg: ConfigNode, texts: Mapping[str, str]) -> None:
    """Set what the texts of a config file stand for; what this version does not know or take stays as it was."""
    known = all_keys()
    for key in known.keys() & texts.keys():
        section, _, name = key.rpartition(".")
        try:
            (cfg.at(section) if section else cfg)[name] = safe_yaml(texts[key], key)
        except ValueError:
            continue  # of another version, or cut off: it turns off nothing


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
