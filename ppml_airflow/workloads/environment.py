"""The environment of a job's processes: nothing inherited; what every engine has, and what the approved step lists.

Refuses by name what would change which code runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.installation import ImageInstallation

_REFUSED_NAMES = re.compile(
    r"(LD_|PYTHON|PYSPARK_|SPARK_|HADOOP_|JAVA_|JDK_|_JAVA_|PPML_|GLIBC_|MALLOC_).*|CLASSPATH|PATH|HOME|TMPDIR|LANG|IFS",
    re.IGNORECASE,
)


def process_environment(
    private: Path, *, installation: ImageInstallation, code: Path, approved: Mapping[str, str]
) -> dict[str, str]:
    """The variables of a job's processes, of whatever engine.

    Raises:
        ConfigurationError: the step lists a variable that would change what code runs.
    """
    for name in approved:
        if _REFUSED_NAMES.fullmatch(name) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigurationError(
                f"environment variable {name} is refused: it could change which code runs",
                hint="use a name of your own, or a param",
            )
    bytecode = {"PYTHONPYCACHEPREFIX": str(installation.bytecode)} if installation.bytecode else {}
    java = {"JAVA_HOME": str(installation.java_home)} if installation.java_home else {}
    own = {
        "PATH": f"{installation.environment / 'bin'}:/usr/bin:/bin",
        "HOME": str(private),
        "TMPDIR": str(private / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return {**approved, **bytecode, **java, **own}
