import re
from pathlib import Path

from agi_core.release import PACKAGES, code_hash, release


def test_it_names_code_torch_and_flower() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\S+ \(code [0-9a-f]{10}, torch \d+\.\d+[^+ ]*, flwr \d+\.\d+\S*\)", release())


def test_any_change_of_the_code_is_another_release(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package / "room").mkdir(parents=True)
        (tmp_path / package / "room" / "module.py").write_text("x = 1\n")
    (tmp_path / "tests").mkdir()
    before = code_hash(tmp_path)
    (tmp_path / "tests" / "test.py").write_text("not installed\n")
    (tmp_path / "client" / "room" / "module.pyc").write_text("of one machine\n")
    assert code_hash(tmp_path) == before
    (tmp_path / "server" / "room" / "module.py").write_text("x = 2\n")
    changed = code_hash(tmp_path)
    assert changed != before
    (tmp_path / "server" / "room" / "module.py").rename(tmp_path / "server" / "room" / "other.py")
    assert code_hash(tmp_path) not in {before, changed}
