"""Airflow's UI in a real browser: ask a question in the trigger form, see what the broker says of the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import duckdb
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.installation import Installation

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH (Debian's package chromium)"),
]
DAG = "adhoc_sql"
QUESTION = "SELECT hlthp AS poor, count(*) AS people, max(disea) AS most FROM visits GROUP BY hlthp ORDER BY hlthp"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@pytest.fixture
def page(installation: Installation) -> Iterator[Page]:
    """Airflow's page of the DAG, as its administrator sees it after logging in."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(f"{installation.told['ui']}/dags/{DAG}")
        page.fill("input[name=username]", installation.airflow.user)
        page.fill("input[name=password]", installation.airflow.password)
        page.keyboard.press("Enter")
        yield page
        browser.close()


def test_a_question_from_the_trigger_form_is_answered_and_its_trust_is_shown(
    installation: Installation, page: Page
) -> None:
    installation.approve(DAG)
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Everybody who sees this Airflow can read the statement.")).to_be_visible()
    form.locator("[name=element_statement]").fill(QUESTION)
    form.get_by_role("button", name="Trigger", exact=True).click()
    page.wait_for_url("**/runs/**")
    run = re.search(r"/runs/([^/]+)", page.url)
    assert run is not None
    state = installation.airflow.wait_for_run(DAG, run[1])
    assert state == "success", installation.airflow.task_states(DAG, run[1])

    page.get_by_text("Trust", exact=True).first.click()
    trust = page.frame_locator("iframe")
    expect(trust.get_by_text("trust: SIMULATED")).to_be_visible()
    expect(trust.get_by_role("row", name="ask")).to_contain_text("committed")
    home = installation.home
    visits = home / "agents" / "owner" / "sources" / "visits.csv"
    wanted = duckdb.sql(QUESTION.replace("FROM visits", f"FROM read_csv('{visits}')")).fetchall()
    opened = home / "agents" / "recipient" / "opened" / "answer.csv"
    assert duckdb.sql(f"FROM read_csv('{opened}')").fetchall() == wanted
