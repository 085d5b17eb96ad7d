"""Pieces of HTML and of prose. Arguments called `text` are escaped here; those called `html` are HTML already."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

NONE = "–"  # in a cell that has nothing to say


def section(title: str, html: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{html}</section>\n"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def bullets(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def plot(uri: str, *, alt: str) -> str:
    return f'<div class="wide"><img class="plot" src="{uri}" alt="{escape(alt)}"></div>'


def panels(images: Sequence[tuple[str, str, str]], *, title: str, aspect: float) -> str:
    """Slices in the radiological view side by side: (name, note, URI) of each; `aspect` is width / height in mm."""
    labels = '<span class="anterior" aria-hidden="true">A</span><span class="right" aria-hidden="true">R</span>'
    cells = "".join(
        f'<figure><div class="panel"><img src="{uri}" alt="{escape(f"{name}: {title}")}"'
        f' style="aspect-ratio: {aspect:.4g}">{labels}</div>'
        f"<figcaption><b>{escape(name)}</b> {escape(note)}</figcaption></figure>"
        for name, note, uri in images
    )
    return f'<div class="panels" style="grid-template-columns: repeat({len(images)}, 1fr)">{cells}</div>'


def pages(html: Iterable[str]) -> str:
    """Blocks that a reader turns over one by one; below each other without a script, and on paper."""
    return f'<div class="pages">{"".join(html)}</div>'


def moment(at: datetime.datetime | None) -> str:
    """Date and time for a person; empty where it is not known."""
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else ""


def mark(kind: str, text: str) -> str:
    """A coloured word behind a name; `kind` is a class of the style sheet."""
    return f'<span class="mark {kind}">{escape(text)}</span>'


class Row(NamedTuple):
    """A table row: its heading as HTML, then its cells as text."""

    html: str
    texts: Sequence[str]
    kind: str


def row(html: str, texts: Iterable[object], *, kind: str = "") -> Row:
    return Row(html, [str(text) for text in texts], kind)


def table(
    texts: Sequence[str],
    rows: Iterable[Row],
    *,
    groups: Mapping[str, int] | None = None,
    caption: str = "",
    kind: str = "",
) -> str:
    """A table of `row`s. `texts` are the headings of its columns, or none; `groups` = {heading above the last columns:
    how many of them}. On a telephone a row is a card, and each of its cells has its heading before it."""
    caption_html = f"<caption>{escape(caption)}</caption>" if caption else ""
    spans = groups or {}
    free = len(texts) - sum(spans.values())
    names = [""] * free + [name for name, span in spans.items() for _ in range(span)]
    plain = {"", next(iter(spans), "")}  # the first group needs no name: its headings are read first
    labels = [text if name in plain else f"{text}, {name.lower()}" for text, name in zip(texts, names, strict=True)]
    heads = (f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>' for name, span in spans.items())
    above = f"<tr>{'<td></td>' * free}{''.join(heads)}</tr>" if spans else ""
    cells = "".join(
        f'<th scope="col" data-label="{escape(label)}">{escape(text)}</th>'
        for text, label in zip(texts, labels, strict=True)
    )
    head_html = f"<thead>{above}<tr>{cells}</tr></thead>" if cells else ""
    body = "".join(_row(its, labels[1:]) for its in rows)
    return f'<table class="{kind}">{caption_html}{head_html}<tbody>{body}</tbody></table>'


def _row(its: Row, labels: Sequence[str]) -> str:
    named = [f' data-label="{escape(label)}"' for label in labels] or [""] * len(its.texts)
    cells = "".join(
        f"<td{' class=none' if text == NONE else ''}{label}>{escape(text)}</td>"
        for label, text in zip(named, its.texts, strict=True)
    )
    return f'<tr class="{its.kind}"><th scope="row">{its.html}</th>{cells}</tr>'


def db(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} dB".replace("-", "−")


def signed_db(value: float) -> str:
    """`+0.50 dB`; `+0.00 dB` also for less than nothing."""
    return f"{value:+z.2f} dB".replace("-", "−")


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 site`, `2 sites`; `nouns` where the plural is not an added s."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def words(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; of at least one item."""
    *front, last = items
    return f"{', '.join(front)} and {last}" if front else last
