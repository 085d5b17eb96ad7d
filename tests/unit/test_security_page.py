"""Every test that docs/security.md names as proof is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_page_names_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"(test_\w+\.py)::(test_\w+)", text))
    there = {
        (path.name, name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *def (test_\w+)\(", path.read_text(), re.M)
    }
    assert len(named) == text.count("::") > 20, "a name is written in another form than test_file.py::test_name"
    assert named <= there, f"no such test: {sorted(named - there)}"
