"""One small plot per site, all on the same axes, as HTML. Twenty lines in one plot cannot be told apart."""

from collections.abc import Mapping
from html import escape
from statistics import median

from agi_core.report.blocks import Line, places

WIDTH, HEIGHT, MARGIN = 200, 60, 3
MOST_PANELS = 24  # more are not looked at one by one


def small_multiples(lines: Mapping[str, Line], *, caption: str, unit: str, decimals: int) -> str:
    """A panel for each {site: its line}, above the median over sites in grey; of many sites, for those that end
    furthest from it. A line breaks where rounds are missing. `caption` says what is shown; the rest is added."""
    rounds = sorted({n for line in lines.values() for n in line})
    values = [value for line in lines.values() for value in line.values()]
    low, high, first, last = min(values), max(values), rounds[0], rounds[-1]

    def point(n: float, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * (n - first) / max(last - first, 1)
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / ((high - low) or 1)
        return f"{x:.1f} {y:.1f}"

    def path(line: Line) -> str:
        pieces = [[point(place.round, place.mean) for place in piece] for piece in places(line, rounds)]
        return "".join(f"M{piece[0]}L{'L'.join(piece)}" for piece in pieces)  # a round alone is a dot

    def band(line: Line) -> str:
        """From the smallest to the largest value of each place; nothing where a place is one round."""
        pieces = [piece for piece in places(line, rounds) if any(place.low < place.high for place in piece)]
        around = ([(p.round, p.high) for p in piece] + [(p.round, p.low) for p in piece[::-1]] for piece in pieces)
        shape = "".join(f"M{'L'.join(point(*corner) for corner in corners)}Z" for corners in around)
        return f'<path class="band" d="{shape}"/>' if shape else ""

    def told(value: float) -> str:
        return f"{value:.{decimals}f}".replace("-", "−") + unit

    over_sites = {n: median(line[n] for line in lines.values() if n in line) for n in rounds}
    common = path(over_sites)
    shown = _furthest({site: line for site, line in lines.items() if line}, over_sites)
    panels = "".join(
        f"<figure><figcaption><b>{escape(site)}</b> {told(line[min(line)])} → {told(line[max(line)])}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(site)}">'
        f'{band(line)}<path class="common" d="{common}"/><path d="{path(line)}"/></svg></figure>'
        for site, line in shown.items()
    )
    if len(shown) < len(lines):
        caption += f" Shown: the {len(shown)} of {len(lines)} sites that end furthest from the median over sites."
    axes = f"Every panel: round {first} to {last}, {told(low)} to {told(high)}. Grey: the median over sites."
    if 'class="band"' in panels:
        axes += " Line: mean of neighbouring rounds; pale: their smallest to largest value."
    return f'<p class="soft">{escape(caption)} {axes}</p><div class="multiples">{panels}</div>'


def _furthest(lines: Mapping[str, Line], over_sites: Line) -> dict[str, Line]:
    """The lines of which a panel is shown, in their order."""

    def distance(site: str) -> float:
        end = max(lines[site])
        return abs(lines[site][end] - over_sites[end])

    chosen = {*sorted(lines, key=distance, reverse=True)[:MOST_PANELS]}
    return {site: line for site, line in lines.items() if site in chosen}
