"""How a .pt2 file is loaded: what torch.export would find anew for each value is found once."""

from __future__ import annotations

import dataclasses
import typing

import pytest
import torch

from detframe.backends.program_file import _hints_kept


@dataclasses.dataclass
class Value:
    side: int


def test_hints_are_found_once_while_a_program_is_loaded(monkeypatch):
    asked, before = [], typing.get_type_hints
    monkeypatch.setattr(typing, "get_type_hints", lambda *args, **named: asked.append(args) or before(*args, **named))
    counting = typing.get_type_hints
    with pytest.raises(KeyError), _hints_kept():
        for _ in range(3):
            found = typing.get_type_hints(Value, globalns=globals())
            assert found == {"side": int}
            found.clear()  # of the caller alone
        assert typing.get_type_hints(Value) == {"side": int}
        raise KeyError
    assert len(asked) == 2 and typing.get_type_hints is counting


def test_a_program_loaded_so_is_the_same(tmp_path):
    class Model(torch.nn.Module):
        def forward(self, x):
            return (x.sin().sum(1) + 1,)

    x = torch.arange(6.0).reshape(2, 3)
    torch.export.save(torch.export.export(Model(), (x,)), str(tmp_path / "program.pt2"))
    plain = torch.export.load(str(tmp_path / "program.pt2"))
    with _hints_kept():
        kept = torch.export.load(str(tmp_path / "program.pt2"))
    assert str(kept.graph) == str(plain.graph) and kept.graph_signature == plain.graph_signature
    assert torch.equal(kept.module()(x)[0], plain.module()(x)[0])
