"""Text of strangers on a terminal: what does not show itself is spelled out.

A terminal obeys control characters: they move the cursor, erase lines, turn text around. So a query could hide a part
of itself from the owner who approves it, and a passport could print a verdict of its own.
"""

from __future__ import annotations


def plain(text: str, *, keep: str = "") -> str:
    """The text with each character that does not show itself written as an escape, except those in `keep`."""
    return "".join(one if one.isprintable() or one in keep else one.encode("unicode_escape").decode() for one in text)


def plain_lines(text: str) -> list[str]:
    """The lines of a text, tabs kept."""
    return [plain(line, keep="\t") for line in text.split("\n")]
