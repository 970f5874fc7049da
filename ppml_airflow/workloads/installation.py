"""What of a trusted image a workload runs on: its environment, bytecode, Java, jars. All of it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ppml_airflow.errors import ConfigurationError

SET_UP_AGAIN = "set the image up again"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInstallation:
    """Where the parts of an image lie.

    Args:
        environment: the environment in which jobs run: the engine's own where the image has one, else the guest's.
        java_home: a Java runtime, 17 or later; None if the image needs none.
        jars: the folder of the jars that were built from `jvm/`.
        bytecode: folder with the environment's compiled modules, for `PYTHONPYCACHEPREFIX`; none are ever written.
    """

    environment: Path
    java_home: Path | None
    jars: Path
    bytecode: Path | None = None

    @classmethod
    def of_image(cls, folder: Path, *, java_home: Path | None) -> ImageInstallation:
        """The parts of an image that was set up in this folder."""
        engine = folder / "engine"
        return cls(
            environment=engine if engine.is_dir() else folder / "env",
            java_home=java_home,
            jars=folder / "image",
            bytecode=folder / "bytecode",
        )

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.environment / "bin" / "python"

    @property
    def java(self) -> Path:
        """The Java launcher.

        Raises:
            ConfigurationError: the image was set up without Java.
        """
        if self.java_home is None:
            raise ConfigurationError("image was set up without Java", code="no_java", hint=SET_UP_AGAIN)
        return self.java_home / "bin" / "java"

    def package(self, name: str) -> Path:
        """The folder of a package of the environment.

        Raises:
            ConfigurationError: it is not installed.
        """
        found = next(self.environment.glob(f"lib/python3.*/site-packages/{name}"), None)
        if found is None:
            raise ConfigurationError(f"environment {self.environment} has no {name}", hint=SET_UP_AGAIN)
        return found

    def require(self, *files: Path) -> None:
        """Refuse an installation that lacks one of these.

        Raises:
            ConfigurationError: names the missing file.
        """
        for file in files:
            if not file.exists():
                raise ConfigurationError(f"image has no {file}", hint=SET_UP_AGAIN)
