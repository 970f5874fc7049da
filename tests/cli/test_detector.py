"""The data owner's features are those that magika itself computes, and hold no path."""

from __future__ import annotations

from pathlib import Path

import magika
import numpy as np
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest

from ppml_airflow.cli.detector import features_of, write_detector, write_samples

CONTENTS = [
    b"  \n#!/bin/sh\necho hello world, this is a script\n" * 3,
    b"%PDF-1.4\n" + bytes(range(256)) * 50,
    b"{" + b'"key": [1, 2, 3],' * 900 + b"}   \n\n",
    b"PK\x03\x04" + b"\x00" * 3000,
]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_features_give_magikas_own_answer(content: bytes, tmp_path: Path) -> None:
    write_detector(tmp_path / "detector")
    labels = (tmp_path / "detector" / "labels.txt").read_text().splitlines()
    session = ort.InferenceSession((tmp_path / "detector" / "model.onnx").read_bytes())
    tensor = np.frombuffer(features_of(content), "<i4").reshape(1, 2048)
    scores = session.run(None, {"bytes": tensor})[0][0]
    wanted = magika.Magika().identify_bytes(content)
    assert labels[scores.argmax()] == str(wanted.prediction.dl.label)
    assert scores.max() == pytest.approx(wanted.prediction.score, abs=1e-5)


def test_the_samples_are_numbers_and_features_only(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples.parquet")
    table = pq.read_table(tmp_path / "samples.parquet")
    assert table.column_names == ["sample", "features"]
    assert {len(features) for features in table["features"].to_pylist()} == {8192}
    assert table.num_rows > 100
