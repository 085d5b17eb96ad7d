import json
from pathlib import Path

import pytest

from agi_core.data.partition import split_subjects
from agi_core.errors import DataError
from client.site.split import NAME, lasting_split

IDS = [f"IXI{number}" for number in range(30)]


def test_the_first_split_is_the_plain_one_and_stays(tmp_path: Path) -> None:
    first = lasting_split(tmp_path, IDS)
    assert first == split_subjects(IDS)
    assert lasting_split(tmp_path, IDS) == first
    assert json.loads((tmp_path / NAME).read_text())["test"] == sorted(first.test)


def test_nobody_changes_parts_whoever_comes_goes_and_comes_back(tmp_path: Path) -> None:
    first = lasting_split(tmp_path, IDS[:10])
    part_of: dict[str, str] = {}
    for ids in (IDS[:10], IDS[:20], IDS[5:15], IDS[20:], IDS):  # scenarios differ in who has all their modalities
        split = lasting_split(tmp_path, ids)
        for part in ("train", "validation", "test"):
            for subject in getattr(split, part):
                assert part_of.setdefault(subject, part) == part
        assert sorted(split.train + split.validation + split.test) == sorted(ids)
    assert set(first.test) <= {subject for subject, part in part_of.items() if part == "test"}
    assert len(part_of) == 30


def test_a_site_can_keep_subjects_for_tests_alone(tmp_path: Path) -> None:
    split = lasting_split(tmp_path, IDS[:10], tests=[IDS[0], IDS[3], IDS[7]])
    assert sorted(split.test) == [IDS[0], IDS[3], IDS[7]]
    assert lasting_split(tmp_path, IDS[:10]).test == split.test  # for good
    with pytest.raises(DataError, match=rf"{split.train[0]} is one of data.test_subjects, but .* has trained"):
        lasting_split(tmp_path, IDS[:10], tests=split.train[:1])


@pytest.mark.parametrize("content", ["", "[]", '{"training": []}', '{"train": 3}'])
def test_a_damaged_file_stops_the_site(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(DataError, match=r"split\.json cannot be read"):
        lasting_split(tmp_path, IDS)
    assert (tmp_path / NAME).read_text() == content
