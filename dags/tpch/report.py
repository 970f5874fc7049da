"""The report of a run of TPC-H: one HTML page with a bar for each query, which needs nothing from the network."""

from __future__ import annotations

from html import escape
from statistics import median

SUPPLIERS_AT_SCALE_1 = 10_000
_BAR, _LABEL, _LENGTH = 18, 60, 640
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 52rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .1rem 1rem .1rem 0; text-align: right }
text { font: 12px system-ui, sans-serif } rect { fill: #5b6abf }
"""


def page(timings: list[tuple[str, int, float]], *, suppliers: int) -> str:
    """The page for timings of (query, pass, seconds); the bars are medians over the passes."""
    passes = max(number for _, number, _ in timings)
    by_query: dict[str, list[float]] = {}
    for query, _, seconds in timings:
        by_query.setdefault(query, []).append(seconds)
    medians = {query: median(seconds) for query, seconds in by_query.items()}
    title = f"TPC-H, scale factor {suppliers / SUPPLIERS_AT_SCALE_1:g}"
    summary = f"{len(medians)} queries on sealed tables, {passes} passes; all together {sum(medians.values()):.1f} s."
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(summary)} A bar is the median of a query in seconds.</p>"
        f"{chart(medians)}{table(by_query)}</html>"
    )


def chart(medians: dict[str, float]) -> str:
    """A bar for each query, as SVG."""
    longest = max(medians.values()) or 1.0
    bars = [
        f'<text x="0" y="{row * _BAR + 13}">{query}</text>'
        f'<rect x="{_LABEL}" y="{row * _BAR + 3}" width="{seconds / longest * _LENGTH:.1f}" height="{_BAR - 6}"/>'
        f'<text x="{_LABEL + 6 + seconds / longest * _LENGTH:.1f}" y="{row * _BAR + 13}">{seconds:.2f}</text>'
        for row, (query, seconds) in enumerate(medians.items())
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="median seconds of each query"'
        f' width="{_LABEL + _LENGTH + 60}" height="{len(medians) * _BAR}">{"".join(bars)}</svg>'
    )


def table(by_query: dict[str, list[float]]) -> str:
    """The figures of the chart."""
    rows = "".join(
        f"<tr><th>{query}<td>{median(seconds):.3f}<td>{min(seconds):.3f}<td>{max(seconds):.3f}"
        for query, seconds in by_query.items()
    )
    return f"<table><tr><th>query<th>median s<th>min s<th>max s{rows}</table>"
