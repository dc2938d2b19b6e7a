"""The config tree: defaults, loading, checking."""

from detframe.config.check import validate
from detframe.config.durations import Pace, Stretch, given_in_epochs, parse_duration, resolve_durations
from detframe.config.imports import import_carried_modules, import_custom_modules
from detframe.config.key import CONTINUES, FREE, REFUSED, Key, Resume, Section, section
from detframe.config.keys import add_section
from detframe.config.paths import find_config, shipped_folder
from detframe.config.reading import as_config, carried_config, import_carried, import_modules, read_config
from detframe.config.tree import ConfigKeyError, ConfigNode, get_cfg

__all__ = [
    "CONTINUES",
    "FREE",
    "REFUSED",
    "ConfigKeyError",
    "ConfigNode",
    "Key",
    "Pace",
    "Resume",
    "Section",
    "Stretch",
    "add_section",
    "as_config",
    "carried_config",
    "find_config",
    "get_cfg",
    "given_in_epochs",
    "import_carried",
    "import_carried_modules",
    "import_custom_modules",
    "import_modules",
    "parse_duration",
    "read_config",
    "resolve_durations",
    "section",
    "shipped_folder",
    "validate",
]
