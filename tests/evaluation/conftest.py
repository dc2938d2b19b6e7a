"""One thread: the tensors are so small that threads only cost time."""

from __future__ import annotations

from tests.threads import one_thread  # noqa: F401
