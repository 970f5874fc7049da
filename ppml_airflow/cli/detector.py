"""The sources of batch inference: the model owner's detector of file types, and the data owner's files as features.

The model is magika's (Apache-2.0), as its package carries it, with a file of its labels. The data are files that lie on
this machine: features only, no path, no name. Features are magika's own, by its documented rule: 1024 bytes of the
stripped beginning and 1024 of the stripped end of a file, each at most 4096 bytes in, padded with 256.
"""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

_SIDE, _BLOCK, _PADDING, _SMALLEST = 1024, 4096, 256, 8
_KINDS = ("*.py", "*.so", "*.txt", "*.json", "*.csv", "*.png", "*.html", "*.js", "*.css", "*.toml", "*.zip", "*.h")
_OF_A_KIND = 25


def write_detector(folder: Path) -> None:
    """Write the folder of the model: `model.onnx` and `labels.txt`, a label per position of its scores."""
    import magika

    model = next((Path(magika.__file__).parent / "models").rglob("model.onnx"))
    folder.mkdir()
    shutil.copy(model, folder / "model.onnx")
    labels = json.loads((model.parent / "config.min.json").read_text())["target_labels_space"]
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))


def write_samples(path: Path) -> None:
    """Write the table of samples: a number, and the features of one file as 2048 int32, little-endian."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = [features_of(file.read_bytes()) for file in sample_files()]
    table = pa.table({"sample": range(len(features)), "features": pa.array(features, pa.binary())})
    pq.write_table(table, path)


def sample_files() -> Iterator[Path]:
    """Files of this Python installation, a few of each kind, in a fixed order."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    for kind in _KINDS:
        found = (file for root in roots for file in sorted(root.rglob(kind)))
        yield from islice((file for file in found if file.is_file() and file.stat().st_size >= _SMALLEST), _OF_A_KIND)


def features_of(content: bytes) -> bytes:
    """The features of a file's content."""
    import numpy as np

    beginning, end = content[:_BLOCK].lstrip()[:_SIDE], content[-_BLOCK:].rstrip()[-_SIDE:]
    features = np.full(2 * _SIDE, _PADDING, dtype="<i4")
    features[: len(beginning)] = np.frombuffer(beginning, dtype=np.uint8)
    features[2 * _SIDE - len(end) :] = np.frombuffer(end, dtype=np.uint8)
    return features.tobytes()
