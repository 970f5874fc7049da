"""The eight tables of TPC-H, as tpchgen-cli makes them at the scale factor that a run asks for.

Source: TPC Benchmark H, https://www.tpc.org/tpch; tpchgen-cli 4, whose random text is not that of TPC's own dbgen.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
READY = ("0.01", "0.1")
"""Scale factors that are made in any case, so that a run from the UI's form finds its tables."""


def path_of(table: str) -> str:
    """Where a table lies among the sources; the param stands in braces."""
    return f"tpch-{{scale_factor}}/{table}.parquet"


def write(draft: Path) -> None:
    """Write `tpch-SCALE/.TABLE.parquet`, and the table at the other scale factors that are to be ready.

    Raises:
        ImportError: tpchgen-cli is not installed.
    """
    table = draft.stem.removeprefix(".")
    make(table, scale_factor=draft.parent.name.removeprefix("tpch-"), path=draft)
    for ready in READY:
        path = draft.parent.with_name(f"tpch-{ready}") / f"{table}.parquet"
        if path.parent != draft.parent and not path.exists():
            path.parent.mkdir(exist_ok=True)
            make(table, scale_factor=ready, path=path)


def make(table: str, *, scale_factor: str, path: Path) -> None:
    """Make one table, whole or not at all.

    Raises:
        ImportError: tpchgen-cli is not installed.
    """
    tool = Path(sys.executable).with_name("tpchgen-cli")
    if not tool.exists():
        raise ImportError(name="tpchgen-cli")
    with tempfile.TemporaryDirectory(dir=path.parent) as made:
        arguments = ("parquet", "--quiet", "--scale-factor", scale_factor, "--tables", table, "--output-dir", made)
        subprocess.run([tool, *arguments], check=True, stdin=subprocess.DEVNULL)
        (Path(made) / f"{table}.parquet").rename(path)
