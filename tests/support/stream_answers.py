"""What the shipped Flink DAGs should answer, computed from their sources in plain Python."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path


def records(source: Path) -> list[dict[str, object]]:
    """All records of a stream's source."""
    files = sorted(source.rglob("*.jsonl")) if source.is_dir() else [source]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def word_counts(lines: list[str], *, minimum: int, letters: int) -> dict[str, int]:
    """How often each word is used."""
    words = Counter(word for line in lines for word in re.findall(r"[a-z]+", line.lower()) if len(word) >= letters)
    return {word: count for word, count in words.items() if count >= minimum}


def page_windows(
    clicks: list[dict[str, object]], *, window_s: int, minimum_visitors: int
) -> dict[tuple[str, str], tuple[int, int]]:
    """Clicks and visitors by window (its start, as `YYYY-MM-DD hh:mm:ss`) and page."""
    visitors: defaultdict[tuple[str, str], list[object]] = defaultdict(list)
    for click in clicks:
        second = int(datetime.fromisoformat(str(click["at"])).timestamp()) // window_s * window_s
        start = datetime.fromtimestamp(second, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
        visitors[start, str(click["page"])].append(click["visitor"])
    return {
        key: (len(found), len(set(found))) for key, found in visitors.items() if len(set(found)) >= minimum_visitors
    }
