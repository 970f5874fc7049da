from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.spark import settings
from ppml_airflow.workloads.spark.process import require_spark
from tests.support.spark_jobs import LIMITS

PRIVATE = Path("/private")


def environment(installation: ImageInstallation, **approved: str) -> dict[str, str]:
    return settings.job_environment(PRIVATE, installation=installation, code=PRIVATE / "code", approved=approved)


@pytest.fixture
def small(tmp_path: Path) -> ImageInstallation:
    """An installation of empty files."""
    spark = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "pyspark"
    for file in (
        spark / "jars" / "x.jar",
        tmp_path / "env/bin/python",
        tmp_path / "java/bin/java",
        tmp_path / "ppml-spark.jar",
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return ImageInstallation(environment=tmp_path / "env", java_home=tmp_path / "java", jars=tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYSPARK_PYTHON",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "_JAVA_OPTIONS",
        "JAVA_HOME",
        "CLASSPATH",
        "SPARK_CONF_DIR",
        "PATH",
        "HOME",
        "TMPDIR",
        "java_tool_options",
        "a b",
        "",
    ],
)
def test_a_variable_that_could_change_the_code_is_refused_by_name(name: str, small: ImageInstallation) -> None:
    with pytest.raises(ConfigurationError, match=f"environment variable {name} is refused"):
        environment(small, **{name: "x"})


def test_the_environment_is_empty_but_for_what_is_needed_and_approved(
    small: ImageInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "canary")
    found = environment(small, REGION="north")
    assert found["REGION"] == "north"
    assert found["HOME"] == "/private"
    assert "canary" not in str(found)
    assert set(found) - {"REGION"} == {
        *(
            "PATH",
            "HOME",
            "TMPDIR",
            "LANG",
            "JAVA_HOME",
            "SPARK_HOME",
            "SPARK_CONF_DIR",
            "SPARK_LOCAL_IP",
            "SPARK_LOCAL_DIRS",
        ),
        *("SPARK_LOCAL_HOSTNAME", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"),
    }


def test_too_little_memory_is_refused() -> None:
    limits = Limits(wall_s=1, memory_mib=1023, cores=1)
    with pytest.raises(ConfigurationError, match=r"limits\.memory_mib is 1023; Spark needs at least 1024"):
        settings.java_options(PRIVATE, limits=limits, heap_share=0.7, input_bytes=0)


def test_only_short_jobs_do_without_the_optimising_compiler() -> None:
    short = settings.java_options(PRIVATE, limits=LIMITS, heap_share=0.7, input_bytes=settings.SHORT_INPUT_BYTES)
    long = settings.java_options(PRIVATE, limits=LIMITS, heap_share=0.7, input_bytes=settings.SHORT_INPUT_BYTES + 1)
    assert set(short) - set(long) == {"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}


def test_module_options_are_those_of_this_spark(installation: ImageInstallation) -> None:
    jar = next((installation.package("pyspark") / "jars").glob("spark-launcher_*.jar"))
    with zipfile.ZipFile(jar) as archive:
        text = archive.read("org/apache/spark/launcher/JavaModuleOptions.class")
    assert all(option.encode() in text for option in settings.MODULE_OPTIONS)
    own = sum(option.startswith(("--", "-D")) for option in settings.MODULE_OPTIONS)
    assert text.count(b"--") + text.count(b"-Dio.netty") == own


def test_properties_escape_what_java_would_read_otherwise() -> None:
    assert settings.format_properties({"b": "c:\\x\ny", "a": "é"}) == "a=é\nb=c:\\\\x\\ny\n"


@pytest.mark.parametrize("missing", ["env/lib", "java/bin/java", "ppml-spark.jar", "env/bin/python"])
def test_an_installation_that_lacks_a_part_is_refused(missing: str, small: ImageInstallation, tmp_path: Path) -> None:
    require_spark(small)
    (tmp_path / missing).rename(tmp_path / "away")
    with pytest.raises(ConfigurationError, match="has no"):
        require_spark(small)
