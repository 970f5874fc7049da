"""The pipelines that train: on their real engines, each model opened, loaded by others' libraries and measured again.

Accuracy is what the receipt says of rows that the training held out: it must be that of the opened model on the same
rows, and within 4 per cent of a reference that plain scikit-learn or XGBoost learned from the rest; 8 for BigDL, whose
random start no seed fixes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pandas as pd
import pytest

from ppml_airflow.cli.sources import demo_source
from tests.support import trained_models
from tests.support.commands import PPML, Commands, processes_of
from tests.support.ready_images import CHECKOUT, require_image

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
DAGS = CHECKOUT / "dags"


@pytest.fixture(autouse=True)
def image() -> None:
    require_image("training")


def train(ppml: Commands, kind: str, *options: str, **params: int) -> tuple[Path, dict[str, Any]]:
    """Run a pipeline; the opened model's folder, and the passport's report."""
    done = ppml("run", str(DAGS / f"train_{kind}.py"), "--conf", json.dumps(params), *options)
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines()[-3:])
    report = ppml("verify", told["passport"], "--trust", str(ppml.home / "owner" / "trust.json"), "--json").stdout
    return Path(told["result"]), json.loads(report)


def judge(ppml: Commands, kind: str, *, model: Path, source: Path) -> dict[str, float]:
    """What the opened model is worth outside, and a reference."""
    python = ppml.home / "images" / "training" / "env" / "bin" / "python"
    command = (str(python), "-I", "-B", trained_models.__file__, kind, str(model), str(source))
    judged: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return judged


def check(ppml: Commands, kind: str, *, dataset: str, tolerance: float = 0.04, **params: int) -> Path:
    """Train, and compare what the run says with what is found outside."""
    model, report = train(ppml, kind, **params)
    described = json.loads((model / "model.json").read_text())
    assert params.items() <= described.items()
    judged = judge(ppml, kind, model=model, source=ppml.home / "agents" / "owner" / "sources" / f"{dataset}.csv")
    assert judged["rows"] > 100
    assert judged["accuracy"] == pytest.approx(described["accuracy"], abs=1 / judged["rows"])
    assert judged["accuracy"] == pytest.approx(judged["reference"], abs=tolerance)
    (step,) = report["steps"]
    assert step["disclosed"] == {"accuracy_percent": round(100 * described["accuracy"])}
    return model


def test_mllib_learns_what_scikit_learn_learns_and_its_model_runs_as_onnx(ppml: Commands) -> None:
    model = check(ppml, "mllib", dataset="tumours", iterations=30, held_out=40, seed=11)
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.onnx"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("malignant", "benign"), "input tumours has no column malignant; it has: mean_radius"),
        (("\n", ",site\n"), "column site of input tumours has type string; wanted is number"),
    ],
    ids=["no-label", "a-column-of-text"],
)
def test_a_table_that_cannot_be_learned_from_is_refused_in_full_and_leaves_no_model(
    ppml: Commands, tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    head, *rows = demo_source("tumours", folder=tmp_path).read_text().splitlines()
    head = f"{head}\n".replace(*change)
    text = head + "".join(f"{row},left\n" if "site" in head else f"{row}\n" for row in rows)
    (tmp_path / "given.csv").write_text(text)
    source = f"tumours={tmp_path / 'given.csv'}"
    done = ppml("run", str(DAGS / "train_mllib.py"), "--source", source, expect=2)
    assert said in done.stderr
    assert "result:" not in done.stdout


def test_two_workers_of_xgboost_learn_what_one_learns_in_plain(ppml: Commands) -> None:
    check(ppml, "xgboost", dataset="visits", trees=40, depth=3, held_out=30, seed=5)


def test_two_processes_of_torch_learn_to_read_and_leave_no_pickle(ppml: Commands) -> None:
    model = check(ppml, "torch", dataset="digits", epochs=12, hidden=40, held_out=20, seed=3)
    assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.onnx", "model.safetensors"]


def test_bigdl_learns_to_read_on_a_spark_of_its_own(ppml: Commands) -> None:
    require_image("bigdl")
    check(ppml, "bigdl", dataset="digits", tolerance=0.08, epochs=10, filters=8, held_out=25, seed=2)


@pytest.mark.parametrize("kind", ["xgboost", "torch"])
def test_a_training_that_is_cancelled_leaves_no_process(ppml: Commands, kind: str) -> None:
    command = (str(PPML), "run", str(DAGS / f"train_{kind}.py"))
    process = subprocess.Popen(command, env=ppml.environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("running" in line for line in process.stdout)
    until = time.monotonic() + 120
    while not workers(ppml.home) and time.monotonic() < until:
        time.sleep(0.2)
    assert workers(ppml.home)
    process.terminate()
    process.wait(60)
    until = time.monotonic() + 30
    while processes_of(ppml.home) and time.monotonic() < until:
        time.sleep(0.5)
    assert processes_of(ppml.home) == []


def workers(home: Path) -> list[str]:
    """Spark's Python workers, and what they started."""
    found = []
    for process in processes_of(home):
        try:
            command = Path("/proc", process, "cmdline").read_bytes()
        except OSError:
            continue
        if b"pyspark.daemon" in command or b"torch" in command:
            found.append(process)
    return found


def test_scores_by_a_model_from_another_enclave_are_onnxruntimes(ppml: Commands, tmp_path: Path) -> None:
    """The shipped DAG lets nobody open the model; here the analyst may, to compare."""
    shutil.copytree(DAGS / "train_mllib", tmp_path / "train_mllib")
    text = (DAGS / "train_and_score.py").read_text()
    opened = text.replace('{"model": []}', '{"model": ["analyst"]}')
    opened = opened.replace(">> PassportOperator()", '>> DecryptOperator(dataset="model") >> PassportOperator()')
    (tmp_path / "train_and_score.py").write_text(opened)
    conf = {"iterations": 10, "seed": 6, "minimum_risk": 0.3}
    ppml("run", str(tmp_path / "train_and_score.py"), "--conf", json.dumps(conf))
    folder = ppml.home / "agents" / "recipient" / "opened"
    described = json.loads((folder / "model" / "model.json").read_text())
    rows = pd.read_csv(ppml.home / "agents" / "owner" / "sources" / "tumours.csv")
    session = ort.InferenceSession((folder / "model" / "model.onnx").read_bytes())
    rows["risk"] = session.run(["probability"], {"features": rows[described["features"]].to_numpy("float32")})[0]
    wanted = rows[rows["risk"] >= 0.3][["mean_radius", "malignant", "risk"]].reset_index(drop=True)
    assert 100 < len(wanted) < 400
    pd.testing.assert_frame_equal(pd.read_csv(folder / "risks.csv"), wanted, rtol=1e-5, check_dtype=False)


def test_the_demo_of_training_ends_with_a_model(ppml: Commands) -> None:
    said = ppml("demo", "--dag", "train_mllib", "--conf", '{"iterations": 5, "seed": 4}').stdout
    told = dict(line.split(": ", 1) for line in said.splitlines()[-3:])
    assert (Path(told["result"]) / "model.onnx").is_file()
