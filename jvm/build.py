"""Build the jar of an engine, `build/ppml-spark.jar` or `build/ppml-flink.jar`, against what an environment holds.

The same sources and JDK give the same bytes: entries are sorted and carry one fixed time, so that the jar, which is
part of what is measured, does not change from build to build. Flink hides its planner in a jar within a jar; our judge
needs it on the class path, so it is laid beside our jar.

    python jvm/build.py PYTHON_ENVIRONMENT [--engine spark|flink] [--java-home JAVA_HOME] [--output JAR]
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
PACKAGES = {"spark": "pyspark", "flink": "pyflink"}
PLANNER = "flink-table-planner.jar"
SERVICES = {
    "spark": {
        "META-INF/services/org.apache.spark.scheduler.ExternalClusterManager": b"ppml.spark.SetClusterManager\n",
    },
    "flink": {"META-INF/services/org.apache.flink.table.factories.Factory": b"ppml.flink.StreamTables\n"},
}
"""By which names an engine finds our classes."""


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description="Build the jar with the Java classes of ppml_airflow.")
    parser.add_argument("environment", type=Path, help="Python environment with the engine, such as images/spark/env")
    parser.add_argument("--engine", choices=PACKAGES, default="spark")
    parser.add_argument("--java-home", type=Path, default=os.environ.get("JAVA_HOME"), help="a JDK; else javac of PATH")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    output = given.output or HERE / "build" / f"ppml-{given.engine}.jar"
    build(environment=given.environment, java_home=given.java_home, output=output, engine=given.engine)


def build(*, environment: Path, java_home: Path | None, output: Path, engine: str = "spark") -> None:
    """Compile for Java 17 and pack; the jar appears whole or not at all."""
    package = next(environment.glob(f"lib/python3.*/site-packages/{PACKAGES[engine]}"), None)
    if package is None:
        raise SystemExit(f"environment {environment} has no {PACKAGES[engine]}")
    javac = str(java_home / "bin" / "javac") if java_home else "javac"
    output.parent.mkdir(parents=True, exist_ok=True)
    class_path = os.pathsep.join(_spark_jars(package) if engine == "spark" else _flink_jars(package, output.parent))
    with tempfile.TemporaryDirectory() as classes:
        sources = [str(source) for source in sorted((HERE / "src" / "ppml" / engine).rglob("*.java"))]
        options = ["--release", "17", "-proc:none", "-nowarn", "-encoding", "UTF-8", "-cp", class_path, "-d", classes]
        if subprocess.run([javac, *options, *sources], check=False).returncode != 0:
            raise SystemExit("javac failed")
        partial = output.with_suffix(".partial")
        entries = _entries(Path(classes)) | _entries(HERE / "resources", below=f"ppml/{engine}") | SERVICES[engine]
        _pack(entries, partial)
        partial.replace(output)


def _spark_jars(package: Path) -> list[str]:
    return [f"{package / 'jars'}/*"]


def _flink_jars(package: Path, folder: Path) -> list[str]:
    loader = next((package / "lib").glob("flink-table-planner-loader-*.jar"))
    with zipfile.ZipFile(loader) as archive:
        (folder / PLANNER).write_bytes(archive.read(PLANNER))
    found = [*(package / "lib").glob("*.jar"), *(package / "opt").glob("flink-python-*.jar")]
    return [str(folder / PLANNER), *sorted(str(jar) for jar in found if jar != loader)]


def _entries(root: Path, *, below: str = "") -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes() for file in (root / below).rglob("*") if file.is_file()
    }


def _pack(entries: dict[str, bytes], jar: Path) -> None:
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF", EPOCH), "Manifest-Version: 1.0\r\n\r\n")
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), entries[name], zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
