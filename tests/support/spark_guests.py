"""Real guests of a real Spark image: quoting service and guests as processes, the real broker on a Unix socket.

An image that is set up under `PPML_HOME` already is taken over by hard links, so that its environment need not be
installed again; else it is set up from its lock.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec
import uvicorn

from ppml_airflow import canonical
from ppml_airflow.attestation.policy import ImageReference
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.cli.image import build_wheel
from ppml_airflow.domain.documents import Approval, Input, IntegerParam, Limits, Output, Step
from ppml_airflow.enclaves.images import set_up_image
from ppml_airflow.enclaves.measurement import FileDigestCache, measure
from ppml_airflow.enclaves.quoting.private_folders import PrivateFolders
from ppml_airflow.enclaves.runtimes.process import ProcessRuntime
from ppml_airflow.protocol.messages import LaunchRequest
from tests.support.broker_world import World, make_keystore
from tests.support.guest_world import GuestWorld
from tests.support.small_images import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
SQL = b"""SELECT p.name AS plan, count(*) AS visits FROM visits v JOIN plans p ON v.id % 2 = p.id
WHERE v.id < :limit GROUP BY p.name ORDER BY p.name"""
CASTING = b"SELECT cast(name AS int) AS plan, count(*) AS visits FROM visits GROUP BY name"
UNKNOWN_COLUMN = b"SELECT names AS plan, count(*) AS visits FROM visits GROUP BY names"
PROGRAM = b"""
from ppml_airflow.workloads.spark.api import inputs, write

OUTPUTS = {"survey": {"name": "string", "visits": "bigint"}}

write("survey", inputs["visits"].groupBy("name").count().toDF("name", "visits"))
"""


WORKING = b"""
from time import sleep

from ppml_airflow.workloads.spark.api import inputs, session, write

OUTPUTS = {"working": {"name": "string", "visits": "bigint"}}


def slowly(row):
    sleep(1)
    return row.name, 1


counted = inputs["visits"].rdd.map(slowly).reduceByKey(int.__add__)
write("working", session().createDataFrame(counted, "name string, visits bigint"))
"""
"""A program whose Python workers are at work for some seconds."""
SLEEPING = b"""
from time import sleep

OUTPUTS = {"sleeping": {"name": "string"}}

sleep(280)
"""
"""A program that ends by itself only when its time is nearly over."""
HUNGRY = b"""
from time import sleep

from ppml_airflow.workloads.spark.api import session, write

OUTPUTS = {"hungry": {"name": "string"}}

