"""What each task of a pipeline needs, and why it would be denied: from what the owners have signed, before any data.

Pure: time and everything signed are arguments. It repeats no decision of the broker's, which judges evidence and holds
heads; it says which keys, certificates, policies and signatures there must be, and which are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from ppml_airflow.attestation.policy import Policy
from ppml_airflow.canonical import Document
from ppml_airflow.cli.words import describe_difference
from ppml_airflow.domain.adhoc import open_right
from ppml_airflow.domain.documents import Approval, Domain, Role, Step
from ppml_airflow.domain.trust import Certificates
from ppml_airflow.units import parse_instant, spell_trust


class Problem(Document, frozen=True, kw_only=True):
    """Why a task would be denied as things stand."""

    code: str
    reason: str
    hint: str


class TaskPlan(Document, frozen=True, kw_only=True):
    """One thing that has to happen in a run."""

    task: str
    """Such as `seal visits`, `gate before aggregate`, `step aggregate`, `open report for analyst`."""
    needs: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What holds now: signed by the owners, verified under their roots."""

    domain: Domain
    certificates: Certificates
    policies: Mapping[str, Policy]
    in_force: Approval | None
    measured: Mapping[str, str]
    """Image -> how it measures on this machine, for those that are set up here."""


def plan_pipeline(compiled: Approval, *, standing: Standing, now: datetime) -> tuple[TaskPlan, ...]:
    """Every task of a compiled pipeline, in the order in which a run comes to it.

    Args:
        compiled: what the DAG compiles to.
        standing: what the owners have signed.
        now: certificates and approval must hold then.
    """
    written = {output.dataset for step in compiled.steps for output in step.outputs}
    read = {item.dataset: item.version for step in compiled.steps for item in step.inputs}
    plans = [_plan_approval(compiled, standing=standing, now=now)]
    for dataset, version in sorted(read.items()):
        if dataset not in written:
            plans.append(_plan_input(dataset, is_sealed=version == "this-run", standing=standing, now=now))
    for step in _in_order(compiled):
        plans += _plan_step(step, standing=standing, now=now)
    return tuple(plans)


def _in_order(approval: Approval) -> list[Step]:
    """Steps after those that must be committed before them."""
    waiting, done = {step.name: step for step in approval.steps}, list[Step]()
    while waiting:
        names = [
            name for name in waiting if not any(late == name and early in waiting for early, late in approval.edges)
        ]
        done += [waiting.pop(name) for name in names or list(waiting)]
    return done


def _plan_approval(compiled: Approval, *, standing: Standing, now: datetime) -> TaskPlan:
    domain, in_force = standing.domain, standing.in_force
    of = f"{domain.threshold} of {len(domain.roots)} owners" if len(domain.roots) > 1 else "the owner"
    need = f"signed by {of} of domain {domain.name} (trust: {spell_trust(domain.trust)})"
    problems = []
    if in_force is None:
        problems.append(_problem("not_approved", f"no approval of {compiled.pipeline} is in force", "ppml approve"))
    else:
        difference = describe_difference(in_force, _on_the_terms_of(in_force, compiled))
        if difference:
            reason = f"the DAG is not what is approved: {'; '.join(difference)}"
            problems.append(_problem("step_changed", reason, "ppml compile it, and ask for a new signature"))
        if parse_instant(in_force.valid_until) <= now:
            reason = f"the approval ended at {in_force.valid_until}"
            problems.append(_problem("approval_expired", reason, "ppml compile it, and ask for a new signature"))
    return TaskPlan(task=f"approve {compiled.pipeline}", needs=(need,), problems=tuple(problems))


def _on_the_terms_of(in_force: Approval, compiled: Approval) -> Approval:
    """The compiled approval with all that no DAG says: validity, budget, who reads logs."""
    slots = msgspec.structs.replace(
        compiled.slots, window_hours=in_force.slots.window_hours, backfill=in_force.slots.backfill
    )
    approved = {step.name: step for step in in_force.steps}
    steps = tuple(
        msgspec.structs.replace(step, log_recipients=approved.get(step.name, step).log_recipients)
        for step in compiled.steps
    )
    return msgspec.structs.replace(in_force, pipeline=compiled.pipeline, steps=steps, edges=compiled.edges, slots=slots)


