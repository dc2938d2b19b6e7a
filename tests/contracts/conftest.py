from __future__ import annotations

import pytest

from detframe.contracts.skeletons import KINDS


@pytest.fixture(autouse=True)
def own_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone at its end."""
    for kind in KINDS.values():
        monkeypatch.setattr(kind.members, "_members", dict(iter(kind.members)))
