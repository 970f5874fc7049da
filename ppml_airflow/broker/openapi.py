"""`python -m ppml_airflow.broker.openapi FILE` writes the API's OpenAPI document. Needs no broker, no key."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ppml_airflow.broker.service.api import create_app, openapi


def write(path: Path) -> None:
    """Write the document to a file."""
    document = openapi(create_app(None, callers=dict))  # type: ignore[arg-type]  # routes are only described
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
