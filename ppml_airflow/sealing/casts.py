"""Which values of a column a conversion refuses. Arrow says only that one did, and quotes it; here rows are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

Convert = Callable[[pa.Array], pa.Array]
"""A conversion of a column; `pa.ArrowInvalid` means that some value does not fit."""

_SLICE_ROWS = 4096


def misfits(values: pa.Array, *, convert: Convert) -> Iterator[int]:
    """Yield the positions of the values that do not convert, in order, by halving what does not convert as a whole.

    In slices, because Arrow spends microseconds on every misfit, also after the first one.
    """
    for start in range(0, len(values), _SLICE_ROWS):
        yield from _halve(values, start, min(start + _SLICE_ROWS, len(values)), convert=convert)


def _halve(values: pa.Array, start: int, end: int, *, convert: Convert) -> Iterator[int]:
    pending = [(start, end)]
    while pending:
        start, end = pending.pop()
        try:
            convert(values[start:end])
        except pa.ArrowInvalid:
            if end - start == 1:
                yield start
            else:
                middle = (start + end) // 2
                pending += [(middle, end), (start, middle)]


def first_misfit(values: pa.Array, *, convert: Convert) -> int:
    """The position of the first value that does not convert."""
    return next(misfits(values, convert=convert))
