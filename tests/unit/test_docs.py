"""The pages for people: lines of at most 120 characters, and nothing named that is not there."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
WIDTH = 120
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w./-])((?:agi_core|benchmarks|client|deploy|docs|server|simulations|tests|\.ci|\.github)/[\w./-]*)"
)
MODULE = re.compile(r"python -m ((?:agi_core|benchmarks|client|server|simulations)[\w.]*)")


def place(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and GitLab give to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page: Path) -> Iterator[str]:
    """All that stands in backticks: code blocks, then code within a line."""
    text = page.read_text()
    yield from FENCE.findall(text)
    yield from re.findall(r"`([^`]+)`", FENCE.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_lines_end_at_120_outside_of_tables_and_code(page: Path) -> None:
    prose = FENCE.sub("", page.read_text()).splitlines()
    too_long = [line for line in prose if len(line) > WIDTH and " " in line.strip() and not line.startswith("|")]
    assert too_long == []


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_paths_and_modules_in_code_exist(page: Path) -> None:
    for text in code(page):
        for path in REPOSITORY_PATH.findall(text):
            assert (ROOT / path).exists(), path
        for module in MODULE.findall(text):
            path = ROOT / module.rstrip(".").replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


def test_the_architecture_names_every_module_or_its_room() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    named = {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    for package in ("agi_core", "client", "server", "simulations"):
        for module in (ROOT / package).rglob("*.py"):
            path = module.relative_to(ROOT)
            assert module.name == "__init__.py" or {path.as_posix(), f"{path.parent.as_posix()}/"} & named, path


def test_the_citation_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
