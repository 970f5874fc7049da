"""The demos' own streams, written as records, one JSON object a line.

`lines`: every line of this project's own documents (README.md and docs/), in order. `clicks`: 20,000 made-up clicks on
a day, the same every time, in two partitions of three segments each; like real ones they come up to 20 s late.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ppml_airflow.cli.home import require_checkout

CLICKS, PARTITIONS, SEGMENTS = 20_000, 2, 3
LATEST_S = 20.0

_PAGES = ("/", "/plans", "/doctors", "/doctors/map", "/claims", "/claims/new", "/help")
_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def write_lines(path: Path) -> None:
    """Write a `.jsonl` file of lines, each with its document and number."""
    checkout = require_checkout()
    documents = [checkout / "README.md", *sorted((checkout / "docs").rglob("*.md"))]
    _write(
        path,
        (
            {"document": document.relative_to(checkout).as_posix(), "number": number, "line": line}
            for document in documents
            for number, line in enumerate(document.read_text().splitlines(), start=1)
        ),
    )


def write_clicks(path: Path) -> None:
    """Write a folder with a folder for each partition and a `.jsonl` file for each segment."""
    for partition in range(PARTITIONS):
        folder = path / str(partition)
        folder.mkdir(parents=True)
        clicks = _clicks(partition)
        share = -(-len(clicks) // SEGMENTS)
        for segment in range(SEGMENTS):
            _write(folder / f"{segment:05d}.jsonl", clicks[segment * share : (segment + 1) * share])


def _clicks(partition: int) -> list[dict[str, object]]:
    """The clicks of a partition, in the order in which they arrived."""
    chance = random.Random(partition)  # noqa: S311 (made-up data, the same every time)
    arrived = []
    for _ in range(CLICKS // PARTITIONS):
        at = _DAY + timedelta(milliseconds=chance.randrange(86_400_000))
        page = chance.choices(_PAGES, weights=range(len(_PAGES), 0, -1))[0]
        visitor = int(chance.paretovariate(0.6)) % 500
        arrived.append((at + timedelta(seconds=chance.uniform(0, LATEST_S)), at, page, visitor))
    return [
        {"at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), "page": page, "visitor": visitor}
        for _, at, page, visitor in sorted(arrived)
    ]


def _write(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
