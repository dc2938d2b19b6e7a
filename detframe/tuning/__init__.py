"""Studies: many trainings of one config with other values of some keys, to find the best ones. Optuna chooses them.

The parts are loaded when they are first asked for, so that a command's help needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detframe.lazy import lazily

if TYPE_CHECKING:
    from detframe.tuning.running import StudyResult, tune
    from detframe.tuning.space import read_space
else:
    __getattr__ = lazily(__name__, {"running": "StudyResult tune", "space": "read_space"})

__all__ = ["StudyResult", "read_space", "tune"]
