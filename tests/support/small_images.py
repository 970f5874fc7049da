"""A trusted image of nothing but one module, and the quoting service as a process: real set-up, real measurement.

The module plays the guest, so that a test can say what a guest does.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.domain.documents import Domain
from ppml_airflow.enclaves.images import set_up_image
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.protocol.messages import Bundle, LaunchRequest
from ppml_airflow.signing import Envelope, SigningKey

DOMAIN = Domain(name="tests", roots=(SigningKey.generate().public,), threshold=1, trust="simulated")


def make_wheel(folder: Path, *, files: dict[str, str], name: str = "sample") -> Path:
    """A wheel of these files."""
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD")))
    return wheel


def make_source(folder: Path) -> Path:
    """The folder images/plain of a checkout: no requirements."""
    source = folder / "checkout" / "images" / "plain"
    source.mkdir(parents=True, exist_ok=True)
    (source / "requirements.txt").write_text("# nothing\n")
    (source / "README.md").write_text("An image for tests.\n")
    return source


class SmallInstallation:
    """A PPML_HOME with a simulated platform and the image `plain`, whose guest is the given program."""

    def __init__(self, folder: Path, *, guest: str) -> None:
        self.home = folder / "home"
        self.socket = folder / "quoting.sock"
        self.platform = SimulatedPlatform.create(self.home / "tee", now=datetime.now(UTC))
        wheel = make_wheel(
            folder,
            name="ppml_airflow",
            files={
                "ppml_airflow/__init__.py": "",
                "ppml_airflow/guest/__init__.py": "",
                "ppml_airflow/guest/__main__.py": guest,
            },
        )
        self.image = set_up_image("plain", source=make_source(folder), home=self.home, domain=DOMAIN, wheel=wheel)
        self.runtime = ProcessRuntime(self.socket)
        self.log = folder / "quoting.log"

    @property
    def private_root(self) -> Path:
        """Where the service keeps the private directories of guests."""
        return PrivateFolders.of_home(self.home).root

    def command(self) -> list[str]:
        """How the service is started."""
        module = "ppml_airflow.enclaves.quoting"
        return [sys.executable, "-m", module, "--home", str(self.home), "--socket", str(self.socket)]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the service and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            service = subprocess.Popen(self.command(), stderr=log)
        wait_until(lambda: listens(self.socket) or service.poll() is not None)
        assert service.poll() is None, self.log.read_text()
        return service


def listens(path: Path) -> bool:
    """Whether somebody takes connections: the file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


class Serving:
    """The service of an installation while entered."""

    def __init__(self, installation: SmallInstallation) -> None:
        self._installation = installation

    def __enter__(self) -> Self:
        self.process = self._installation.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)


def launch_request(word: str, *, image: str = "plain") -> LaunchRequest:
    """A request that the playing guest reads its part from: the name of the step."""
    nothing = Envelope(payload=b"", payload_type="none", signatures=())
    return LaunchRequest(
        image=image,
        role="job",
        step=word,
        bundle=Bundle(approval=nothing, certificates=(), run=nothing, pins=nothing, manifests=()),
        code={},
        broker="unix:/nowhere",
        storage="/nowhere",
    )


def wait_until(is_so: object, *, timeout_s: float = 20.0) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not come true in time.
    """
    assert callable(is_so)
    until = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
