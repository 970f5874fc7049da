"""Random markers, the spellings in which they might be found, and where to look for them."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from ppml_airflow import canonical
from ppml_airflow.domain.documents import Certificate
from ppml_airflow.keys.keystore import KeystoreFile, load_passphrase
from ppml_airflow.sealing import wrapping
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope

ENDS = ("agents/owner/sources", "agents/recipient/opened", "owner", "broker/keystore.json", "images")
"""Where a home may hold them: the two ends, the owner's and the broker's keys; images are older than they are."""


class Watch:
    """Arguments and environments of processes, of a home or of the whole machine, while entered."""

    def __init__(self, processes: Callable[[], Iterable[str]]) -> None:
        self._processes, self._stop, self.seen = processes, threading.Event(), set[bytes]()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            for process in self._processes():
                for name in ("cmdline", "environ"):
                    with suppress(OSError):
                        self.seen.add((Path("/proc") / process / name).read_bytes())


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


def places(home: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a home but the ends, with its content."""
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
