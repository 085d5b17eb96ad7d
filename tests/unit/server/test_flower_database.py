from pathlib import Path

import pytest

from agi_core.errors import RunError
from server import flower_database


def test_a_database_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("no database, but long enough to be told from an empty one")
    with pytest.raises(RunError, match=r"state\.db cannot be written \(file is not a database\)"):
        flower_database.free_keys(tmp_path / "state.db")
