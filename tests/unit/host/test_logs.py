from pathlib import Path

from agi_core.host.logs import begin_anew


def test_the_program_goes_on_in_the_emptied_log(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    with path.open("ab", buffering=0) as program:
        program.write(b"before\n")
        begin_anew(path)
        program.write(b"after\n")
    assert (path.read_text(), (tmp_path / "a.log.1").read_text()) == ("after\n", "before\n")
