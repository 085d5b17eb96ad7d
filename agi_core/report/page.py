"""The frame of a page: one HTML file that needs nothing from a network. Its one script sorts tables and turns pages,
and is the only one that the page lets a browser run."""

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template

from agi_core.host import atomic
from agi_core.report.markup import plural


def write_page(
    path: Path,
    *,
    title: str,
    kicker: str,
    lead: str,
    contents: str,
    body_html: str,
    notices_html: str = "",
    tiles_html: str = "",
    below: str = "",
) -> None:
    """Write the page. `contents` says in its last line whether it holds patients' data.

    Raises:
        RunError: the file cannot be written.
    """
    script = resource("page.js")
    page = Template(resource("page.html")).substitute(
        title=escape(title),
        kicker=escape(kicker),
        lead=escape(lead),
        below=escape(below),
        contents=contents,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=resource("style.css"),
        notices=notices_html,
        tiles=tiles_html,
        body=body_html,
    )
    atomic.write_text(path, page)


def origin_notice(*, synthetic: bool | None, anatomies: int | None, deployed: bool) -> str:
    """Whether the scans are synthetic, as far as is known (None: it is not)."""
    if synthetic:
        brains = f" ({plural(anatomies, 'anatomy', 'anatomies')})" if anatomies else ""
        meaning = "every scan is simulated, and no figure here says how the model does on patients."
        return f'<p class="notice synthetic"><strong>SYNTHETIC DATA{brains}</strong>: {meaning}</p>'
    if synthetic is False:
        meaning = "this page shows slices of test subjects' scans. Keep it where the scans are, and give it to nobody."
        return f'<p class="notice patient"><strong>PATIENT DATA</strong>: {meaning}</p>'
    known = "is known to the hospitals alone" if deployed else "is noted when the run ends"
    return f'<p class="notice unknown">Whether the scans are real or synthetic {known}.</p>'


def resource(name: str) -> str:
    """A file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
