"""Mutated evidence, with a fixed seed: nothing mutated is accepted with other claims, by either reading."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable

import pytest

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.verification import VerifiedEvidence
from ppml_airflow.errors import MalformedInputError, VerificationError
from tests.attestation.conftest import NOW
from tests.attestation.mutations import Good, judge_mutations, mutate

QUOTES = 400
COLLATERALS = 150
CERTIFICATES = 200


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 100))])
def test_no_mutated_quote_is_accepted_with_other_claims(
    seed: int, quote: bytes, collateral: bytes, platform: SimulatedPlatform
) -> None:
    good = Good(tee="sgx", quote=quote, collateral=collateral, root=platform.root, now=NOW)
    refused = judge_mutations(good, count=QUOTES // 4, chance=random.Random(seed))
    assert refused > QUOTES // 4 * 0.7


def test_no_mutated_collateral_changes_what_is_accepted(
    collateral: bytes, verify: Callable[..., VerifiedEvidence], verified: VerifiedEvidence
) -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(COLLATERALS):
        mutated = mutate(collateral, chance=chance)
        try:
            assert verify(collateral=mutated) == verified
        except (VerificationError, MalformedInputError):
            refused += 1
    assert refused > COLLATERALS * 0.5


def test_no_mutated_certificate_is_accepted(
    quote: bytes, verify: Callable[..., VerifiedEvidence], verified: VerifiedEvidence
) -> None:
    chance = random.Random(11)
    bodies = re.findall(rb"CERTIFICATE-----\n(.*?)-----END", quote, re.DOTALL)
    for _ in range(CERTIFICATES):
        body = chance.choice(bodies)
        der = bytearray(base64.b64decode(body))
        der[chance.randrange(len(der))] = chance.randrange(256)
        text = base64.b64encode(der)
        mutated = quote.replace(body, b"".join(text[at : at + 64] + b"\n" for at in range(0, len(text), 64)))
        try:
            assert verify(quote=mutated) == verified
            assert body == bodies[-1] or mutated == quote, "only the root in the quote is not looked at"
        except (VerificationError, MalformedInputError):
            continue


def test_parts_of_two_good_quotes_do_not_make_a_third(
    quote: bytes, verify: Callable[..., VerifiedEvidence], verified: VerifiedEvidence, platform: SimulatedPlatform
) -> None:
    other = platform.quote_sgx(measurement=bytes(32), report_data=bytes(64))
    other_verified = verify(quote=other)
    for at in range(0, 1056, 8):
        try:
            assert verify(quote=quote[:at] + other[at:]) in (verified, other_verified)
        except (VerificationError, MalformedInputError):
            continue
