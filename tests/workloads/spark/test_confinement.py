"""Rule 6: Spark's file systems are the private directory and the sealed inputs, nothing else."""

from __future__ import annotations

import pyarrow as pa

from ppml_airflow.workloads.installation import ImageInstallation
from tests.support.spark_jobs import JobWorld
from tests.workloads.spark.test_python_job import python_job, run

PROGRAM = """
from ppml_airflow.workloads.spark.api import disclose, inputs, session, write

OUTPUTS = {"report": {"plan": "string"}}

java = session()._jvm
settings = session().sparkContext._jsc.hadoopConfiguration()
files = java.org.apache.hadoop.fs


def attempt(name, action):
    try:
        action()
        print(f"{name}: DONE")
        disclose(name, 1)
    except Exception as error:
        is_refused = "refused in an enclave" in str(error)
        print(f"{name}: {error}")
        disclose(name, 0 if is_refused else 2)


def read(uri):
    path = files.Path(uri)
    path.getFileSystem(settings).open(path).close()


def create(uri):
    path = files.Path(uri)
    path.getFileSystem(settings).create(path).close()


import os

home = os.getcwd()
os.symlink("/etc", "tmp/escape")
attempt("own_file", lambda: create(f"{home}/tmp/own"))
attempt("own_file_again", lambda: read(f"file:{home}/tmp/own"))
attempt("sealed_input", lambda: read(f"{home}/inputs/visits/part-00000"))
attempt("passwd", lambda: read("file:/etc/passwd"))
attempt("dots", lambda: read(f"file:{home}/inputs/../../../../../../../etc/passwd"))
attempt("link", lambda: read(f"file:{home}/tmp/escape/passwd"))
attempt("storage", lambda: read("file:STORAGE/visits/part-00000"))
attempt("outside", lambda: create("file:/tmp/ppml-outside"))
attempt("overwrite_input", lambda: create(f"{home}/inputs/visits/part-00000"))
attempt("new_input", lambda: create(f"{home}/inputs/visits/part-00009"))
delete = lambda path: path.getFileSystem(settings).delete(path, True)
attempt("delete_input", lambda: delete(files.Path(f"{home}/inputs/visits/part-00000")))
move = lambda a, b: a.getFileSystem(settings).rename(a, b)
attempt("move_input", lambda: move(files.Path(f"{home}/inputs/visits/part-00000"), files.Path(f"{home}/tmp/x")))
attempt("local", lambda: files.FileSystem.getLocal(settings).open(files.Path("/etc/passwd")))
attempt("spark_text", lambda: session().read.text("/etc/passwd").collect())
kinds = {"http", "https", "hdfs", "ftp", "s3a"}
services = java.java.util.ServiceLoader.load(java.java.lang.Class.forName("org.apache.hadoop.fs.FileSystem")).iterator()
while services.hasNext():
    kinds.add(services.next().getScheme())
for kind in kinds - {"file"}:
    attempt(f"scheme_{kind}", lambda: read(f"{kind}://127.0.0.1:9/x"))
write("report", inputs["visits"].limit(1))
"""
ALLOWED = {"own_file", "own_file_again", "sealed_input"}


def test_a_job_reaches_its_private_directory_and_its_inputs_alone(
    world: JobWorld, installation: ImageInstallation
) -> None:
    visits = world.seal("visits", pa.table({"plan": ["a"]}))
    program = PROGRAM.replace("STORAGE", str(visits.parts[0].parent.parent))
    with python_job(world, {"main.py": program}, installation=installation) as workload:
        workload.prepare()
        result = run(workload, world)
    log = world.log.read_text()
    assert result.outcome == "ok", log
    assert len(result.disclosed) > 20
    assert {"scheme_viewfs", "scheme_har", "scheme_swebhdfs"} <= set(result.disclosed)
    assert {name for name, done in result.disclosed.items() if done == 1} == ALLOWED, log
    assert {name for name, done in result.disclosed.items() if done == 2} == set(), log
    assert visits.parts[0].exists()
