"""The agents' own files in a simulated domain: what "seal visits" and "deliver report" mean on this machine.

In production whoever holds an agent writes its `agent.yaml`; here this process does, for the pipelines that it runs.
Entries of other pipelines are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppml_airflow.cli.home import Home, private_folder, write_private
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError

AGENTS = ("owner", "recipient")


def sealed_datasets(approval: Approval) -> list[str]:
    """The inputs that the owner's agent seals for each run: `this-run`, and no step's output."""
    outputs = {output.dataset for step in approval.steps for output in step.outputs}
    inputs = {item.dataset for step in approval.steps for item in step.inputs if item.version == "this-run"}
    return sorted(inputs - outputs)


def delivery_sinks(home: Home, *, approval: Approval) -> dict[str, str]:
    """Where the recipient's agent opens each output that somebody receives: a file for a table, a folder for files."""
    opened = home.agent("recipient") / "opened"
    return {
        output.dataset: f"{opened / output.dataset}{'/' if output.body == 'files' else '.csv'}"
        for step in approval.steps
        for output in step.outputs
        if output.recipients
    }


def source_in_file(home: Home, dataset: str) -> Path | None:
    """The source that the owner's agent has for a dataset, if it knows one."""
    entry = _load(home, "owner").get("seals", {}).get(dataset)
    return home.agent("owner") / entry["source"] if entry else None


def pipelines_in_files(home: Home) -> set[str]:
    """The pipelines for whose runs the agents have entries."""
    entries = [*_load(home, "owner").get("seals", {}).values(), *_load(home, "recipient").get("delivers", {}).values()]
    return {pipeline for entry in entries for pipeline in entry["pipelines"]}


def write_agent_files(
    home: Home,
    *,
    broker: str,
    pipeline: str,
    sources: Mapping[str, Path],
    sinks: Mapping[str, str],
) -> None:
    """Write both agents' files.

    Args:
        home: where they lie.
        broker: its address.
        pipeline: for whose runs the entries are.
        sources: dataset -> file or folder.
        sinks: output -> where the recipient's agent opens it (`delivery_sinks`).
    """
    seals = {
        dataset: {"source": str(source.absolute()), "dataset": dataset, "pipelines": [pipeline]}
        for dataset, source in sources.items()
    }
    delivers = {dataset: {"sink": sink, "dataset": dataset, "pipelines": [pipeline]} for dataset, sink in sinks.items()}
    private_folder(home.agent("recipient") / "opened")
    for agent, key, verb, entries in (
        ("owner", {"producer_key": "producer.pem"}, "seals", seals),
        ("recipient", {"recipient_key": "recipient.key"}, "delivers", delivers),
    ):
        known = _load(home, agent).get(verb, {})
        file = {
            "agent": agent,
            "listen": f"unix:{home.socket(f'{agent}-agent')}",
            "broker": broker,
            "domain": str(home.domain_file),
            "storage": str(home.storage),
            **key,
            verb: {**known, **{name: _merged(known.get(name), entry) for name, entry in entries.items()}},
        }
        write_private(home.agent(agent) / "agent.yaml", yaml.safe_dump(file, sort_keys=False).encode())


def _merged(known: dict[str, Any] | None, entry: dict[str, Any]) -> dict[str, Any]:
    """The new entry, for the pipelines of the old one as well: both seal the same dataset, from now on from here."""
    pipelines = set(entry["pipelines"]) | set(known["pipelines"] if known else ())
    return {**entry, "pipelines": sorted(pipelines)}


def _load(home: Home, agent: str) -> dict[str, Any]:
    path = home.agent(agent) / "agent.yaml"
    try:
        file = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}") from error
    return file if isinstance(file, dict) else {}
