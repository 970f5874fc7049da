from __future__ import annotations

import subprocess
import sys


def test_a_guest_brings_neither_airflow_nor_a_server_nor_a_database_into_the_enclave() -> None:
    code = (
        "import sys, ppml_airflow.guest.__main__, ppml_airflow.workloads.registry; "
        "print(sorted({'airflow', 'fastapi', 'sqlalchemy', 'uvicorn', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
