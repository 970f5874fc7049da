"""`python -I -B -m ppml_airflow.enclaves.containers.inside NAME`: a step of an image's build, run within it.

Does for /opt/ppml what a set-up does for an image of the `process` runtime: strips the environment, notes interpreter
and Java runtime in `installation.json`, compiles every module into `bytecode/`.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from ppml_airflow import canonical
from ppml_airflow.enclaves import environments
from ppml_airflow.enclaves.installation import INSTALLATION, Installation

ROOT = Path("/opt/ppml")


def main(name: str) -> None:
    """Finish the image of this name."""
    env = ROOT / "env"
    environments.strip(env)
    java = shutil.which("java")
    installation = Installation(
        name=name,
        environments={"env": environments.ask_interpreter(env)},
        java_home=None if java is None else str(Path(os.path.realpath(java)).parent.parent),
    )
    (ROOT / "image").mkdir()
    (ROOT / "image" / INSTALLATION).write_bytes(canonical.encode(installation))
    bytecode = ROOT / "bytecode"
    bytecode.mkdir()
    environments.compile_sources(env, installed_at=env, bytecode=bytecode)


if __name__ == "__main__":
    main(sys.argv[1])
