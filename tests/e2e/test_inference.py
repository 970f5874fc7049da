"""Batch inference in a joint domain: the answers are onnxruntime's, and the model is nowhere but where it belongs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppml_airflow import canonical
from ppml_airflow.domain.documents import RunClosed
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.provenance.passport import parse_passport
from tests.support.commands import Commands, processes_of
from tests.support.inference import DAG_FILE, MODEL_CANARY, inference_run, require_kinds, write_model, write_sources
from tests.support.onnx_models import linear_model
from tests.support.ready_images import take_over_images

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ppml() -> Iterator[Commands]:
    home = Path(tempfile.mkdtemp(prefix="ppml-"))
    take_over_images(home, "inference")
    commands = Commands(home)
    assert "owners: 2, threshold 2" in commands("domain", "create", "--owners", "2", "--threshold", "2").stdout
    yield commands
    left = processes_of(home)
    shutil.rmtree(home, ignore_errors=True)
    assert left == []


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


def holders_of_the_model(*roots: Path) -> set[Path]:
    found = set()
    for root in roots:
        for folder, _, names in os.walk(root):
            for file in map(Path(folder).joinpath, names):
                try:
                    if file.is_file() and not file.is_symlink() and MODEL_CANARY in file.read_bytes():
                        found.add(file)
                except OSError:
                    continue
    return found


class Watch(threading.Thread):
    """Looks for the model in the guest's private directory for as long as there is one."""

    def __init__(self, home: Path) -> None:
        super().__init__()
        self.root, self.seen, self.looks, self.ended = PrivateFolders.of_home(home).root, set(), 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            if (self.root).is_dir() and any(self.root.iterdir()):
                self.seen |= holders_of_the_model(self.root)
                self.looks += 1


def test_the_answers_are_those_of_onnxruntime_and_the_model_is_never_on_a_disk(ppml: Commands, sources: Path) -> None:
    watch = Watch(ppml.home)
    watch.start()
    try:
        said = ppml(*inference_run(sources), "--conf", json.dumps({"minimum_score": 0.5})).stdout
    finally:
        watch.ended.set()
        watch.join()
    assert "acting as all 2 owners of the SIMULATED domain" in said
    assert "key of model_owner certified as producer" in said
    result = next(line for line in said.splitlines() if line.startswith("result: ")).removeprefix("result: ")
    require_kinds(Path(result), sources=sources, minimum_score=0.5)
    assert watch.looks > 3
    assert watch.seen == set()
    assert holders_of_the_model(ppml.home, Path("/dev/shm")) == set()
    assert processes_of(ppml.home) == []


def test_a_model_of_the_wrong_shape_ends_with_one_word_and_no_output(ppml: Commands, sources: Path) -> None:
    write_model(sources / "wrong", linear_model(np.ones((3, 4), dtype=np.float32)))
    done = ppml(*inference_run(sources, model="wrong"), expect=2)
    assert "the model cannot be loaded, or does not take or give what the step binds" in done.stderr
    newest = ppml.newest_passport()
    assert "model takes ['values']; bound are ['bytes']" in ppml("logs", newest.stem).stdout


@pytest.mark.slow
def test_a_missing_column_is_named_before_anything_runs(ppml: Commands, sources: Path) -> None:
    pq.write_table(pa.table({"sample": [1], "bytes": [b"1"]}), sources / "other.parquet")
    done = ppml(*inference_run(sources, samples="other.parquet"), expect=2)
    assert "dataset samples has no column features" in done.stderr


@pytest.mark.slow
def test_two_enclaves_answer_together_what_onnxruntime_answers(ppml: Commands, sources: Path, tmp_path: Path) -> None:
    dag = tmp_path / "two_serve.py"
    shipped = DAG_FILE.read_text().replace('"batch_inference"', '"two_serve"')
    dag.write_text(
        shipped.replace('model="detector",', 'model="detector",\n        members=2,\n        batch_rows=35,')
    )
    said = ppml(*inference_run(sources, dag=dag), "--conf", json.dumps({"minimum_score": 0.5})).stdout
    result = next(line for line in said.splitlines() if line.startswith("result: ")).removeprefix("result: ")
    require_kinds(Path(result), sources=sources, minimum_score=0.5)
    passport = parse_passport(ppml.newest_passport().read_bytes())
    attempts = canonical.decode(passport.closed.payload, into=RunClosed).attempts
    assert [(one.index, one.outcome) for one in attempts if one.role == "member"] == [(0, "committed"), (1, "ended")]
    assert processes_of(ppml.home) == []


def kill_the_child(home: Path, *, killed: threading.Event) -> None:
    """Kill the process that holds the model, once there is one of this home."""
    root = PrivateFolders.of_home(home).root
    until = time.monotonic() + 120
    while not killed.wait(0.01) and time.monotonic() < until:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
                is_child = b"inference.child" in words and b"supervisor" not in words
                if is_child and (process / "cwd").readlink().is_relative_to(root):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.set()
            except OSError:
                continue


@pytest.mark.slow
@pytest.mark.kill
def test_a_killed_child_fails_the_attempt_and_the_next_run_commits(ppml: Commands, sources: Path) -> None:
    versions = ppml.home / "storage" / "kinds"
    before = sorted(path.name for path in versions.glob("[0-9]*"))
    killed = threading.Event()
    killer = threading.Thread(target=kill_the_child, args=(ppml.home,), kwargs={"killed": killed})
    killer.start()
    done = ppml(*inference_run(sources), expect=2)
    killer.join()
    assert killed.is_set()
    assert "out_of_memory" in done.stdout or "more memory than its step allows" in done.stderr
    assert sorted(path.name for path in versions.glob("[0-9]*")) == before
    assert processes_of(ppml.home) == []
    ppml(*inference_run(sources))
    assert len(list(versions.glob("[0-9]*"))) == len(before) + 1
