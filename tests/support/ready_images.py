"""Trusted images for a fresh home: environments that are set up under `PPML_HOME` already are taken over by hard links.

What is taken over has another domain, so `ppml` sets the image up anew and keeps the environment alone. Of container
images it is what takes long to fetch that is shared: base systems and wheels.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def ready_images() -> tuple[str, ...]:
    """The names of the images that are set up here."""
    return tuple(sorted(path.name for path in _images().glob("[!.]*") if path.is_dir()))


def require_image(name: str) -> None:
    """Skip the test where an image is not set up: not every machine has the parts for it."""
    if name not in ready_images():
        pytest.skip(f"no image {name}: {_images() / name} does not exist (ppml image set-up {name})")


def take_over_images(home: Path, *names: str) -> None:
    """Lay the images of these names into a home, where there are any."""
    for name in names:
        found, target = _images() / name, home / "images" / name
        if found.is_dir() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            same_disk = found.stat().st_dev == target.parent.stat().st_dev
            shutil.copytree(found, target, symlinks=True, copy_function=os.link if same_disk else shutil.copy2)


def share_container_parts(home: Path) -> None:
    """Have a home use and fill the base systems and wheelhouses of `PPML_HOME`."""
    images = home / "images"
    images.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (".bases", ".wheelhouses"):
        (_images() / name).mkdir(parents=True, exist_ok=True)
        (images / name).symlink_to(_images() / name)


def _images() -> Path:
    return Path(os.environ.get("PPML_HOME", CHECKOUT / ".ppml")) / "images"
