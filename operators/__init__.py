"""Operators, sensors and hooks for Apache Airflow. Import as `ppml_airflow.operators`; each is loaded when used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppml_airflow.operators.decrypt import DecryptOperator
    from ppml_airflow.operators.encrypt import EncryptOperator
    from ppml_airflow.operators.flink import TrustedFlinkOperator
    from ppml_airflow.operators.hook import PpmlHook
    from ppml_airflow.operators.inference import EnclaveInferenceOperator
    from ppml_airflow.operators.passport import PassportOperator
    from ppml_airflow.operators.python import TrustedPythonOperator
    from ppml_airflow.operators.sensors import AttestationSensor
    from ppml_airflow.operators.spark import TrustedSparkSubmitOperator

__all__ = [
    "AttestationSensor",
    "DecryptOperator",
    "EnclaveInferenceOperator",
    "EncryptOperator",
    "PassportOperator",
    "PpmlHook",
    "TrustedFlinkOperator",
    "TrustedPythonOperator",
    "TrustedSparkSubmitOperator",
]

_MODULES = {
    "AttestationSensor": "sensors",
    "DecryptOperator": "decrypt",
    "EnclaveInferenceOperator": "inference",
    "EncryptOperator": "encrypt",
    "PassportOperator": "passport",
    "PpmlHook": "hook",
    "TrustedFlinkOperator": "flink",
    "TrustedPythonOperator": "python",
    "TrustedSparkSubmitOperator": "spark",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
