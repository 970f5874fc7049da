"""`ppml collateral`: what vendors say of platforms, fetched, kept, and carried to machines without network.

Kept is only what its vendor signed, of now, and no older than anything that was kept before.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from ppml_airflow.attestation.collateral.cache import MAX_BUNDLE_BYTES, CollateralCache, parse_family
from ppml_airflow.attestation.collateral.memory import SeenFile
from ppml_airflow.attestation.collateral.service import INTEL_PCS, CollateralService, fetch_collateral
from ppml_airflow.attestation.collateral.statements import PlatformFamily, family_of, verify_collateral
from ppml_airflow.attestation.quotes.files import MAX_TEXT_BYTES, parse_quote_file
from ppml_airflow.attestation.roots import INTEL_ROOT, TrustRoot
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.terminal import plain
from ppml_airflow.cli.verify import read_bounded
from ppml_airflow.errors import MalformedInputError, VerificationError
from ppml_airflow.units import KIB, format_instant, spell_trust

_FILE = click.Path(dir_okay=False, path_type=Path)
_trust_root = click.option("--trust-root", metavar="FILE", type=_FILE, help="PEM of the only root that counts.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@click.group()
def collateral() -> None:
    """Fetch collateral, list it, carry it to machines without network."""


@collateral.command()
@click.argument("platform", metavar="QUOTE | FAMILY")
@click.option(
    "--url", default=INTEL_PCS, show_default=True, help="The caching service (PCCS), or Intel's (PCS); https."
)
@click.option(
    "--ca", "ca_file", metavar="FILE", type=_FILE, help="PEM of the CA that certified it; else the machine's."
)
@_trust_root
def fetch(platform: str, *, url: str, ca_file: Path | None, trust_root: Path | None) -> None:
    """Fetch and keep the newest collateral for a QUOTE's platform, or of a FAMILY: sgx-00a067110000-processor."""
    family = _family(platform)
    service = CollateralService(url=url, ca_file=ca_file)
    cache = _cache(trust_root)
    verified = cache.store(family, collateral=fetch_collateral(family, service=service), now=datetime.now(UTC))
    expires = format_instant(verified.expires)
    click.echo(f"{family}: {verified.numbers}; good until {expires}; kept in {cache.folder}")


@collateral.command("list")
@_trust_root
@_as_json
def list_(*, trust_root: Path | None, as_json: bool) -> None:
    """Say of which platforms collateral is kept, how new it is and until when it is good."""
    cache, now = _cache(trust_root), datetime.now(UTC)
    rows = [_describe(family, cache=cache, now=now) for family in cache.families()]
    if as_json:
        click.echo(json.dumps(rows))
    else:
        lines = [", ".join(f"{name}: {value}" for name, value in row.items()) for row in rows]
        click.echo("\n".join(plain(line) for line in lines or ["no collateral is kept; ppml collateral fetch"]))


@collateral.command()
@click.argument("bundle", type=_FILE)
def export(bundle: Path) -> None:
    """Write all collateral that is kept to BUNDLE, for a machine without network."""
    cache = _cache(None)
    bundle.write_bytes(cache.export(now=datetime.now(UTC)))
    click.echo(f"{len(list(cache.families()))} written to {bundle}")


@collateral.command("import")
@click.argument("bundle", type=_FILE)
@_trust_root
def import_(bundle: Path, *, trust_root: Path | None) -> None:
    """Verify and keep all collateral in BUNDLE, or nothing of it."""
    data = read_bounded(bundle, what="bundle", max_bytes=MAX_BUNDLE_BYTES)
    families = _cache(trust_root).import_(data, now=datetime.now(UTC))
    click.echo("\n".join(f"{family}: kept" for family in families) or "nothing is in it")


def load_kept(quote: bytes) -> bytes:
    """The collateral that is kept here for a quote.

    Raises:
        UnavailableError: none is.
        MalformedInputError: the quote does not say of which platform it is.
    """
    return _cache(None).load(family_of(quote))


def _cache(trust_root: Path | None) -> CollateralCache:
    folder = Home.default().collateral
    root = INTEL_ROOT
    if trust_root is not None:
        pem = read_bounded(trust_root, what="trust root", max_bytes=256 * KIB)
        root = TrustRoot.from_pem(pem.decode(errors="replace"))
    return CollateralCache(folder=folder, roots=(root,), seen=SeenFile(folder / "seen.json"))


def _family(platform: str) -> PlatformFamily:
    if not Path(platform).exists():
        return parse_family(platform)
    text = read_bounded(Path(platform), what="quote", max_bytes=MAX_TEXT_BYTES)
    return family_of(parse_quote_file(text)[1])


def _describe(family: PlatformFamily, *, cache: CollateralCache, now: datetime) -> dict[str, object]:
    row: dict[str, object] = {"platforms": str(family)}
    try:
        verified = verify_collateral(cache.load(family), family=family, roots=cache.roots, now=now)
    except (VerificationError, MalformedInputError) as error:
        return {**row, "state": f"REFUSED: {error.message}", "to do": error.hint}
    trust = next(spell_trust(root.trust) for root in cache.roots if root.key_id == verified.root_key_id)
    return {
        **row,
        "state": "good",
        "numbers": str(verified.numbers),
        "stated": format_instant(verified.stated),
        "expires": format_instant(verified.expires),
        "trust": trust,
    }
