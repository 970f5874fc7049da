"""A step whose statement comes from the run, in place of `aggregate`, and worlds in which it may run."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from ppml_airflow.domain.documents import Step, TextParam
from ppml_airflow.sealing.wrapping import SealingKey
from tests.support.broker_world import World
from tests.support.owners import Owners
from tests.support.simulated_run import AGGREGATE

STATEMENT = "SELECT count(*) AS n FROM visits JOIN plans USING (plan)"
ASK = msgspec.structs.replace(
    AGGREGATE,
    kind="adhoc",
    code={},
    argv=(),
    params={"statement": TextParam(maximum_characters=500, default=STATEMENT)},
    disclosed=(),
)


def ask(**changes: object) -> Step:
    """The adhoc step, changed."""
    return msgspec.structs.replace(ASK, **changes)


def certify_reader(owners: Owners, *datasets: str) -> None:
    """Certify the reader of the log for these datasets; the new certificate is the current one."""
    key = SealingKey.generate().public
    owners.certify("log", subject="owner", key=key, datasets=datasets, expires_in=timedelta(days=400))


def certify_recipient(owners: Owners, *datasets: str) -> None:
    """Certify the recipient for these datasets; the new certificate is the current one."""
    key = owners.recipient.public
    owners.certify("recipient", subject="analyst", key=key, datasets=datasets, expires_in=timedelta(days=400))


def tell(world: World) -> None:
    """Hand the broker every certificate."""
    for envelope in world.owners.certificates:
        world.client.put_certificate(envelope)
