from __future__ import annotations

import re
from pathlib import Path

import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.spark.choices import CHOICES, REASONS, require_choices
from ppml_airflow.workloads.spark.settings import job_environment, spark_settings

LIMITS = Limits(wall_s=60, memory_mib=2048, cores=2)
KEY = bytes(32)


@pytest.fixture
def variables(tmp_path):
    """The environment of a job's processes, of what its step lists."""
    (tmp_path / "lib" / "python3.11" / "site-packages" / "pyspark").mkdir(parents=True)
    installation = ImageInstallation(environment=tmp_path, java_home=tmp_path, jars=tmp_path)
    return lambda approved: job_environment(tmp_path, installation=installation, code=tmp_path, approved=approved)


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_setting_that_a_step_may_choose_goes_to_spark_and_not_to_the_process(name, variables):
    assert spark_settings(Path("/private"), limits=LIMITS, approved={name: "7"}, members=1, key=KEY)[name] == "7"
    assert name not in variables({name: "7"})


def test_an_approved_variable_does_not_become_a_setting(variables):
    assert "REGION" not in spark_settings(
        Path("/private"), limits=LIMITS, approved={"REGION": "eu"}, members=1, key=KEY
    )
    assert variables({"REGION": "eu"})["REGION"] == "eu"


@pytest.mark.parametrize("name", ["spark.driver.extraJavaOptions", "spark.hadoop.fs.file.impl", "spark.jars"])
def test_any_other_setting_is_refused(name, variables):
    assert spark_settings(Path("/p"), limits=LIMITS, approved={name: "x"}, members=3, key=KEY).get(name) != "x"
    with pytest.raises(ConfigurationError, match="is refused"):
        variables({name: "x"})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("spark.hadoop.fs.s3a.impl", "could reach files past the sealed inputs"),
        ("spark.sql.catalog.mine", "could reach files past the sealed inputs"),
        ("spark.network.crypto.enabled", "always authenticated and encrypted"),
        ("spark.driver.extraJavaOptions", "load code that nobody approved"),
        ("spark.sql.extensions", "load code that nobody approved"),
        ("spark.plugins", "load code that nobody approved"),
        ("spark.eventLog.enabled", "tell of the data outside"),
        ("spark.executor.memory", "the step's own limits say it"),
        ("spark.master", "one process inside the enclave"),
        ("spark.executorEnv.X", "one process inside the enclave"),
        ("spark.pyspark.python", "the image's Python"),
        ("spark.speculation", "known to be harmless"),
    ],
)
def test_a_setting_that_no_step_may_choose_is_refused_with_the_reason(name, why):
    with pytest.raises(ConfigurationError, match=why) as refused:
        require_choices({name: "true"})
    assert refused.value.code == "conf_refused"
    assert name in str(refused.value)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.sql.shuffle.partitions", "many"),
        ("spark.sql.ansi.enabled", "yes"),
        ("spark.sql.files.maxPartitionBytes", "-1"),
        ("spark.memory.fraction", "2"),
        ("spark.sql.broadcastTimeout", "5 moons"),
        ("spark.sql.session.timeZone", "UTC\nspark.plugins=x"),
        ("spark.log.level", "TRACE"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_kind_that_is_wanted(name, value):
    with pytest.raises(ConfigurationError, match=r"conf spark\..* is .*; wanted "):
        require_choices({name: value})


def test_no_setting_that_may_be_chosen_has_a_reason_to_be_refused():
    assert [name for name in CHOICES if any(re.match(beginning, name) for beginning in REASONS)] == []
