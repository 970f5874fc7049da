"""Java reads the vectors of frames as Python does (`sealing/test_frames.py`): the same records, the same errors."""

from __future__ import annotations

import json
import os
import subprocess

from ppml_airflow.workloads.flink.cluster import class_path
from ppml_airflow.workloads.installation import ImageInstallation
from tests.support.spark_jobs import CHECKOUT

VECTORS = CHECKOUT / "jvm" / "vectors" / "frames.json"


def test_java_reads_every_vector_as_it_says(flink: ImageInstallation) -> None:
    command = [str(flink.java), "-cp", class_path(flink), "ppml.flink.VectorReader", str(VECTORS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.defpath})
    results = json.loads(done.stdout)
    vectors = json.loads(VECTORS.read_text())["segments"]
    assert len(results) == len(vectors)
    for vector, result in zip(vectors, results, strict=True):
        if "error" in vector:
            assert vector["error"] in result["error"], vector["name"]
        else:
            assert (result["records"], result.get("error")) == (vector["records"], None), vector["name"]
