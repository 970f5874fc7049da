"""What a guest does while another run writes its output: it waits in its session, and attests no second time."""

from __future__ import annotations

import threading

from ppml_airflow.guest.identity import attest, make_identity
from tests.support.broker_world import Guest, World
from tests.support.simulated_run import MEASUREMENT


def test_an_output_that_another_run_writes_is_waited_for(world: World) -> None:
    world.client.put_approval(
        world.owners.root.sign(world.approval(replaces=world.approval_envelope.digest, runs_per_slot=2))
    )
    holder, waiting = (Guest(world, run_id=world.ready_run(name)) for name in ("first", "second"))
    for guest in (holder, waiting):
        world.pass_gate(guest.job.run_id)
    holder.ask()
    ending = threading.Timer(0.5, holder.commit)
    ending.start()
    answer = attest(
        make_identity(waiting.job, role="job"),
        broker=world.connect(),
        quoter=lambda data: world.platform.quote_sgx(measurement=MEASUREMENT, report_data=data),
    )
    ending.join()
    assert answer.lease is not None
