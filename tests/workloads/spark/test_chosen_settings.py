from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.installation import ImageInstallation
from ppml_airflow.workloads.spark.settings import CHOSEN_BY_STEP, job_environment, spark_settings

LIMITS = Limits(wall_s=60, memory_mib=2048, cores=2)


@pytest.fixture
def variables(tmp_path):
    """The environment of a job's processes, of what its step lists."""
    (tmp_path / "lib" / "python3.11" / "site-packages" / "pyspark").mkdir(parents=True)
    installation = ImageInstallation(environment=tmp_path, java_home=tmp_path, jars=tmp_path)
    return lambda approved: job_environment(tmp_path, installation=installation, code=tmp_path, approved=approved)


@pytest.mark.parametrize("name", sorted(CHOSEN_BY_STEP))
def test_a_setting_that_a_step_may_choose_goes_to_spark_and_not_to_the_process(name, variables):
    assert spark_settings(Path("/private"), limits=LIMITS, approved={name: "7"})[name] == "7"
    assert name not in variables({name: "7"})


def test_an_approved_variable_does_not_become_a_setting(variables):
    assert "REGION" not in spark_settings(Path("/private"), limits=LIMITS, approved={"REGION": "eu"})
    assert variables({"REGION": "eu"})["REGION"] == "eu"


@pytest.mark.parametrize("name", ["spark.driver.extraJavaOptions", "spark.hadoop.fs.file.impl", "spark.jars"])
def test_any_other_setting_is_refused(name, variables):
    assert spark_settings(Path("/p"), limits=LIMITS, approved={name: "x"}).get(name) != "x"
    with pytest.raises(ConfigurationError, match="is refused"):
        variables({name: "x"})
