"""What lies in the folder of an image that was set up: `image/` with its domain and what of the host belongs to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError

DOMAIN = "domain.json"
INSTALLATION = "installation.json"
SET_UP_HINT = "ppml image set-up"


class Interpreter(Document, frozen=True, kw_only=True):
    """The interpreter behind an environment: real paths on the host."""

    executable: str
    standard_library: str
    libraries: tuple[str, ...]
    """Further files that it runs on: `libpython`, a zipped standard library."""


class Installation(Document, frozen=True, kw_only=True):
    """What of the host belongs to an image. Lies in the image's own folder, so it is measured itself."""

    name: str
    environments: Mapping[str, Interpreter]
    """The interpreter of `env`, the guest's environment, and of `engine` where an engine has one of its own."""
    java_home: str | None


def load_installation(folder: Path) -> Installation:
    """Read what set-up noted about the host.

    Raises:
        ConfigurationError: no image is set up here, or its environment has another interpreter than was noted.
    """
    try:
        data = (folder / "image" / INSTALLATION).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"no trusted image is set up in {folder}", code="image_missing", hint=SET_UP_HINT
        ) from error
    installation = canonical.decode(data, into=Installation)
    for name, noted in installation.environments.items():
        interpreter = os.path.realpath(folder / name / "bin" / "python")
        if interpreter != noted.executable:
            raise ConfigurationError(
                f"image {installation.name} runs {interpreter}, but was set up with {noted.executable}",
                code="image_changed",
                hint=SET_UP_HINT,
            )
    return installation


def load_domain(folder: Path) -> Domain:
    """The domain that is measured with an image, from the image's folder.

    Raises:
        ConfigurationError: the image has none.
    """
    try:
        data = (folder / "image" / DOMAIN).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"image {folder} has no {DOMAIN}", hint=SET_UP_HINT) from error
    return canonical.decode(data, into=Domain)
