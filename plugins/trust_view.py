"""The Trust view: what the broker says of a run, beside the run in Airflow's UI.

It is Airflow's word: it shows and links. It cannot approve, revoke or release, and it shows no evidence; what an
auditor believes is the passport, checked offline by `ppml verify`. Every text is escaped: a reason may quote what a
stranger sent. The routes are guarded by Airflow's own permissions for the DAG run.
"""

from __future__ import annotations

from pathlib import Path

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.plugins_manager import AirflowPlugin
from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape

from ppml_airflow.errors import PpmlError
from ppml_airflow.operators.hook import PpmlHook
from ppml_airflow.protocol.messages import RunView

_PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True))

app = FastAPI(title="ppml trust view", docs_url=None, redoc_url=None, openapi_url=None)


@app.get(
    "/dags/{dag_id}/runs/{run_id}",
    dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN))],
    response_class=HTMLResponse,
)
def show_run(dag_id: str, run_id: str) -> str:
    """The page of one DAG run. Pipelines go by their dag_id."""
    try:
        with PpmlHook().broker(timeout_s=5.0) as broker:
            view = broker.find_run(pipeline=dag_id, dag_id=dag_id, airflow_run_id=run_id)
    except PpmlError as error:
        return render(None, refusal=str(error))
    return render(view, refusal="" if view else "this DAG run has not been opened at the broker")


def render(view: RunView | None, *, refusal: str) -> str:
    """The page for a run, or for why there is none."""
    return _PAGES.get_template("trust_view.html").render(view=view, refusal=refusal)


class TrustViewPlugin(AirflowPlugin):
    """Adds the page as a tab of each DAG run."""

    name = "ppml"
    fastapi_apps = [{"app": app, "url_prefix": "/ppml", "name": "PPML Trust view"}]  # noqa: RUF012 - Airflow's API
    external_views = [  # noqa: RUF012 - likewise
        {
            "name": "Trust",
            "href": "/ppml/dags/{DAG_ID}/runs/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "ppml-trust",
        }
    ]
