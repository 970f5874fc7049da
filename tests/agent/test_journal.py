from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.agent.journal import Journal, Unfinished, exclusive
from ppml_airflow.errors import ConfigurationError

ENTRY = Unfinished(dataset="visits", run_id="0" * 32)


def test_note_outlives_its_process(tmp_path: Path) -> None:
    Journal(tmp_path).begin(ENTRY)
    assert Journal(tmp_path).unfinished() == [ENTRY]


def test_ended_note_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin(ENTRY)
    journal.end(ENTRY)
    journal.end(ENTRY)
    assert journal.unfinished() == []


def test_second_agent_with_the_same_file_is_refused(tmp_path: Path) -> None:
    with exclusive(tmp_path / "state"), pytest.raises(ConfigurationError) as raised, exclusive(tmp_path / "state"):
        pass
    assert raised.value.code == "already_running"


def test_lock_ends_with_its_holder(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass
