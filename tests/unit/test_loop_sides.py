"""The compact table of sides answers as a dict does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucle.loop.sides import Sides


@given(st.lists(st.text(), unique=True))
def test_it_answers_as_a_dict(ids: list[str]) -> None:
    names = ("train", "validation", "test")
    parts = {name: ids[place::3] for place, name in enumerate(names)}
    plain = {row: name for name, rows in parts.items() for row in rows}
    sides = Sides(parts)
    assert len(sides) == len(ids)
    assert {row: sides[row] for row in ids} == plain
    assert sides.get("?" + "".join(ids), "excluded") == "excluded"


def test_it_cannot_be_listed() -> None:
    with pytest.raises(TypeError, match="not kept"):
        list(Sides({"train": ["a"]}))
