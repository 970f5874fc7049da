"""Build `build/ppml-spark.jar` from `src` and `resources`, against the Spark of an image's environment.

The same sources and JDK give the same bytes: entries are sorted and carry one fixed time, so that the jar, which is
part of what is measured, does not change from build to build.

    python jvm/build.py PYTHON_ENVIRONMENT [--java-home JAVA_HOME] [--output JAR]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
EPOCH = (1980, 1, 1, 0, 0, 0)


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description="Build the jar with the Java classes of ppml_airflow.")
    parser.add_argument("environment", type=Path, help="Python environment with pyspark, such as images/spark/env")
    parser.add_argument("--java-home", type=Path, default=os.environ.get("JAVA_HOME"), help="a JDK; else javac of PATH")
    parser.add_argument("--output", type=Path, default=HERE / "build" / "ppml-spark.jar")
    arguments = parser.parse_args()
    build(environment=arguments.environment, java_home=arguments.java_home, output=arguments.output)


def build(*, environment: Path, java_home: Path | None, output: Path) -> None:
    """Compile for Java 17 and pack; the jar appears whole or not at all."""
    jars = next(environment.glob("lib/python3.*/site-packages/pyspark/jars"), None)
    if jars is None:
        raise SystemExit(f"environment {environment} has no pyspark")
    javac = str(java_home / "bin" / "javac") if java_home else "javac"
    with tempfile.TemporaryDirectory() as classes:
        sources = [str(source) for source in sorted((HERE / "src").rglob("*.java"))]
        options = ["--release", "17", "-proc:none", "-encoding", "UTF-8", "-cp", f"{jars}/*", "-d", classes]
        if subprocess.run([javac, *options, *sources], check=False).returncode != 0:
            raise SystemExit("javac failed")
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".partial")
        _pack([Path(classes), HERE / "resources"], partial)
        partial.replace(output)


def _pack(folders: list[Path], jar: Path) -> None:
    entries = {
        file.relative_to(folder).as_posix(): file for folder in folders for file in folder.rglob("*") if file.is_file()
    }
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF", EPOCH), "Manifest-Version: 1.0\r\n\r\n")
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), entries[name].read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
