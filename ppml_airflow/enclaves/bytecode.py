"""Compile modules ahead, with unchecked hashes: a guest runs what was measured, and writes nothing.

Run as a program by the interpreter that will read the bytecode, any from 3.9 on, with nothing but its standard library:

    python -I -S bytecode.py < JOBS

JOBS is a JSON list of [source, target, path that tracebacks name]. Bytecode that is there already for the same source
is kept. A module that does not compile (a template, a file for another version) is left out: the interpreter would
refuse it, too, if it were ever asked for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def main() -> None:
    """Compile what standard input lists."""
    jobs = json.load(sys.stdin)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(compile_module, jobs, chunksize=50):
            pass


def compile_module(job: list[str]) -> None:
    """Compile one module."""
    source, target, named = job
    unchecked = (1).to_bytes(4, "little")
    expected = importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(Path(source).read_bytes())
    if Path(target).is_file() and Path(target).read_bytes()[: len(expected)] == expected:
        return
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    try:
        py_compile.compile(source, target, named, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, ValueError):
        return


if __name__ == "__main__":
    main()