sleep(2)
eaten = [bytearray(b"x" * 2**20) for _ in range(8192)]
write("hungry", session().createDataFrame([("full",)], "name string"))
"""
"""A program that wants 8 GiB, once it runs."""
PROGRAMS = {"python": (PROGRAM, "survey"), "working": (WORKING, "working")}
PROGRAMS |= {"sleeping": (SLEEPING, "sleeping"), "hungry": (HUNGRY, "hungry")}
"""Step -> its program, and what that writes."""


def python_step(name: str, program: bytes, *, output: str) -> Step:
    """A step of one Python program over both inputs."""
    step = spark_step(name, program, output=output)
    code = {"job.py": canonical.digest_bytes(program)}
    return msgspec.structs.replace(step, workload="spark-python", code=code, argv=("job.py",))


def spark_step(name: str, sql: bytes, *, output: str) -> Step:
    """A step of one query over both inputs."""
    return Step(
        name=name,
        kind="fixed",
        image="spark",
        workload="spark-sql",
        code={"query.sql": canonical.digest_bytes(sql)},
        argv=("query.sql",),
        params={"limit": IntegerParam(minimum=1, maximum=1000, default=100)},
        environment={},
        inputs=(Input(dataset="visits", version="this-run"), Input(dataset="plans", version="head")),
        outputs=(Output(dataset=output, body="table", recipients=("analyst",), files=1),),
        log_recipients=("owner",),
        disclosed=(),
        gates=(),
        policy="standard",
        members=1,
        replacements=0,
        attempts=9,
        limits=Limits(wall_s=300, memory_mib=1536, cores=2),
    )


class SparkWorld(World):
    """Its steps do not wait for each other."""

    def approval(self, **changes: object) -> Approval:
        return super().approval(**({"edges": ()} | changes))


class SparkGuests:
    """An installation with the image `spark`, its services running while entered."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.socket = folder / "quoting.sock"
        self._broker_socket = folder / "broker.sock"
        keystore = make_keystore(folder)
        steps = (
            spark_step("aggregate", SQL, output="report"),
            spark_step("casting", CASTING, output="summary"),
            spark_step("mistaken", UNKNOWN_COLUMN, output="nothing"),
            *(python_step(name, program, output=output) for name, (program, output) in PROGRAMS.items()),
        )
        platform = SimulatedPlatform.create(self.home / "tee", now=datetime.now(UTC))
        self.world = SparkWorld(folder=folder, platform=platform, keystore=keystore, steps=steps, runs_per_slot=99)
        self.guests = GuestWorld(world=self.world, folder=folder)
        self.set_up(folder)

    def set_up(self, folder: Path) -> None:
        """Have the image, and its measurement in the policy."""
        self._take_over_image()
        self.image = set_up_image(
            "spark",
            source=CHECKOUT / "images" / "spark",
            home=self.home,
            domain=self.world.owners.domain,
            wheel=build_wheel(CHECKOUT, into=folder / "wheels"),
        )
        self.accept_measurement()
        self.runtime = ProcessRuntime(self.socket)

    def __enter__(self) -> Self:
        config = uvicorn.Config(self.world.app, uds=str(self._broker_socket), log_level="error")
        self._broker = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._broker.run)
        self._thread.start()
        self.start_service()
        wait_until(lambda: self._broker.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.service.terminate()
        self.service.wait(20)
        self._broker.should_exit = True
        self._thread.join()

    def start_service(self) -> None:
        """Start the quoting service and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        module = "ppml_airflow.enclaves.quoting"
        command = [sys.executable, "-m", module, "--home", str(self.home), "--socket", str(self.socket)]
        self.service = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_until(self.socket.exists)

    def accept_measurement(self) -> None:
        """What `ppml image measure --accept` does."""
        envelope = self.world.client.policy("standard")
        assert envelope is not None
        version = msgspec.json.decode(envelope.payload)["version"] + 1
        measured = measure(self.image, cache=FileDigestCache()).hex
        policy = self.world.policy(version=version, images={"spark": ImageReference(measurements=(measured,))})
        self.world.client.put_policy(self.world.owners.root.sign(policy))

    def request(self, run_id: str, *, step: str = "aggregate", sql: bytes = SQL, role: str = "job") -> LaunchRequest:
        """An honest host's request."""
        code = {"job.py": PROGRAMS[step][0]} if step in PROGRAMS else {"query.sql": sql}
        return self.guests.request(run_id, step=step, role=role, code=code, broker=f"unix:{self._broker_socket}")

    @property
    def private_folders(self) -> list[Path]:
        """The private directories of guests that are there now."""
        root = PrivateFolders.of_home(self.home).root
        return list(root.iterdir())

    def processes(self) -> list[int]:
        """All processes that work in a private directory: guests and their jobs."""
        root, found = PrivateFolders.of_home(self.home).root, []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and root in (entry / "cwd").readlink().parents:
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def _take_over_image(self) -> None:
        found = Path(os.environ.get("PPML_HOME", CHECKOUT / ".ppml")) / "images" / "spark"
        if found.is_dir():
            target = self.home / "images" / "spark"
            target.parent.mkdir(parents=True)
            same_disk = found.stat().st_dev == target.parent.stat().st_dev
            shutil.copytree(found, target, symlinks=True, copy_function=os.link if same_disk else shutil.copy2)