def _plan_input(dataset: str, *, is_sealed: bool, standing: Standing, now: datetime) -> TaskPlan:
    problems = [*_missing_key(standing, "dataset", dataset, now=now)]
    if not is_sealed:
        need = f"a published version of {dataset}: its head when the run is opened"
        return TaskPlan(task=f"find {dataset}", needs=(need, f"dataset key of {dataset}"), problems=tuple(problems))
    producers = sorted(_holders(standing, "producer", datasets={dataset}, now=now))
    if not producers:
        reason = f"nobody is certified as producer of {dataset}"
        problems.append(_problem("not_certified", reason, f"certify its agent's key as producer of {dataset}"))
    need = f"signing key of a producer of {dataset}: {', '.join(producers) or 'none'}"
    return TaskPlan(task=f"seal {dataset}", needs=(f"dataset key of {dataset}", need), problems=tuple(problems))


def _plan_step(step: Step, *, standing: Standing, now: datetime) -> Iterator[TaskPlan]:
    evidence, problems = _plan_evidence(step, standing=standing)
    if "before" in step.gates:
        yield TaskPlan(task=f"gate before {step.name}", needs=evidence, problems=problems)
    needs = [*(() if "before" in step.gates else evidence), *(f"data key of {item.dataset}" for item in step.inputs)]
    needs += [f"release key of {output.dataset}" for output in step.outputs]
    needs += [f"log key of {name}" for name in step.log_recipients]
    missing = [] if "before" in step.gates else list(problems)
    for output in step.outputs:
        missing += _missing_key(standing, "dataset", output.dataset, now=now)
    for name in step.log_recipients:
        missing += _missing_key(standing, "log", name, now=now)
    yield TaskPlan(task=f"step {step.name}", needs=tuple(needs), problems=tuple(missing))
    if "after" in step.gates:
        yield TaskPlan(task=f"gate after {step.name}", needs=(f"receipt of {step.name}",), problems=())
    for output in step.outputs:
        datasets = {output.dataset} | open_right(step)
        for name in output.recipients:
            yield TaskPlan(
                task=f"open {output.dataset} for {name}",
                needs=(f"recipient key of {name}, certified for {', '.join(sorted(datasets))}",),
                problems=tuple(_missing_recipient(standing, name, datasets=datasets, now=now)),
            )


def _plan_evidence(step: Step, *, standing: Standing) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    policy = standing.policies.get(step.policy)
    if policy is None:
        reason = f"policy {step.policy} does not exist, so nothing is allowed"
        return (f"evidence of image {step.image} under policy {step.policy}",), (
            _problem("policy_missing", reason, "ppml policy sign"),
        )
    under = f"under policy {policy.name} version {policy.version}"
    need = f"evidence of image {step.image} on {' or '.join(policy.tees)}, {under}"
    image = policy.images.get(step.image)
    if image is None:
        named = ", ".join(sorted(policy.images))
        reason = f"policy {policy.name} names no image {step.image}; it has: {named}"
        return (need,), (_problem("attestation_image", reason, f"ppml image set-up {step.image}"),)
    measured = standing.measured.get(step.image)
    if measured is not None and measured not in image.measurements and not image.signers:
        accepted = ", ".join(f"{one[:16]}…" for one in image.measurements)
        reason = f"image {step.image} measures {measured[:16]}… here; accepted: {accepted}"
        hint = f"ppml image measure {step.image} --diff, then --accept as the owner"
        return (need,), (_problem("attestation_measurement", reason, hint),)
    return (need,), ()


def _missing_key(standing: Standing, role: Role, subject: str, *, now: datetime) -> Iterator[Problem]:
    certified = standing.certificates.by_serial.values()
    if not any(one.role == role and one.subject == subject and parse_instant(one.not_after) > now for one in certified):
        reason = f"{subject} has no unexpired certificate as {role}"
        yield _problem("not_certified", reason, f"certify a {role} key of {subject}")


def _missing_recipient(standing: Standing, name: str, *, datasets: set[str], now: datetime) -> Iterator[Problem]:
    if name not in _holders(standing, "recipient", datasets=datasets, now=now):
        reason = f"{name} has no unexpired certificate as recipient of {', '.join(sorted(datasets))}"
        yield _problem("not_certified", reason, f"certify {name}'s key for it")


def _holders(standing: Standing, role: Role, *, datasets: set[str], now: datetime) -> set[str]:
    """Who is certified in a role for all of these datasets."""
    return {
        one.subject
        for one in standing.certificates.by_serial.values()
        if one.role == role and datasets <= set(one.datasets) and parse_instant(one.not_after) > now
    }


def _problem(code: str, reason: str, hint: str) -> Problem:
    return Problem(code=code, reason=reason, hint=hint)
