"""Modules of your own: skeletons to begin with (`detframe new`), and tests of what a registry asks of its members
(`detframe test-module`). docs/contracts.md says what that is.
"""

from detframe.contracts.running import test_file
from detframe.contracts.short_training import train_steps

__all__ = ["test_file", "train_steps"]
