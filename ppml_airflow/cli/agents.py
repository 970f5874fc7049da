"""The agents' own files in a simulated domain: what "seal visits" and "deliver report" mean on this machine.

In production whoever holds an agent writes its `agent.yaml`; here this process does, for the pipelines that it runs.
Entries of other pipelines are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ppml_airflow import canonical
from ppml_airflow.cli.home import Home, private_folder, write_private
from ppml_airflow.cli.users import note_sources, socket_users
from ppml_airflow.domain.documents import Approval
from ppml_airflow.errors import ConfigurationError

OWNER, MODEL_OWNER, RECIPIENT = "owner", "model_owner", "recipient"
CODE_AGENTS = ".agents.json"
"""Beside the code of a compiled pipeline: which agent its DAG has seal which dataset."""


def agents_of(home: Home) -> tuple[str, ...]:
    """The agents of a home. A second owner, who brings a model, is there in a joint domain only."""
    return (*sealing_agents(home), RECIPIENT)


def sealing_agents(home: Home) -> tuple[str, ...]:
    """Those of them that seal."""
    return (OWNER, MODEL_OWNER) if len(home.load_domain().roots) > 1 else (OWNER,)


def load_sealers(code_folder: Path, *, home: Home) -> dict[str, str]:
    """Which agent seals which dataset of a pipeline, as its DAG says; none where there is no such file.

    Raises:
        ConfigurationError: an agent that this home does not have.
    """
    try:
        sealers = canonical.decode((code_folder / CODE_AGENTS).read_bytes(), into=dict[str, str])
    except FileNotFoundError:
        return {}
    for dataset, agent in sealers.items():
        if agent not in sealing_agents(home):
            raise ConfigurationError(
                f"dataset {dataset} is sealed by agent {agent}; this home has: {', '.join(sealing_agents(home))}",
                code="no_agent",
                hint="a second owner, model_owner, is in a joint domain:"
                " PPML_HOME=FOLDER ppml domain create --owners 2 --threshold 2",
            )
    return sealers


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
    """The source that an agent has for a dataset, if one knows it."""
    for agent in sealing_agents(home):
        entry = _load(home, agent).get("seals", {}).get(dataset)
        if entry:
            return home.agent(agent) / str(entry["source"])
    return None


def sources_of(home: Home, agent: str) -> list[Path]:
    """The files and folders that an agent seals."""
    return sorted({home.agent(agent) / entry["source"] for entry in _load(home, agent).get("seals", {}).values()})


def pipelines_in_files(home: Home) -> set[str]:
    """The pipelines for whose runs the agents have entries."""
    files = [_load(home, agent) for agent in agents_of(home)]
    entries = [entry for file in files for verb in ("seals", "delivers") for entry in file.get(verb, {}).values()]
    return {pipeline for entry in entries for pipeline in entry["pipelines"]}


def write_agent_files(
    home: Home,
    *,
    broker: str,
    pipeline: str,
    sources: Mapping[str, Path],
    sinks: Mapping[str, str],
    sealers: Mapping[str, str] | None = None,
) -> None:
    """Write the agents' files.

    Args:
        home: where they lie.
        broker: its address.
        pipeline: for whose runs the entries are.
        sources: dataset -> file or folder.
        sinks: output -> where the recipient's agent opens it (`delivery_sinks`).
        sealers: dataset -> agent that seals it; the owner's if not named.
    """
    seals: dict[str, dict[str, dict[str, Any]]] = {agent: {} for agent in sealing_agents(home)}
    for dataset, source in sources.items():
        entry = {"source": str(source.absolute()), "dataset": dataset, "pipelines": [pipeline]}
        seals[(sealers or {}).get(dataset, OWNER)][dataset] = entry
    delivers = {dataset: {"sink": sink, "dataset": dataset, "pipelines": [pipeline]} for dataset, sink in sinks.items()}
    private_folder(home.agent("recipient") / "opened")
    for agent, key, verb, entries in (
        *((agent, {"producer_key": "producer.pem"}, "seals", seals[agent]) for agent in seals),
        (RECIPIENT, {"recipient_key": "recipient.key"}, "delivers", delivers),
    ):
        known = _load(home, agent).get(verb, {})
        file = {
            "agent": agent,
            "listen": f"unix:{home.socket(f'{agent}-agent')}",
            "socket_users": socket_users(home, of=f"{agent}-agent"),
            "broker": broker,
            "token_file": "token",
            "domain": "domain.json",
            "storage": str(home.storage),
            **key,
            verb: {**known, **{name: _merged(known.get(name), entry) for name, entry in entries.items()}},
        }
        write_private(home.agent(agent) / "domain.json", home.domain_file.read_bytes())
        write_private(home.agent(agent) / "agent.yaml", yaml.safe_dump(file, sort_keys=False).encode())
        note_sources(home, sources_of(home, agent), agent=agent)


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
