from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from agi_core.errors import RunError
from agi_core.run.json_objects import JsonObject, read_json


@dataclass(frozen=True)
class Cat(JsonObject):
    name: str
    lives: int = 9


def test_fields_are_the_object() -> None:
    assert Cat("Tom", 7).to_json() == {"name": "Tom", "lives": 7}
    assert Cat.from_json({"name": "Tom", "lives": 7}) == Cat("Tom", 7)


def test_what_is_unknown_is_left_out_and_what_is_missing_has_its_default() -> None:
    assert Cat.from_json({"name": "Tom", "colour": "grey"}) == Cat("Tom", 9)
    with pytest.raises(TypeError, match="name"):
        Cat.from_json({"lives": 7})


@dataclass(frozen=True)
class House(JsonObject):
    tenants: Mapping[str, Cat]
    rooms: Mapping[str, Mapping[str, Cat]]
    owner: Cat | None = None


@pytest.mark.parametrize("owner", [Cat("Tom"), None])
def test_nested_objects_are_written_and_read_as_their_types_say(owner: Cat | None) -> None:
    house = House({"attic": Cat("Kit", 1)}, {"cellar": {"box": Cat("Tiger")}}, owner)
    written = house.to_json()
    assert written == {
        "tenants": {"attic": {"name": "Kit", "lives": 1}},
        "rooms": {"cellar": {"box": {"name": "Tiger", "lives": 9}}},
        "owner": {"name": "Tom", "lives": 9} if owner else None,
    }
    assert House.from_json(written) == house
    assert House.from_json({"tenants": {}, "rooms": {}}) == House({}, {})


def test_a_file_that_is_not_there_yet_and_a_damaged_one(tmp_path: Path) -> None:
    assert read_json(tmp_path / "cat.json") is None
    (tmp_path / "cat.json").write_text('{"name": "Tom"}')
    assert read_json(tmp_path / "cat.json") == {"name": "Tom"}
    (tmp_path / "cat.json").write_text('{"name": ')
    with pytest.raises(RunError, match=r"cat\.json is damaged .*; delete it and continue the run with --resume"):
        read_json(tmp_path / "cat.json")


@pytest.mark.parametrize(
    "damage", ["[]", "3", "{}", "[" * 200_000, '{"name": 3}', '{"name": "Tom", "lives": "nine"}', '{"name": null}']
)
def test_a_file_that_holds_something_else_is_damaged(tmp_path: Path, damage: str) -> None:
    assert Cat.read(tmp_path / "cat.json") is None
    (tmp_path / "cat.json").write_text(damage)
    with pytest.raises(RunError, match=r"cat\.json is damaged"):
        Cat.read(tmp_path / "cat.json")


@pytest.mark.parametrize(
    "values",
    [
        {"tenants": {"attic": 3}, "rooms": {}},
        {"tenants": [], "rooms": {}},
        {"tenants": {}, "rooms": {"cellar": []}},
        {"tenants": {}, "rooms": {}, "owner": []},
    ],
)
def test_a_nested_object_of_another_kind_is_no_object(values: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="expected"):
        House.from_json(values)
