"""The pipeline `batch_inference` on other files: magika's model under labels of our own, and rows that it never saw."""

from __future__ import annotations

from pathlib import Path

import magika
import numpy as np
import onnxruntime as ort
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.ready_images import CHECKOUT

DAG_FILE = CHECKOUT / "dags" / "batch_inference.py"
MODEL = next(Path(magika.__file__).parent.rglob("model.onnx")).read_bytes()
MODEL_CANARY = MODEL[len(MODEL) // 2 :][:48]
LABELS = [f"type-{number}" for number in range(214)]


def write_sources(folder: Path) -> Path:
    """The model owner's folder `detector`, the data owner's `samples.parquet`."""
    write_model(folder / "detector", MODEL)
    random = np.random.default_rng(23)
    files = [random.integers(32, 32 + 3 * number, 2048) % 257 for number in range(1, 71)]
    features = pa.array([values.astype("<i4").tobytes() for values in files], pa.binary())
    pq.write_table(pa.table({"sample": range(70), "features": features}), folder / "samples.parquet")
    return folder


def write_model(folder: Path, model: bytes) -> None:
    """A model owner's folder."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model)
    (folder / "labels.txt").write_text("\n".join(LABELS))


def inference_run(
    sources: Path, *, model: str = "detector", samples: str = "samples.parquet", dag: Path = DAG_FILE
) -> tuple[str, ...]:
    """Arguments of `ppml` that run it."""
    given = {"detector": sources / model, "samples": sources / samples}
    return ("run", str(dag), *(word for name, path in given.items() for word in ("--source", f"{name}={path}")))


def require_kinds(answer: Path, *, sources: Path, minimum_score: float) -> None:
    """The answer is what onnxruntime says of the plain files."""
    rows = pq.read_table(sources / "samples.parquet")["features"].to_pylist()
    tensor = np.stack([np.frombuffer(row, "<i4") for row in rows])
    scores = ort.InferenceSession(MODEL).run(None, {"bytes": tensor})[0]
    found = pd.DataFrame(
        {
            "sample": range(len(rows)),
            "kind": [LABELS[position] for position in scores.argmax(axis=1)],
            "score": scores.max(axis=1).astype(float),
        }
    )
    wanted = found[found["score"] >= minimum_score].reset_index(drop=True)
    assert 0 < len(wanted) < len(rows)
    pd.testing.assert_frame_equal(pd.read_csv(answer), wanted, rtol=1e-5)
