"""Text is UTF-8 wherever it is read or written, whatever the machine's locale says."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for part in ("agi_core", "client", "server", "simulations") for p in (ROOT / part).rglob("*.py"))


def guesses(source: str) -> Iterator[int]:
    """Lines of calls that read or write text in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, owner = "", ""
        if isinstance(node.func, ast.Name):
            name = node.func.id
        elif isinstance(node.func, ast.Attribute):
            name, owner = node.func.attr, ast.unparse(node.func.value)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        own_mode = node.args[0:1] if owner else node.args[1:2]
        mode = keywords.get("mode", ast.unparse(own_mode[0]) if own_mode else "'r'")
        text = {
            "read_text": not owner.startswith("distribution("),  # its text is UTF-8
            "write_text": owner not in ("", "atomic"),  # those of `host/atomic.py` are UTF-8
            # a file's open takes a mode or nothing; that of other objects takes other things
            "open": mode[0] in "'\"" and "b" not in mode and owner != "os",
            "fdopen": "b" not in (ast.unparse(node.args[1]) if len(node.args) > 1 else mode),
            "FileHandler": True,
            "NamedTemporaryFile": "b" not in mode and "mode" in keywords,
            "run": "True" in (keywords.get("text"), keywords.get("universal_newlines")),
            "Popen": "True" in (keywords.get("text"), keywords.get("universal_newlines")),
        }.get(name, False)
        if text and "encoding" not in keywords:
            yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_text_is_in_the_encoding_of_the_locale(path: Path) -> None:
    assert list(guesses(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", True),
        ("path.read_text(errors='replace')", True),
        ("path.write_text(text)", True),
        ("path.open()", True),
        ("path.open('w', newline='')", True),
        ("open(path)", True),
        ("os.fdopen(number, 'w')", True),
        ("subprocess.run(command, text=True)", True),
        ("path.read_text(encoding='utf-8')", False),
        ("atomic.write_text(path, text)", False),
        ("path.open('rb')", False),
        ("open(path, 'wb')", False),
        ("os.open(path, os.O_RDONLY)", False),
        ("preparation.open(subjects)", False),
    ],
)
def test_the_check_sees_what_it_must(source: str, found: bool) -> None:
    assert bool(list(guesses(source))) == found
