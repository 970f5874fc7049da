"""A quote verified and appraised, against dcap-qvl alone on the same quote and collateral.

Both in the same rounds, one after the other, in one process: CPU time per quote. A quote of the simulated platform,
which takes the code path of a real one; with PPML_CORPUS real quotes of SGX and TDX as well. Then the pool: quotes a
second with one process for each core, against one process. Writes `benchmarks/results/quote_verify.json`.

    python benchmarks/quote_verify.py [--rounds 9] [--quotes 200]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl

from ppml_airflow.attestation.appraisal import appraise
from ppml_airflow.attestation.evidence import Evidence
from ppml_airflow.attestation.policy import ImageReference, Policy, TdxConditions
from ppml_airflow.attestation.policy_files import NO_DOMAIN
from ppml_airflow.attestation.roots import INTEL_ROOT, TrustRoot
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.verification import NOTHING_SEEN, verify_evidence
from ppml_airflow.attestation.verifiers import VerifierPool

RESULTS = Path(__file__).parent / "results" / "quote_verify.json"
TARGET_MS = 0.2
RECORDED = {
    "SGX v3, recorded": ("quote_f8b81014b6", "2025-06-19"),
    "TDX v4, recorded": ("quote_c42f916432", "2026-03-01"),
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A quote and what it is judged by."""

    name: str
    evidence: Evidence
    collateral: bytes
    root: TrustRoot
    now: datetime


def simulated() -> Subject:
    now = datetime.now(UTC).replace(microsecond=0)
    with tempfile.TemporaryDirectory() as folder:
        platform = SimulatedPlatform.create(Path(folder) / "tee", now=now)
    quote = platform.quote_sgx(measurement=bytes(32), report_data=bytes(64))
    evidence, collateral = Evidence(tee="sgx", quote=quote), platform.collateral(now)
    return Subject(name="SGX v3, simulated", evidence=evidence, collateral=collateral, root=platform.root, now=now)


def recorded() -> Iterator[Subject]:
    folder = os.environ.get("PPML_CORPUS")
    if not folder:
        print("PPML_CORPUS names no folder of recorded quotes: simulated only")
        return
    with (Path(folder) / "index.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    for name, (stem, day) in RECORDED.items():
        row = next(row for row in rows if stem in row["file"] and day in row["collateral"])
        yield Subject(
            name=name,
            evidence=Evidence(tee="sgx" if "SGX" in name else "tdx", quote=(Path(folder) / row["file"]).read_bytes()),
            collateral=(Path(folder) / row["collateral"]).read_bytes(),
            root=INTEL_ROOT,
            now=datetime.fromisoformat(row["valid_at"]),
        )


def policy_for(subject: Subject) -> tuple[Policy, bytes]:
    """A policy that accepts the subject, with every kind of clause; and its report data."""
    verified = verify_evidence(subject.evidence, collateral=subject.collateral, roots=(subject.root,), now=subject.now)
    policy = Policy(
        domain_id=NO_DOMAIN,
        name="bench",
        version=1,
        images={"image": ImageReference(measurements=("ab" * 32, verified.measurement))},
        tees=("sgx", "tdx"),
        trust_roots=(subject.root.key_id,),
        tcb_statuses=("UpToDate", "ConfigurationAndSWHardeningNeeded"),
        tcb_grace_days={"OutOfDate": 90},
        advisories=("INTEL-SA-00289", "INTEL-SA-00615"),
        minimum_evaluation_number=1,
        platform_features=("smt", "dynamic_platform", "cached_keys"),
        tdx=TdxConditions(attributes=("pks",)),
    )
    return policy, verified.report_data


def ours(subject: Subject) -> Callable[[], object]:
    policy, report_data = policy_for(subject)

    def judge() -> object:
        verified = verify_evidence(
            subject.evidence, collateral=subject.collateral, roots=(subject.root,), now=subject.now
        )
        result = appraise(
            verified,
            policy=policy,
            image="image",
            expected_report_data=report_data,
            domain_trust=verified.trust,
            challenged_at=subject.now,
            seen=NOTHING_SEEN,
            now=subject.now,
        )
        assert result.verdict == "accepted", result
        return result

    return judge


def peer(subject: Subject) -> Callable[[], object]:
    """dcap-qvl as one would call it alone: verifier and collateral read once, the status taken from its claims."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(subject.collateral.decode())
    verifier = dcap_qvl.QuoteVerifier(subject.root.certificate)
    now_s = int(subject.now.timestamp())

    def verify() -> object:
        policy = dcap_qvl.QuotePolicy.claims_only(now_s)
        claims = verifier.verify_with_policy(subject.evidence.quote, collateral, now_s, policy).to_json()
        return json.loads(claims)["tcb"]["status"]

    return verify


def cpu_ms(work: Callable[[], object], *, times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times * 1e3


def quotes_per_second(subject: Subject, *, processes: int, quotes: int) -> float:
    pool = VerifierPool(processes=processes)
    arguments = {"collateral": subject.collateral, "roots": (subject.root,), "now": subject.now}
    try:
        with ThreadPoolExecutor(4 * processes) as threads:
            list(threads.map(lambda _: pool(subject.evidence, **arguments), range(8 * processes)))  # start them all
            start = time.perf_counter()
            list(threads.map(lambda _: pool(subject.evidence, **arguments), range(quotes)))
            return quotes / (time.perf_counter() - start)
    finally:
        pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quotes", type=int, default=200)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []

    def tell(figure: str, values: list[float], *, unit: str, target: float | None = None, least: bool = False) -> None:
        value = statistics.median(values)
        met = None if target is None else (value >= target if least else value <= target)
        rows.append({"figure": figure, "value": round(value, 3), "unit": unit, "target": target, "met": met})
        said = "" if met is None else "  met" if met else "  not met"
        print(f"  {figure:<62} {value:9.3f} {unit}  ({min(values):.3f} to {max(values):.3f}){said}")

    cores = len(os.sched_getaffinity(0))
    print(f"{options.rounds} rounds of {options.quotes} quotes, {cores} cores")
    subjects = [simulated(), *recorded()]
    for subject in subjects:
        judge, verify = ours(subject), peer(subject)
        both = [
            (cpu_ms(judge, times=options.quotes), cpu_ms(verify, times=options.quotes)) for _ in range(options.rounds)
        ]
        tell(f"{subject.name}: verified and appraised, CPU", [one for one, _ in both], unit="ms")
        tell(f"{subject.name}: dcap-qvl alone, CPU", [other for _, other in both], unit="ms")
        above = [one - other for one, other in both]
        tell(f"{subject.name}: above dcap-qvl alone, CPU", above, unit="ms", target=TARGET_MS)
    pools: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(max(3, options.rounds // 3)):
        for processes, speeds in pools.items():
            speeds.append(quotes_per_second(subjects[0], processes=processes, quotes=4 * options.quotes))
    for processes, speeds in pools.items():
        tell(f"{subjects[0].name}: a pool of {processes}, quotes a second", speeds, unit="1/s")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
