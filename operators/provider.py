"""What Airflow learns about this provider: its connection type with a form, and `@task.enclave`. Imports no Airflow."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": ["string", "null"]}
_FIELDS = {
    "storage": "Folder of the sealed datasets",
    "quoting": "Socket of the quoting service",
    "owner_agent": "Address of the owner's agent",
    "model_owner_agent": "Address of a second owner's agent, if there is one",
    "recipient_agent": "Address of the recipient's agent",
    "passports": "Folder of the passports",
    "runtime": "Where enclaves run whose step does not say it: process or docker",
    "patience_s": "Seconds to wait for a service that does not answer",
}


def get_provider_info() -> dict[str, Any]:
    """The provider's entry point (`apache_airflow_provider`)."""
    return {
        "package-name": "ppml-airflow",
        "name": "PPML",
        "description": "Trusted pipelines: sealed data, attestation gates, enclaves and passports.",
        "task-decorators": [{"name": "enclave", "class-name": "ppml_airflow.operators.python.enclave_task"}],
        "connection-types": [
            {
                "connection-type": "ppml",
                "hook-class-name": "ppml_airflow.operators.hook.PpmlHook",
                "hook-name": "PPML key broker",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "port"],
                    "relabeling": {"host": "Broker", "password": "Token"},
                    "placeholders": {
                        "host": "https://broker:8443 or unix:/run/ppml/broker.sock",
                        "password": "the token that the broker's tokens.json names",
                    },
                },
                "conn-fields": {name: {"label": label, "schema": _TEXT} for name, label in _FIELDS.items()},
            }
        ],
    }
