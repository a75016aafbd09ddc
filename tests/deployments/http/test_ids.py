from __future__ import annotations

import pytest

from deployments.ids import from_wire, new_id, to_wire


def test_ids_are_uuids_of_version_7_in_order() -> None:
    made = [new_id() for _ in range(100)]
    assert {id.version for id in made} == {7}
    assert made == sorted(made)


def test_an_id_comes_back_from_the_wire() -> None:
    id = new_id()
    assert from_wire("dec", to_wire("dec", id)) == id


@pytest.mark.parametrize(
    "text", ["", "dec_", "dec_12", "trf_" + "0" * 32, "dec_" + "A" * 32, "dec_" + "0" * 33, "dec-" + "0" * 32, "dec_" + "0" * 31 + "\n"]
)
def test_anything_else_is_no_id(text: str) -> None:
    assert from_wire("dec", text) is None
