"""`ppml trust export`: the anchors for `ppml verify`, as one file to hand to whoever verifies.

The file holds nothing secret, but it must reach the verifier unchanged: who can replace it decides what verifies.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from ppml_airflow import canonical
from ppml_airflow.attestation.roots import INTEL_ROOT, TrustRoot
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.verify import load_revocation, read_bounded
from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.provenance.log import Checkpoint
from ppml_airflow.provenance.passport import MAX_PASSPORT_BYTES
from ppml_airflow.provenance.revocations import verify_revocations
from ppml_airflow.provenance.trust_bundle import TrustBundle, make_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.units import MIB

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def trust() -> None:
    """What a verifier has to trust."""


@trust.command()
@click.option("--domain", "domain_file", metavar="FILE", type=_FILE, help="The domain; this installation's by default.")
@click.option(
    "--tee-root",
    "root_files",
    metavar="PEM",
    type=_FILE,
    multiple=True,
    help="A TEE root certificate; by default Intel's for a hardware domain, this installation's for a simulated one.",
)
@click.option(
    "--pin",
    "pinned",
    metavar="PASSPORT",
    type=_FILE,
    multiple=True,
    help="Verify this passport and pin the broker's log where it ends: later passports must continue it.",
)
@click.option(
    "--revocation",
    "revoked",
    metavar="FILE",
    type=_FILE,
    multiple=True,
    help="A revocation to tell of, beside those that this installation's owner has signed.",
)
@click.option("--output", metavar="FILE", type=_FILE, help="Write to this file instead of standard output.")
def export(
    *,
    domain_file: Path | None,
    root_files: tuple[Path, ...],
    pinned: tuple[Path, ...],
    revoked: tuple[Path, ...],
    output: Path | None,
) -> None:
    """Write the trust bundle of a domain."""
    home = Home.default()
    domain = load_domain(domain_file) if domain_file else home.load_domain()
    roots = [_load_root(path) for path in root_files] or [_default_root(domain, home=home)]
    own = [] if domain_file else Owner(home, domain=domain, keys=()).revocations()
    revocations = [*own, *map(load_revocation, revoked)]
    verify_revocations(revocations, domain=domain)
    bundle = make_trust_bundle(domain, tee_roots=roots, revocations=revocations)
    bundle = msgspec.structs.replace(bundle, checkpoints=tuple(_pin(pinned, bundle=bundle)))
    text = canonical.encode(bundle).decode()
    if output is None:
        click.echo(text)
        return
    try:
        output.write_text(text + "\n")
    except OSError as error:
        raise ConfigurationError(f"trust bundle {output} cannot be written: {error.strerror}") from error
    click.echo(f"trust: {output}")


def load_domain(path: Path) -> Domain:
    """Read a domain's canonical JSON.

    Raises:
        MalformedInputError: it is not one.
        ConfigurationError: it cannot be read.
    """
    return canonical.decode(read_bounded(path, what="domain", max_bytes=MIB).strip(), into=Domain)


def _load_root(path: Path) -> TrustRoot:
    pem = read_bounded(path, what="TEE root", max_bytes=MIB)
    return TrustRoot.from_pem(pem.decode("ascii", errors="replace"))


def _default_root(domain: Domain, *, home: Home) -> TrustRoot:
    return INTEL_ROOT if domain.trust == "hardware" else _load_root(home.tee / "root.pem")


def _pin(passports: tuple[Path, ...], *, bundle: TrustBundle) -> list[Checkpoint]:
    heads = []
    for path in passports:
        data = read_bounded(path, what="passport", max_bytes=MAX_PASSPORT_BYTES)
        heads.append(verify_passport(data, trust=bundle, now=datetime.now(UTC)).log)
    return sorted(heads, key=lambda head: head.log_size)
