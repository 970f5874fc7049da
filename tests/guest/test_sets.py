"""Members of a set as guests: they wait for each other, share a secret, and the leader speaks for all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import Lease, LeaseKeys, Member
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, PpmlError, VerificationError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.launches import GuestResult
from ppml_airflow.protocol.messages import Attest, LaunchRequest, LeaseAnswer, LeaseStatus
from ppml_airflow.sealing import wrapping
from ppml_airflow.workloads.job import JobResult
from tests.support.broker_world import World, one_step
from tests.support.guest_world import CountingWorkload, GuestWorld, MeddlingClient

MEMBERS = 3


def refused(kind: type[PpmlError], code: str) -> pytest.RaisesExc[PpmlError]:
    return pytest.RaisesExc(kind, check=lambda error: error.code == code)


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> World:
    steps = one_step(members=MEMBERS, replacements=1)
    return World(folder=tmp_path, platform=platform, keystore=keystore, steps=steps)


def play(workload: CountingWorkload) -> JobResult | None:
    """The leader writes; the others only help."""
    return JobResult(outcome="ok") if workload.job.index else None


@pytest.fixture
def run_id(guests: GuestWorld) -> str:
    guests.on_run = play
    return guests.gated_run()


@pytest.fixture
def members(guests: GuestWorld, run_id: str, tmp_path: Path) -> list[GuestWorld]:
    """One folder and one workload for each member; the first is where the others read, too."""
    found = [guests]
    for index in range(1, MEMBERS):
        (tmp_path / f"member-{index}").mkdir()
        other = GuestWorld(world=guests.world, folder=tmp_path / f"member-{index}")
        other.on_run = play
        found.append(other)
    return found


def requests(guests: GuestWorld, run_id: str) -> list[LaunchRequest]:
    set_id = guests.world.client.open_set(run_id, "aggregate").set_id
    return [guests.request(run_id, role="member", set_id=set_id, index=index) for index in range(MEMBERS)]


def run_all(members: list[GuestWorld], asked: list[LaunchRequest]) -> list[GuestResult]:
    with ThreadPoolExecutor(max_workers=MEMBERS) as pool:
        return list(pool.map(lambda one: one[0].run(one[1]), zip(members, asked, strict=True)))


def test_members_wait_for_each_other_and_the_leader_commits(members: list[GuestWorld], run_id: str) -> None:
    results = run_all(members, requests(members[0], run_id))
    assert [result.state for result in results] == ["committed", "ended", "ended"]
    (receipt,) = members[0].receipts(run_id)
    assert [(member.index, member.is_replacement) for member in receipt.members] == [(0, False), (1, False), (2, False)]
    assert [member.lease_id for member in receipt.members] == [result.lease_id for result in results]


def test_members_share_keys_that_are_not_the_secret_itself(members: list[GuestWorld], run_id: str) -> None:
    run_all(members, requests(members[0], run_id))
    workloads = [guests.workload for guests in members]
    clusters = [workload.keys.cluster for workload in workloads if workload is not None]
    assert len({cluster.keys.messages for cluster in clusters if cluster is not None}) == 1
    assert [workload.job.index for workload in workloads if workload is not None] == [0, 1, 2]
    assert all("messages" not in repr(cluster) for cluster in clusters)


def test_a_member_whose_part_fails_says_so_in_one_word(members: list[GuestWorld], run_id: str) -> None:
    members[1].on_run = lambda workload: JobResult(outcome="job_failed")
    with refused(ConfigurationError, "job_failed"):
        run_all(members, requests(members[0], run_id))


def test_the_log_of_each_member_is_sealed_beside_the_leaders(members: list[GuestWorld], run_id: str) -> None:
    run_all(members, requests(members[0], run_id))
    logs = sorted(path.name for path in (members[0].storage / "logs" / run_id).iterdir())
    assert logs == ["aggregate-1", "aggregate-1.1", "aggregate-1.2"]


@pytest.mark.parametrize(
    ("changes", "code"), [({"role": "job"}, "set_wanted"), ({"role": "member", "index": MEMBERS}, "other_index")]
)
def test_a_guest_that_is_started_as_something_else_attests_nothing(
    guests: GuestWorld, run_id: str, changes: dict[str, object], code: str
) -> None:
    quotes = guests.quotes
    with refused(PolicyDeniedError, code):
        guests.run(msgspec.structs.replace(requests(guests, run_id)[0], **changes))
    assert guests.quotes == quotes


@pytest.mark.parametrize("secret", [None, b"short"])
def test_a_member_without_a_secret_stops(guests: GuestWorld, run_id: str, secret: bytes | None) -> None:
    """The broker's answer passes the host; only the right keys of the right lease are taken."""

    class Keys(MeddlingClient):
        def lease(self, request: Attest) -> LeaseAnswer:
            answer = self.made(request)
            lease = canonical.decode(answer.lease.payload, into=Lease) if answer.lease else None
            assert lease is not None
            assert answer.lease is not None
            keys = LeaseKeys(
                data_keys={pinned.dataset: b"k" * 32 for pinned in lease.inputs},
                release_keys={output.dataset: b"r" * 32 for output in lease.outputs},
                cluster_secret=secret,
            )
            info = wrapping.lease_info(answer.lease.digest)
            sealed = wrapping.hpke_seal(canonical.encode(keys), to=request.binding.sealing_key, info=info)
            return msgspec.structs.replace(answer, sealed_keys=sealed)

        def made(self, request: Attest) -> LeaseAnswer:
            return super().lease(request)

    first, *others = requests(guests, run_id)
    waiting = [GuestWorld(world=guests.world, folder=guests.folder / name) for name in ("a", "b")]
    for other in waiting:
        other.folder.mkdir()
        other.on_run = play
    guests.connect = lambda url: Keys(guests.world.connect(), meddle=lambda answer: answer)  # type: ignore[return-value]
    with pytest.raises(VerificationError) as caught:
        run_all([guests, *waiting], [first, *others])
    assert caught.value.code == "other_keys"


def without_the_last(members: tuple[Member, ...]) -> tuple[Member, ...]:
    return members[:-1]


def with_another_leader(members: tuple[Member, ...]) -> tuple[Member, ...]:
    return (msgspec.structs.replace(members[0], lease_id="f" * 32), *members[1:])


@pytest.mark.parametrize("change", [without_the_last, with_another_leader])
def test_a_leader_signs_no_list_that_is_not_its_sets(
    members: list[GuestWorld], run_id: str, change: Callable[[tuple[Member, ...]], tuple[Member, ...]]
) -> None:
    class Liar(MeddlingClient):
        def lease_status(self, lease_id: str) -> LeaseStatus:
            told = members[0].world.client.lease_status(lease_id)
            return msgspec.structs.replace(told, members=change(told.members))

    members[0].connect = lambda url: Liar(members[0].world.connect(), meddle=lambda answer: answer)  # type: ignore[return-value]
    with refused(VerificationError, "commit_refused"):
        run_all(members, requests(members[0], run_id))
    assert members[0].receipts(run_id) == []
