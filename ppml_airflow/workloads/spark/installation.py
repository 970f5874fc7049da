"""Where an image keeps what runs Spark: its Python environment with pyspark, a Java runtime, our jar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ppml_airflow.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkInstallation:
    """The parts of a Spark image that lie outside this package.

    Args:
        environment: folder of the Python environment in which pyspark is installed.
        java_home: a Java runtime, 17 or later.
        jar: `ppml-spark.jar`, built from `jvm/`.
        bytecode: folder with the environment's compiled modules, for Python jobs; none are ever written.
    """

    environment: Path
    java_home: Path
    jar: Path
    bytecode: Path | None = None

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.environment / "bin" / "python"

    @property
    def java(self) -> Path:
        """The Java launcher."""
        return self.java_home / "bin" / "java"

    @property
    def spark_home(self) -> Path:
        """The folder of the pyspark package.

        Raises:
            ConfigurationError: the environment has no pyspark.
        """
        found = next(self.environment.glob("lib/python3.*/site-packages/pyspark"), None)
        if found is None:
            raise ConfigurationError(f"environment {self.environment} has no pyspark", hint="set the image up again")
        return found

    def require_complete(self) -> None:
        """Refuse an installation that cannot start.

        Raises:
            ConfigurationError: names the missing file.
        """
        for file in (self.java, self.jar, self.python, self.spark_home / "jars"):
            if not file.exists():
                raise ConfigurationError(f"spark image has no {file}", hint="set the image up again")
