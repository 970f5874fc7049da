"""One home for the pipelines that need no home of their own: its images and its engine's caches are made once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import Commands, processes_of
from tests.support.ready_images import ready_images, take_over_images


@pytest.fixture(scope="session")
def ppml() -> Iterator[Commands]:
    """The command line on that home; at the end no process of it is left."""
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    take_over_images(home, *ready_images())
    yield Commands(home)
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []
