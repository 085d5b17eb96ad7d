"""One small plot per site, all on the same axes, as HTML. Twenty lines in one plot cannot be told apart."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

WIDTH, HEIGHT, MARGIN = 200, 60, 3

Line = Mapping[int, float]  # {round: value}


def small_multiples(lines: Mapping[str, Line], *, caption: str, unit: str, decimals: int) -> str:
    """A panel for each {site: its line}, above the median over sites in grey. A line breaks where a round is missing.
    `caption` says what is shown; the limits of the axes are added."""
    rounds = sorted({n for line in lines.values() for n in line})
    values = [value for line in lines.values() for value in line.values()]
    low, high, first, last = min(values), max(values), rounds[0], rounds[-1]

    def point(n: int, value: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * (n - first) / max(last - first, 1)
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - low) / ((high - low) or 1)
        return f"{x:.1f} {y:.1f}"

    def path(line: Line) -> str:
        runs = [[point(n, line[n]) for n in run] for run in unbroken(line, rounds)]
        return "".join(f"M{run[0]}L{'L'.join(run)}" for run in runs)  # a round alone is a dot

    def told(value: float) -> str:
        return f"{value:.{decimals}f}".replace("-", "−") + unit

    common = path({n: median(line[n] for line in lines.values() if n in line) for n in rounds})
    panels = "".join(
        f"<figure><figcaption><b>{escape(site)}</b> {told(line[min(line)])} → {told(line[max(line)])}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(site)}">'
        f'<path class="common" d="{common}"/><path d="{path(line)}"/></svg></figure>'
        for site, line in lines.items()
        if line
    )
    axes = f"Every panel: round {first} to {last}, {told(low)} to {told(high)}. Grey: the median over sites."
    return f'<p class="soft">{escape(caption)} {axes}</p><div class="multiples">{panels}</div>'


def unbroken(line: Line, rounds: Sequence[int]) -> list[list[int]]:
    """The rounds of a line in runs without a gap; `rounds` are all that any line has."""
    runs: list[list[int]] = [[]]
    for n in rounds:
        if n in line:
            runs[-1].append(n)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
