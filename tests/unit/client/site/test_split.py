import contextlib
import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agi_core.data.partition import Split, split_subjects
from agi_core.errors import DataError
from client.site import split as split_module
from client.site.split import NAME, ever_given, known_as, lasting_split, renamed

IDS = [f"IXI{number}" for number in range(30)]


def images(ids: Iterable[str], *, prefix: str = "") -> dict[str, list[str]]:
    """Each subject has two scans; `prefix` renames the subjects and not their images."""
    return {f"{prefix}{subject_id}": [f"{subject_id} T1", f"{subject_id} T2"] for subject_id in ids}


def part_of(split: Split, subject_id: str) -> str:
    (part,) = (part for part in ("train", "validation", "test") if subject_id in getattr(split, part))
    return part


def test_the_first_split_is_the_plain_one_and_stays(tmp_path: Path) -> None:
    first, _ = lasting_split(tmp_path, images(IDS))
    assert first == split_subjects(IDS)
    assert lasting_split(tmp_path, images(IDS)) == (first, {subject_id: subject_id for subject_id in IDS})
    assert json.loads((tmp_path / NAME).read_text())["test"] == sorted(first.test)


def test_nobody_changes_parts_whoever_comes_goes_and_comes_back(tmp_path: Path) -> None:
    first, _ = lasting_split(tmp_path, images(IDS[:10]))
    given: dict[str, str] = {}
    for ids in (IDS[:10], IDS[:20], IDS[5:15], IDS[20:], IDS):  # scenarios differ in who has all their modalities
        split, _ = lasting_split(tmp_path, images(ids))
        for subject in ids:
            assert given.setdefault(subject, part_of(split, subject)) == part_of(split, subject)
        assert sorted(split.train + split.validation + split.test) == sorted(ids)
    assert set(first.test) <= {subject for subject, part in given.items() if part == "test"}
    assert len(given) == 30


def test_programs_that_give_parts_at_once_lose_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def drawn(*arguments: Any, **before: Any) -> Split:
        with contextlib.suppress(threading.BrokenBarrierError):  # the other one cannot come here too
            both.wait(timeout=1)
        return split_subjects(*arguments, **before)

    monkeypatch.setattr(split_module, "split_subjects", drawn)
    with ThreadPoolExecutor() as pool:
        splits = [split for split, _ in pool.map(lasting_split, [tmp_path] * 2, [images(IDS[:10]), images(IDS[10:])])]
    kept = ever_given(tmp_path)
    for split in splits:
        assert {*split.train} <= {*kept.train}
        assert {*split.test} <= {*kept.test}
    assert sorted(kept.train + kept.validation + kept.test) == sorted(IDS)


def test_a_site_can_keep_subjects_for_tests_alone(tmp_path: Path) -> None:
    split, _ = lasting_split(tmp_path, images(IDS[:10]), tests=[IDS[0], IDS[3], IDS[7], "elsewhere"])
    assert sorted(split.test) == [IDS[0], IDS[3], IDS[7]]
    assert lasting_split(tmp_path, images(IDS[:10]))[0].test == split.test  # for good
    with pytest.raises(DataError, match=rf"{split.train[0]} is one of data.test_subjects, but .* has trained"):
        lasting_split(tmp_path, images(IDS[:10]), tests=split.train[:1])


def test_whoever_gets_another_name_keeps_the_part(tmp_path: Path) -> None:
    first, _ = lasting_split(tmp_path, images(IDS))
    again = images(IDS, prefix="sub-")
    assert known_as(tmp_path, again) == {f"sub-{subject_id}": subject_id for subject_id in IDS}
    split, known = lasting_split(tmp_path, again)
    assert {s: part_of(split, f"sub-{s}") for s in IDS} == {s: part_of(first, s) for s in IDS}
    assert renamed(known).startswith("sub-IXI0 (was IXI0), sub-IXI1 (was IXI1)")
    assert "and 25 more: known by scans" in renamed(known)
    assert renamed({"IXI1": "IXI1"}) == ""


def test_names_that_move_by_one_stay_with_their_images(tmp_path: Path) -> None:
    """IXI0 becomes IXI1, IXI1 becomes IXI2 and so on: content counts, and not the name."""
    first, _ = lasting_split(tmp_path, images(IDS))
    shifted = {IDS[(number + 1) % 30]: its for number, its in enumerate(images(IDS).values())}
    split, known = lasting_split(tmp_path, shifted)
    for number, before in enumerate(IDS):
        now = IDS[(number + 1) % 30]
        assert (known[now], part_of(split, now)) == (before, part_of(first, before))


def test_scans_that_come_go_and_are_replaced(tmp_path: Path) -> None:
    first, _ = lasting_split(tmp_path, images(IDS))
    trained, tested = first.train[0], first.test[0]
    lasting_split(tmp_path, {**images(IDS), trained: [f"{trained} T1", "a second visit"]})
    one_is_enough = {"new": ["a second visit"], "newer": [f"{trained} T2"]}
    split, known = lasting_split(tmp_path, {**images(set(IDS) - {trained}), **one_is_enough})
    assert (known["new"], known["newer"]) == (trained, trained)
    assert {"new", "newer"} <= {*split.train}
    both, known = lasting_split(tmp_path, {"mixed": [f"{tested} T1", f"{trained} T1"]})
    assert (both.train, known) == (("mixed",), {"mixed": trained})  # who trained does not test
    replaced, known = lasting_split(tmp_path, {tested: ["exported again"]})
    assert (replaced.test, known[tested]) == ((tested,), tested)  # no image is known, but the name is


def test_a_name_that_is_given_to_somebody_else(tmp_path: Path) -> None:
    lasting_split(tmp_path, images(IDS))
    its = images(IDS)
    _, known = lasting_split(tmp_path, {**its, "moved": its[IDS[0]], IDS[0]: ["somebody else"]})
    assert (known["moved"], known[IDS[0]]) == (IDS[0], f"{IDS[0]}:somebody")
    assert known_as(tmp_path, {"again": ["somebody else"]}) == {"again": f"{IDS[0]}:somebody"}


def test_a_file_of_an_earlier_release_knows_names_alone(tmp_path: Path) -> None:
    split = split_subjects(IDS)
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    (tmp_path / NAME).write_text(json.dumps(parts))
    assert lasting_split(tmp_path, images(IDS))[0] == split
    assert known_as(tmp_path, images(IDS[:1], prefix="new-")) == {"new-IXI0": "IXI0"}  # from now on by image


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"training": []}', '{"train": 3}', '{"train": ["a"], "images": {"x": "b"}}', '{"images": []}'],
)
def test_a_damaged_file_stops_the_site(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(DataError, match=r"split\.json is damaged"):
        lasting_split(tmp_path, images(IDS))
    assert (tmp_path / NAME).read_text() == content


def test_a_file_that_this_user_cannot_read_is_not_damaged(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()  # root may read any file
    with pytest.raises(DataError, match=r"split\.json cannot be read: Is a directory; mend its .* and keep it"):
        lasting_split(tmp_path, images(IDS))
