"""An approval in words, line by line: what an owner reads before signing, and what differs from the one in force."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from ppml_airflow.cli.terminal import plain
from ppml_airflow.domain.adhoc import open_right
from ppml_airflow.domain.documents import Approval, Step
from ppml_airflow.domain.params import describe_bounds

_PARTS = {
    "files": "a folder of files",
    "stream": "a stream in segments",
    "table": "a table in parts",
}


def describe_approval(approval: Approval) -> list[str]:
    """Everything that an approval says; two approvals that differ have different words."""
    slots = approval.slots
    lines = [
        f"pipeline {approval.pipeline}",
        f"domain {approval.domain_id}",
        f"valid from {approval.valid_from} until {approval.valid_until}",
        f"runs: at most {approval.runs_per_slot} for each {slots.period} ({slots.zone}), "
        f"open for {slots.window_hours} h after its end, {slots.backfill} earlier periods allowed",
    ]
    lines += [f"order: {earlier} before {later}" for earlier, later in approval.edges]
    for step in approval.steps:
        lines += [*_describe_step(step), *_describe_right_to_ask(step)]
    return [plain(line) for line in lines]


def describe_difference(before: Approval, after: Approval) -> list[str]:
    """The words that an approval loses (`-`) and gains (`+`) against the one in force."""
    compared = difflib.ndiff(describe_approval(before), describe_approval(after))
    return [line for line in compared if line.startswith(("- ", "+ "))]


def _describe_step(step: Step) -> Iterator[str]:
    name = f"step {step.name}"
    yield f"{name}: {step.kind}, image {step.image}, workload {step.workload}, policy {step.policy}"
    for path, digest in step.code.items():
        yield f"{name}: runs {path}, {digest}"
    yield f"{name}: arguments {' '.join(map(repr, step.argv)) or 'none'}"
    yield f"{name}: settings {_pairs(step.environment)}"
    for item in step.inputs:
        yield f"{name}: reads {item.dataset} ({'its newest version' if item.version == 'head' else 'made for the run'})"
    for output in step.outputs:
        parts = _PARTS[output.body]
        readers = ", ".join(output.recipients) or "nobody"
        yield f"{name}: writes {output.dataset}, {parts}, {output.files} in number, for {readers}"
    for param, bounds in step.params.items():
        yield f"{name}: param {param} is {describe_bounds(bounds)}; {_spell(bounds.default)} if not given"
    for count in step.disclosed:
        yield f"{name}: lets out the count {count.name}, from {count.minimum} to {count.maximum}"
    yield f"{name}: log for {', '.join(step.log_recipients) or 'nobody'}"
    yield f"{name}: gates {', '.join(step.gates) or 'none'}"
    yield f"{name}: {_describe_set(step)}"
    yield (
        f"{name}: at most {step.attempts} attempts of {step.limits.wall_s} s, "
        f"{step.limits.memory_mib} MiB, {step.limits.cores} cores"
    )


def _describe_set(step: Step) -> str:
    if step.members == 1:
        return "one enclave"
    return (
        f"a set of {step.members} enclaves, all of them or none; at most {step.replacements} of an attempt are replaced"
    )


def _describe_right_to_ask(step: Step) -> Iterator[str]:
    """What an owner gives away with an adhoc step, in plain words."""
    if step.kind == "fixed":
        return
    name, read = f"step {step.name}", ", ".join(sorted(open_right(step))) or "nothing"
    yield f"{name}: ANY QUERY over {read}: whoever starts a run writes it, and everybody who sees Airflow reads it"
    yield f"{name}: one query for each run; the answer, and the log, only to holders who are certified for: {read}"


def _pairs(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in sorted(values.items())) or "none"


def _spell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
