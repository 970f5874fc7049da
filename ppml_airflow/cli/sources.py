"""The demo's source files: real data, the RAND Health Insurance Experiment, as statsmodels ships it.

`visits` has one row per person and year (20,190 of them), `plans` one per insurance plan, named by what its two
columns say. Source: statsmodels.datasets.randhie, public domain.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from ppml_airflow.errors import ConfigurationError


def write_demo_sources(folder: Path) -> dict[str, Path]:
    """Write visits.csv and plans.csv, each whole or not at all; return them by table name.

    Raises:
        ConfigurationError: statsmodels is not installed.
    """
    try:
        from statsmodels.datasets import randhie
    except ImportError as error:
        raise ConfigurationError("statsmodels is not installed", hint="pip install 'ppml-airflow[demo]'") from error
    visits = randhie.load_pandas().data
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"visits": folder / "visits.csv", "plans": folder / "plans.csv"}
    drafts = {name: path.with_suffix(".tmp") for name, path in sources.items()}
    visits.to_csv(drafts["visits"], index=False)
    with drafts["plans"].open("w", newline="") as file:
        plans = csv.writer(file, lineterminator="\n")
        plans.writerow(("coinsurance", "individual_deductible", "plan"))
        for lncoins, idp in sorted(set(zip(visits["lncoins"], visits["idp"], strict=True))):
            coinsurance = round(math.exp(lncoins)) - 1
            plans.writerow((coinsurance, int(idp), plan_name(coinsurance, has_deductible=bool(idp))))
    for name, path in sources.items():
        drafts[name].replace(path)
    return sources


def plan_name(coinsurance: int, *, has_deductible: bool) -> str:
    """What a plan is called: the patient's share in per cent, and whether a deductible comes first."""
    share = "free care" if coinsurance == 0 else f"{coinsurance}% coinsurance"
    return f"{share}, individual deductible" if has_deductible else share
