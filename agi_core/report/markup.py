"""Pieces of HTML and of prose. Arguments called `text` are escaped here; those called `html` are HTML already."""

from collections.abc import Iterable, Sequence
from html import escape


def section(title: str, html: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{html}</section>\n"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def bullets(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def plot(uri: str, *, alt: str) -> str:
    return f'<img class="plot" src="{uri}" alt="{escape(alt)}">'


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


def mark(kind: str, text: str) -> str:
    """A coloured word behind a name; `kind` is a class of the style sheet."""
    return f'<span class="mark {kind}">{escape(text)}</span>'


def table(texts: Iterable[str], rows: Iterable[str], *, groups: str = "", caption: str = "", kind: str = "") -> str:
    """A table of `row`s. `texts` are the headings of its columns, or none; `groups` is a row of HTML above them."""
    caption_html = f"<caption>{escape(caption)}</caption>" if caption else ""
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in texts)
    head_html = f"<thead>{groups}<tr>{cells}</tr></thead>" if cells else ""
    return f'<table class="{kind}">{caption_html}{head_html}<tbody>{"".join(rows)}</tbody></table>'


def row(html: str, texts: Iterable[object], *, kind: str = "") -> str:
    """A table row: its heading as HTML, then its cells as text."""
    cells = "".join(f"<td>{escape(str(text))}</td>" for text in texts)
    return f'<tr class="{kind}"><th scope="row">{html}</th>{cells}</tr>'


def db(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} dB".replace("-", "−")


def signed_db(value: float) -> str:
    return f"{value:+.2f} dB".replace("-", "−")


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 site`, `2 sites`; `nouns` where the plural is not an added s."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def words(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; of at least one item."""
    *front, last = items
    return f"{', '.join(front)} and {last}" if front else last
