"""A simulated domain on one machine: this process acts as its owner, its broker's administrator and its agents' holder.

For trying out and for tests. Whoever holds PPML_HOME holds every key of it; nothing here ever touches a domain of
hardware trust. In production each party makes its own keys on its own machine, and people sign.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import ImageReference, Policy
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.service.callers import Caller, hash_token
from ppml_airflow.cli.agents import OWNER, agents_of, sealing_agents
from ppml_airflow.cli.home import Home, private_folder, write_private
from ppml_airflow.cli.owner import CERTIFICATE_LIFETIME, Owner, root_key_files
from ppml_airflow.cli.users import hand_over
from ppml_airflow.domain.adhoc import open_right
from ppml_airflow.domain.documents import Approval, Certificate, Domain
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError
from ppml_airflow.keys.keystore import KeystoreFile, load_passphrase
from ppml_airflow.provenance.trust_bundle import make_trust_bundle
from ppml_airflow.sealing.wrapping import SealingKey, dataset_key_context
from ppml_airflow.signing import SigningKey
from ppml_airflow.units import format_instant

POLICY = "default"


def ensure_simulated_domain(home: Home, *, now: datetime, owners: int = 1, threshold: int = 1) -> Owner:
    """Make what is missing of a simulated domain: keys, certificates, keystore, platform, token, trust bundle.

    Raises:
        PolicyDeniedError: the home belongs to a domain of hardware trust.
    """
    if not home.domain_file.exists():
        _create_domain(home, owners=owners, threshold=threshold)
    owner = require_simulated(home)
    owner.certify(_signing_key(home.broker / "signing.pem").public, role="broker", subject="broker", now=now)
    for agent in sealing_agents(home):
        _signing_key(home.agent(agent) / "producer.pem")
    _sealing_key(home.agent("recipient") / "recipient.key")
    _sealing_key(home.owner / "log.key")
    _ensure_keystore(home)
    _ensure_tokens(home)
    for folder in (home.storage, home.passports, home.run, home.airflow, home.dags):
        if not folder.exists():  # one that is there may be shared with a party by now
            private_folder(folder)
    if not home.tee.exists():
        SimulatedPlatform.create(home.tee, now=now)
    root = SimulatedPlatform.load(home.tee).root
    bundle = make_trust_bundle(owner.domain, tee_roots=[root], revocations=owner.revocations())
    write_private(home.trust_bundle, canonical.encode(bundle))
    return owner


def require_simulated(home: Home) -> Owner:
    """The owner of this home's domain, if it is a simulated one.

    Raises:
        PolicyDeniedError: it is not; nobody signs for a real owner.
    """
    owner = Owner.load(home)
    if owner.domain.trust != "simulated":
        raise PolicyDeniedError(
            f"domain {owner.domain.name} is not simulated; only its owners sign for it",
            code="not_simulated",
            hint="ppml compile, then ppml approve by each owner",
        )
    return owner


def ensure_certified(
    home: Home, *, owner: Owner, approval: Approval, sealers: Mapping[str, str] | None = None, now: datetime
) -> list[str]:
    """Make and certify the keys that an approval names, and have its policies.

    Args:
        home: where the keys lie.
        owner: signs.
        approval: of the pipeline.
        sealers: input -> agent that seals it, and whose key is certified for it; the owner's if not named.
        now: the certificates' beginning.

    Returns:
        What was made, in words.
    """
    before = set(owner.certificates().by_serial)
    inputs = {item.dataset for step in approval.steps for item in step.inputs}
    outputs = {output.dataset for step in approval.steps for output in step.outputs}
    for dataset in sorted(inputs | outputs):
        ensure_dataset_key(home, owner=owner, dataset=dataset, now=now)
    for agent in sealing_agents(home):
        own = {dataset for dataset in inputs - outputs if (sealers or {}).get(dataset, OWNER) == agent}
        if own:
            producer = _signing_key(home.agent(agent) / "producer.pem").public
            owner.certify(producer, role="producer", subject=agent, datasets=own, now=now)
    recipient = _sealing_key(home.agent("recipient") / "recipient.key").public
    for subject, datasets in _recipients(approval).items():
        owner.certify(recipient, role="recipient", subject=subject, datasets=datasets, now=now)
    log = _sealing_key(home.owner / "log.key").public
    for subject, datasets in _log_recipients(approval).items():
        owner.certify(log, role="log", subject=subject, datasets=datasets, now=now)
    hand_over(home)
    made = [item for serial, item in owner.certificates().by_serial.items() if serial not in before]
    return sorted(f"key of {item.subject} certified as {item.role}" for item in made)


def ensure_dataset_key(home: Home, *, owner: Owner, dataset: str, now: datetime) -> None:
    """Make a dataset's X-Wing key, its private half wrapped by the broker's keystore, unless there is one."""
    for certificate in owner.certificates().by_serial.values():
        if (certificate.role, certificate.subject) == ("dataset", dataset):
            return
    key, serial = SealingKey.generate(), secrets.token_hex(16)
    kek_id = f"{dataset}-{serial[:8]}"
    context = dataset_key_context(domain_id=owner.domain.domain_id, dataset=dataset, kek_id=kek_id)
    keystore = KeystoreFile.load(home.broker / "keystore.json", passphrase=load_passphrase(home.broker / "passphrase"))
    keystore.create_key(kek_id)
    wrapped = keystore.wrap(key.private_bytes(), key_id=kek_id, context=context)
    write_private(home.broker / "dataset-keys" / f"{serial}.wrapped", wrapped)
    owner.store_certificate(
        Certificate(
            domain_id=owner.domain.domain_id,
            role="dataset",
            subject=dataset,
            key=key.public,
            datasets=(dataset,),
            kek_id=kek_id,
            not_after=format_instant(now + CERTIFICATE_LIFETIME),
            serial=serial,
        )
    )


def accept_measurement(
    home: Home, *, owner: Owner, image: str, measurement: str, beside: str | None = None, names: Iterable[str]
) -> list[Policy]:
    """Sign the next version of each policy that does not accept exactly this measurement of an image.

    Args:
        home: whose platform's root evidence must lead to.
        owner: signs.
        image: its name.
        measurement: the only one that the image may have from now on,
        beside: or this one of another runtime, where it is accepted already.
        names: of the policies.
    """
    signed = []
    for name in names:
        newest = owner.policies().get(name)
        known = newest.images.get(image) if newest is not None else None
        accepted = known.measurements if known is not None else ()
        kept = tuple(one for one in accepted if one == beside and one != measurement)
        reference = ImageReference(measurements=(measurement, *kept), signers=known.signers if known else ())
        if newest is None:
            policy = _first_policy(home, domain=owner.domain, name=name, image=image, reference=reference)
        elif set(accepted) == set(reference.measurements):
            continue
        else:
            policy = msgspec.structs.replace(
                newest, version=newest.version + 1, images={**newest.images, image: reference}
            )
        owner.store_policy(policy)
        signed.append(policy)
    return signed


def airflow_token(home: Home) -> str:
    """The token by which the broker knows Airflow."""
    return home.airflow_token.read_text().strip()


def _first_policy(home: Home, *, domain: Domain, name: str, image: str, reference: ImageReference) -> Policy:
    return Policy(
        domain_id=domain.domain_id,
        name=name,
        version=1,
        images={image: reference},
        tees=("sgx",),
        trust_roots=(SimulatedPlatform.load(home.tee).root.key_id,),
        tcb_statuses=("UpToDate",),
        advisories=(),
        minimum_evaluation_number=1,
        platform_features=(),
    )


def _create_domain(home: Home, *, owners: int, threshold: int) -> None:
    if not 1 <= threshold <= owners:
        raise ConfigurationError(f"threshold is {threshold}; wanted 1 to {owners}, the number of owners")
    private_folder(home.path)
    private_folder(home.owner)
    names = ["root"] if owners == 1 else [f"root-{number}" for number in range(1, owners + 1)]
    roots = [_signing_key(home.owner / f"{name}.pem").public for name in names]
    if len(root_key_files(home)) != owners:
        raise ConfigurationError(
            f"{home.owner} holds root keys of another number of owners", hint="use another PPML_HOME"
        )
    domain = Domain(name="simulated", roots=tuple(roots), threshold=threshold, trust="simulated")
    write_private(home.domain_file, canonical.encode(domain))


def _recipients(approval: Approval) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for step in approval.steps:
        for output in step.outputs:
            for subject in output.recipients:
                found.setdefault(subject, set()).add(output.dataset)
                found[subject] |= open_right(step)
    return found


def _log_recipients(approval: Approval) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for step in approval.steps:
        for subject in step.log_recipients:
            found.setdefault(subject, set()).update(open_right(step))
    return found


def _signing_key(path: Path) -> SigningKey:
    if not path.exists():
        private_folder(path.parent)
        SigningKey.generate().store(path)
    return SigningKey.load(path)


def _sealing_key(path: Path) -> SealingKey:
    if not path.exists():
        private_folder(path.parent)
        SealingKey.generate().store(path)
    return SealingKey.load(path)


def _ensure_keystore(home: Home) -> None:
    passphrase = home.broker / "passphrase"
    if not passphrase.exists():
        write_private(passphrase, secrets.token_urlsafe(32).encode() + b"\n")
    if not (home.broker / "keystore.json").exists():
        KeystoreFile.create(home.broker / "keystore.json", passphrase=load_passphrase(passphrase))


def _ensure_tokens(home: Home) -> None:
    """Give Airflow and each agent a token of its own."""
    files = {"airflow": home.airflow_token}
    files |= {f"{name}-agent": home.agent(name) / "token" for name in agents_of(home)}
    callers = {}
    for name, file in files.items():
        if not file.exists():
            write_private(file, secrets.token_urlsafe(32).encode() + b"\n")
        callers[hash_token(file.read_text().strip())] = Caller(name=name, pipelines=("*",))
    write_private(home.broker / "tokens.json", canonical.encode(callers))
