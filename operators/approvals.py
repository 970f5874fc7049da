"""From a DAG to the approval that its owners are asked to sign. Author's side: no keys, nothing secret.

Refuses whatever would leave the owner in doubt about what is approved: unknown tasks at a gate, a gate that does not
stand where it says, two steps that write one dataset, mapped steps, params without bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from ppml_airflow import canonical
from ppml_airflow.domain.adhoc import require_adhoc_rules
from ppml_airflow.domain.documents import Approval, Input
from ppml_airflow.domain.params import check_params
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PolicyDeniedError
from ppml_airflow.operators.enclaves import EnclaveOperator
from ppml_airflow.operators.encrypt import EncryptOperator
from ppml_airflow.operators.params import approved_params
from ppml_airflow.operators.schedules import slots_of
from ppml_airflow.operators.sensors import AttestationSensor
from ppml_airflow.units import Digest, format_instant

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator

MAX_ATTEMPTS = 10
Gate = Literal["before", "after"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an approval says beyond the DAG."""

    domain_id: Digest
    replaces: Digest | None
    valid_from: datetime
    valid_days: int = 90
    runs_per_slot: int = 1
    backfill: int = 0
    window_hours: int = 24
    log_recipients: tuple[str, ...] = ("owner",)


def compile_approval(dag: DAG, *, terms: Terms) -> Approval:
    """The approval that covers exactly what this DAG does.

    Raises:
        ConfigurationError: the DAG cannot be compiled; says which task or param, and what to write.
    """
    tasks: dict[str, Any] = dict(dag.task_dict)
    for name, task in tasks.items():
        if getattr(task, "is_mapped", False):
            raise ConfigurationError(f"task {name} is mapped; an approval names each step", hint="write the tasks out")
    steps = {name: task for name, task in tasks.items() if isinstance(task, EnclaveOperator)}
    if not steps:
        raise ConfigurationError(f"dag {dag.dag_id} has no step that runs in an enclave")
    gates = _gates(tasks, steps=steps)
    params = approved_params(dag)
    approval = Approval(
        domain_id=terms.domain_id,
        pipeline=_pipeline(dag, tasks=tasks),
        replaces=terms.replaces,
        steps=tuple(
            step.compiled_step(
                params=params,
                inputs=_inputs(step, tasks=tasks),
                gates=gates[name],
                log_recipients=terms.log_recipients,
            )
            for name, step in sorted(steps.items())
        ),
        edges=_edges(tasks, steps=steps),
        slots=slots_of(dag, window_hours=terms.window_hours, backfill=terms.backfill),
        runs_per_slot=terms.runs_per_slot,
        valid_from=format_instant(terms.valid_from),
        valid_until=format_instant(terms.valid_from + timedelta(days=terms.valid_days)),
    )
    unused = sorted(set(params) - {name for step in approval.steps for name in step.params})
    if unused:
        raise ConfigurationError(
            f"param {unused[0]} is free text, and no step takes it as its statement",
            code="param_unbounded",
            hint=f"sql_param={unused[0]!r} makes a step adhoc; everything else wants bounds",
        )
    return _checked(approval)


def _checked(approval: Approval) -> Approval:
    """Names, bounds and defaults as the broker will see them."""
    for step in approval.steps:
        if step.attempts > MAX_ATTEMPTS:
            raise ConfigurationError(
                f"task {step.name} has retries={step.attempts - 1}; at most {MAX_ATTEMPTS - 1} are approved"
            )
        for argument in step.argv:
            if argument.startswith("{") and argument.endswith("}") and argument[1:-1] not in step.params:
                raise ConfigurationError(f"argument {argument} of {step.name} names no param of the DAG")
    written = [output.dataset for step in approval.steps for output in step.outputs]
    twice = sorted({dataset for dataset in written if written.count(dataset) > 1})
    if twice:
        raise ConfigurationError(f"dataset {twice[0]} is written by two steps")
    try:
        require_adhoc_rules(approval)
    except PolicyDeniedError as error:
        raise ConfigurationError(error.message, code=error.code) from error
    try:
        check_params(approval, given={})
        return canonical.decode(canonical.encode(approval), into=Approval)
    except PolicyDeniedError as error:
        raise ConfigurationError(f"default of {error.message}", code=error.code) from error
    except MalformedInputError as error:
        raise ConfigurationError(f"dag of pipeline {approval.pipeline} has no approval: {error.message}") from error


def _pipeline(dag: DAG, *, tasks: dict[str, Any]) -> str:
    names = {task.pipeline or dag.dag_id for task in tasks.values() if hasattr(task, "ppml_conn_id")}
    if len(names) > 1:
        raise ConfigurationError(f"dag {dag.dag_id} names several pipelines: {', '.join(sorted(names))}")
    return str(names.pop())


def _gates(tasks: dict[str, Any], *, steps: dict[str, EnclaveOperator]) -> dict[str, tuple[Gate, ...]]:
    found: dict[str, set[Gate]] = {name: set() for name in steps}
    for name, task in tasks.items():
        if not isinstance(task, AttestationSensor):
            continue
        if task.step not in steps:
            raise ConfigurationError(
                f"sensor {name} guards {task.step}, which is no step of this DAG", hint=f"steps: {', '.join(steps)}"
            )
        guarded: BaseOperator = tasks[task.step]
        if name not in guarded.get_flat_relative_ids(upstream=task.gate == "before"):
            raise ConfigurationError(
                f"sensor {name} does not stand {task.gate} {task.step}", hint=f"chain it {task.gate} the task with >>"
            )
        found[task.step].add(task.gate)
    return {name: tuple(gate for gate in ("before", "after") if gate in gates) for name, gates in found.items()}


def _inputs(step: EnclaveOperator, *, tasks: dict[str, Any]) -> tuple[Input, ...]:
    """`this-run` for what this DAG seals or computes before the step, `head` for everything else."""
    task = tasks[step.task_id]
    fresh: set[str] = set()
    for name in task.get_flat_relative_ids(upstream=True):
        upstream = tasks[name]
        if isinstance(upstream, EncryptOperator):
            fresh.add(upstream.dataset)
        elif isinstance(upstream, EnclaveOperator):
            fresh.update(upstream.outputs_to)
    return tuple(Input(dataset=name, version="this-run" if name in fresh else "head") for name in step.inputs)


def _edges(tasks: dict[str, Any], *, steps: dict[str, EnclaveOperator]) -> tuple[tuple[str, str], ...]:
    """(earlier, later) for steps with no other step between them, through whatever other tasks."""
    edges: set[tuple[str, str]] = set()
    for later in steps:
        waiting, seen = list(tasks[later].upstream_task_ids), set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in steps:
                edges.add((name, later))
            else:
                waiting.extend(tasks[name].upstream_task_ids)
    return tuple(sorted(edges))
