"""The demos' own sources: real data, as packages ship it. One more dataset = one function and one line in `SOURCES`.

`visits` and `plans`: the RAND Health Insurance Experiment, one row per person and year (20,190 of them) and one per
insurance plan, named by what its two columns say. Source: statsmodels.datasets.randhie, public domain.
`tumours`: Breast Cancer Wisconsin (Diagnostic), 569 tumours, 30 measures each, and whether they are malignant.
`digits`: 1,797 handwritten digits, 64 pixels each. Source of both: sklearn.datasets, from UCI, CC BY 4.0.
The eight tables of TPC-H: see `tpch_tables`. `detector` and `samples`: see `detector`. `clicks` and `lines`: see
`stream_sources`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ppml_airflow.cli import detector, tpch_tables
from ppml_airflow.cli.stream_sources import write_clicks, write_lines
from ppml_airflow.domain.documents import ParamValue
from ppml_airflow.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd


def demo_source(dataset: str, *, folder: Path, params: Mapping[str, ParamValue] = MappingProxyType({})) -> Path:
    """The demo's own source of a dataset, written if it is not there yet: whole or not at all.

    Args:
        dataset: which.
        folder: where the demo's sources lie.
        params: of the run; `{name}` in a source's path stands for one, there and in the owner's agent.

    Raises:
        ConfigurationError: the demo has none, or the package that carries it is not installed.
    """
    if dataset not in SOURCES:
        raise ConfigurationError(f"dataset {dataset} has no source", hint=f"give --source {dataset}=FILE")
    name, write = SOURCES[dataset]
    try:
        path = folder / name.format(**params)
    except KeyError as error:
        raise ConfigurationError(
            f"the demo's own source of {dataset} wants the param {error.args[0]}",
            hint=f"give --source {dataset}=FILE, or declare the param as dags/tpch.py does",
        ) from error
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}")
        try:
            write(draft)
        except ImportError as error:
            raise ConfigurationError(
                f"{error.name} is not installed", hint="pip install 'ppml-airflow[demo]'"
            ) from error
        draft.rename(path)
    return folder / name


def plan_name(coinsurance: int, *, has_deductible: bool) -> str:
    """What a plan is called: the patient's share in per cent, and whether a deductible comes first."""
    share = "free care" if coinsurance == 0 else f"{coinsurance}% coinsurance"
    return f"{share}, individual deductible" if has_deductible else share


def _visits() -> pd.DataFrame:
    from statsmodels.datasets import randhie

    found: pd.DataFrame = randhie.load_pandas().data
    return found


def _write_visits(path: Path) -> None:
    _visits().to_csv(path, index=False)


def _write_plans(path: Path) -> None:
    visits = _visits()
    with path.open("w", newline="") as file:
        plans = csv.writer(file, lineterminator="\n")
        plans.writerow(("coinsurance", "individual_deductible", "plan"))
        for lncoins, idp in sorted(set(zip(visits["lncoins"], visits["idp"], strict=True))):
            coinsurance = round(math.exp(lncoins)) - 1
            plans.writerow((coinsurance, int(idp), plan_name(coinsurance, has_deductible=bool(idp))))


def _write_tumours(path: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    tumours: pd.DataFrame = load_breast_cancer(as_frame=True).frame
    tumours = tumours.rename(columns=lambda name: name.replace(" ", "_"))
    tumours["malignant"] = 1 - tumours.pop("target")
    tumours.to_csv(path, index=False)


def _write_digits(path: Path) -> None:
    from sklearn.datasets import load_digits

    digits: pd.DataFrame = load_digits(as_frame=True).frame
    digits.rename(columns={"target": "digit"}).astype(int).to_csv(path, index=False)


SOURCES: Mapping[str, tuple[str, Callable[[Path], None]]] = {
    **{table: (tpch_tables.path_of(table), tpch_tables.write) for table in tpch_tables.TABLES},
    "clicks": ("clicks", write_clicks),
    "detector": ("detector", detector.write_detector),
    "digits": ("digits.csv", _write_digits),
    "lines": ("lines.jsonl", write_lines),
    "plans": ("plans.csv", _write_plans),
    "samples": ("samples.parquet", detector.write_samples),
    "tumours": ("tumours.csv", _write_tumours),
    "visits": ("visits.csv", _write_visits),
}
"""Dataset -> the name of its file or folder, and what writes it."""
