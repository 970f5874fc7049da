"""S1 and S9: random markers in the data, and the data keys themselves, are nowhere but at the two ends.

Searched raw, as hex, as base64 at each alignment and as UTF-16: every file of the installation (Airflow's database,
logs, rendered templates, XCom and trigger rows among them), arguments and environments of its processes while it runs,
and what was printed. Left out are the owner's sources, the recipient's reports, and the owner's and broker's keys.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Certificate
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.keys.keystore import KeystoreFile, load_passphrase
from ppml_airflow.sealing import wrapping
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope
from tests.support.commands import PPML, Commands, processes_of
from tests.support.ready_images import take_over_images

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
ENDS = ("agents/owner/sources", "agents/recipient/opened", "owner", "broker/keystore.json", "images")


@pytest.fixture(scope="module")
def ppml() -> Iterator[Commands]:
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    take_over_images(home, "spark")
    yield Commands(home)
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []


class Watch:
    """Arguments and environments of every process of a home, while it runs."""

    def __init__(self, home: Path) -> None:
        self._home, self._stop, self.seen = home, threading.Event(), set[bytes]()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            for process in processes_of(self._home):
                for name in ("cmdline", "environ"):
                    try:
                        self.seen.add((Path("/proc") / process / name).read_bytes())
                    except OSError:
                        continue


def spellings(secret: bytes) -> list[bytes]:
    """A secret as it might be written somewhere."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        whole = encoded[4 if shift else 0 : -4]
        found += [whole, whole.replace(b"+", b"-").replace(b"/", b"_")]
    if secret.isascii():
        found += [secret.decode().encode("utf-16-le"), secret.decode().encode("utf-16-be")]
    return found


def write_source(folder: Path, canaries: list[str]) -> Path:
    source = folder / "people.csv"
    lines = [f"{number},{canary},{number % 3}" for number, canary in enumerate(canaries)]
    source.write_text("\n".join(["id,name,ward", *lines]) + "\n")
    return source


def places(home: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink() and not str(path.relative_to(home)).startswith(ENDS):
            yield str(path.relative_to(home)), path.read_bytes()


def data_keys(home: Path) -> list[bytes]:
    """The data keys of every sealed version, unwrapped as only the broker can."""
    keystore = KeystoreFile.load(
        home / "broker" / "keystore.json", passphrase=load_passphrase(home / "broker" / "passphrase")
    )
    certificates = {}
    for path in (home / "owner" / "certificates").glob("*.json"):
        envelope = canonical.decode(path.read_bytes(), into=Envelope)
        certificate = canonical.decode(envelope.payload, into=Certificate)
        certificates[certificate.serial] = certificate
    found = []
    for path in (home / "storage").rglob("manifest.json"):
        envelope = canonical.decode(path.read_bytes(), into=Envelope)
        manifest = canonical.decode(envelope.payload, into=Manifest)
        wrap = next(wrap for wrap in manifest.wraps if wrap.to == "dataset")
        certificate = certificates[wrap.serial]
        (wrapped,) = (home / "broker").rglob(f"{wrap.serial}.wrapped")
        context = wrapping.dataset_key_context(
            domain_id=manifest.domain_id, dataset=manifest.dataset, kek_id=certificate.kek_id
        )
        private = keystore.unwrap(wrapped.read_bytes(), key_id=certificate.kek_id, context=context)
        key = wrapping.SealingKey.from_private_bytes(private)
        found.append(
            wrapping.unwrap_for_dataset(
                wrap,
                key=key,
                domain_id=manifest.domain_id,
                dataset=manifest.dataset,
                version=manifest.version,
                kek_id=certificate.kek_id,
            )
        )
        found.append(private)
    return found


def run_demo(ppml: Commands, source: Path, *, sql: str, folder: Path) -> tuple[int, bytes, set[bytes]]:
    query = folder / "question.sql"
    query.write_text(sql)
    with Watch(ppml.home) as watch:
        done = subprocess.run(
            (PPML, "demo", "--source", source, "--sql", query), env=ppml.environment, capture_output=True, check=False
        )
    return done.returncode, done.stdout + done.stderr, watch.seen


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT ward, count(*) AS people, max(name) AS last FROM people GROUP BY ward", 0),
        ("SELECT ward, sum(cast(name AS int)) AS wrong FROM people GROUP BY ward", 1),
    ],
    ids=["a-run-that-succeeds", "a-cast-error-whose-text-holds-a-value"],
)
def test_canaries_are_nowhere_outside_the_enclave_and_the_agents(
    ppml: Commands, tmp_path: Path, sql: str, code: int
) -> None:
    canaries = [f"canary{secrets.token_hex(13)}" for _ in range(6)]
    source = write_source(tmp_path, canaries)
    exit_code, printed, processes = run_demo(ppml, source, sql=sql, folder=tmp_path)
    assert exit_code == code, printed.decode()[-3000:]
    if code == 0:
        opened = b"".join(path.read_bytes() for path in (ppml.home / "agents/recipient/opened").glob("report.*"))
        assert any(canary.encode() in opened for canary in canaries), "the search would find nothing anywhere"
    keys = data_keys(ppml.home)
    assert keys
    needles = [spelling for canary in canaries for spelling in spellings(canary.encode())]
    needles += [spelling for key in keys for spelling in spellings(key)]
    for place, content in [("printed", printed), *(("process", text) for text in processes), *places(ppml.home)]:
        found = [needle for needle in needles if needle in content]
        assert found == [], f"{len(found)} canaries in {place}"
    private = PrivateFolders.of_home(ppml.home).root
    assert list(private.iterdir()) == [], "a private directory was not swept"
