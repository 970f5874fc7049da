"""Mutated quotes, judged by both readings. With a given chance the same ones each time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime

from ppml_airflow.attestation.evidence import Evidence, Tee
from ppml_airflow.attestation.roots import TrustRoot
from ppml_airflow.attestation.verification import VerifiedEvidence, verify_evidence
from ppml_airflow.errors import MalformedInputError, VerificationError
from tests.attestation.reading import RefusedByOracle, Verdict, judge

# Offsets where a quote changes its meaning: header, report, lengths, keys, signatures, start of the chain.
SEAMS = (0, 2, 4, 12, 48, 96, 112, 304, 368, 432, 436, 500, 564, 948, 1012, 1014, 1046, 1048, 1052)


def mutate(data: bytes, *, chance: random.Random) -> bytes:
    """Flip, replace, drop, insert, swap or cut, here or there."""
    mutated = bytearray(data)
    at = chance.choice(SEAMS) if chance.random() < 0.3 else chance.randrange(len(data))
    kind = chance.randrange(6)
    if kind == 0:
        mutated[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        mutated[at] = chance.randrange(256)
    elif kind == 2:
        del mutated[at : at + chance.randrange(1, 70)]
    elif kind == 3:
        mutated[at:at] = chance.randbytes(chance.randrange(1, 70))
    elif kind == 4:
        length = chance.randrange(1, 65)
        other = chance.randrange(len(data))
        mutated[at : at + length], mutated[other : other + length] = (
            mutated[other : other + length],
            mutated[at : at + length],
        )
    else:
        del mutated[at:]
    return bytes(mutated)


LENGTHS = ("a PEM chain to its end", "a quoting enclave's report to the end", "as many bytes as it says")
"""Where the oracle insists on lengths that nothing signs."""


@dataclass(frozen=True, kw_only=True)
class Good:
    """A quote that both readings accept, and what it is judged by."""

    tee: Tee
    quote: bytes
    collateral: bytes
    root: TrustRoot
    now: datetime

    @property
    def last_certificate_at(self) -> int:
        """Where the last certificate of the chain in the quote begins: the root, which nobody looks at."""
        return self.quote.rindex(b"-----BEGIN CERTIFICATE")

    def verify(self, quote: bytes) -> VerifiedEvidence | None:
        """Ours: what the quote says, or None."""
        evidence = Evidence(tee=self.tee, quote=quote)
        try:
            return verify_evidence(evidence, collateral=self.collateral, roots=(self.root,), now=self.now)
        except (VerificationError, MalformedInputError):
            return None

    def judge(self, quote: bytes) -> Verdict | str:
        """The oracle's: what the quote says, or why it is refused."""
        try:
            return judge(quote, collateral=self.collateral, root=self.root.certificate, now=self.now)
        except RefusedByOracle as error:
            return str(error)


def judge_mutations(good: Good, *, count: int, chance: random.Random) -> int:
    """Have both readings judge mutated quotes; how many ours refused.

    What one of them accepts says exactly what the good quote says. Ours never refuses what the oracle accepts. It
    accepts what the oracle refuses in two cases, in which nothing that is signed was touched:

    1. The root certificate in the quote was changed, or what follows it. Ours takes its root from whoever asks.
    2. A length was changed that is not signed, so that it leaves bytes over. Ours does not mind, the oracle does.
    """
    verified, verdict = good.verify(good.quote), good.judge(good.quote)
    assert verified is not None
    assert isinstance(verdict, Verdict)
    refused = 0
    for _ in range(count):
        mutated = mutate(good.quote, chance=chance)
        ours, oracle = good.verify(mutated), good.judge(mutated)
        assert ours in (None, verified)
        if isinstance(oracle, Verdict):
            assert (oracle, ours) == (verdict, verified)
        elif ours is not None:
            only_the_root = mutated[: good.last_certificate_at] == good.quote[: good.last_certificate_at]
            assert only_the_root or oracle in LENGTHS
        refused += ours is None
    return refused
