from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ppml_airflow.domain.documents import Domain
from ppml_airflow.enclaves import environments
from ppml_airflow.enclaves.images import set_up_image
from ppml_airflow.enclaves.installation import load_domain, load_installation
from ppml_airflow.enclaves.measurement import FileDigestCache, measure
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.signing import SigningKey
from tests.support.small_images import DOMAIN, make_source, make_wheel


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path)


def set_up(source: Path, tmp_path: Path, *, answer: int = 42) -> tuple[Path, list[str]]:
    said: list[str] = []
    wheel = make_wheel(tmp_path, files={"sample.py": f"ANSWER = {answer}\n"})
    folder = set_up_image(
        "plain", source=source, home=tmp_path / "home", domain=DOMAIN, wheel=wheel, progress=said.append
    )
    return folder, said


def run_in(folder: Path, code: str) -> str:
    command = [str(folder / "env/bin/python"), "-I", "-B", "-X", f"pycache_prefix={folder / 'bytecode'}", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_an_image_holds_its_domain_and_runs_from_its_bytecode(source: Path, tmp_path: Path) -> None:
    folder, _ = set_up(source, tmp_path)
    assert load_domain(folder) == DOMAIN
    assert load_installation(folder).java_home is None
    before = measure(folder, cache=FileDigestCache()).digest
    cached = run_in(folder, "import sample, json; print(sample.__cached__, json.__cached__, sample.ANSWER)")
    own, library, answer = cached.split()
    assert own.startswith(str(folder / "bytecode"))
    assert Path(own).is_file()
    assert Path(library).is_file()
    assert answer == "42"
    assert measure(folder, cache=FileDigestCache()).digest == before


def test_setting_up_again_changes_nothing(source: Path, tmp_path: Path) -> None:
    folder, _ = set_up(source, tmp_path)
    before = measure(folder, cache=FileDigestCache()).digest
    _, said = set_up(source, tmp_path)
    assert said == ["image plain: unchanged"]
    assert measure(folder, cache=FileDigestCache()).digest == before


def test_another_package_is_installed_without_installing_the_environment_anew(source: Path, tmp_path: Path) -> None:
    set_up(source, tmp_path)
    folder, said = set_up(source, tmp_path, answer=43)
    assert "image plain: keeping env" in said
    assert run_in(folder, "import sample; print(sample.ANSWER)") == "43"


def engine_image(source: Path, tmp_path: Path, *, version: str) -> tuple[Path, list[str]]:
    engine = source / "engine"
    engine.mkdir(exist_ok=True)
    (engine / "requirements.txt").write_text("# nothing\n")
    (engine / ".python-version").write_text(f"{version}\n")
    wheel = make_wheel(tmp_path, files={"ppml_airflow/workloads/job_api.py": "ANSWER = 42\n"})
    said: list[str] = []
    home = tmp_path / "home"
    folder = set_up_image("plain", source=source, home=home, domain=DOMAIN, wheel=wheel, progress=said.append)
    return folder, said


def test_an_engine_has_an_environment_of_its_own_with_the_job_api_alone(source: Path, tmp_path: Path) -> None:
    folder, said = engine_image(source, tmp_path, version="3.11")
    before = measure(folder, cache=FileDigestCache())
    python = [str(folder / "engine/bin/python"), "-I", "-B", "-X", f"pycache_prefix={folder / 'bytecode'}"]
    code = "from ppml_airflow.workloads import job_api; print(job_api.ANSWER, job_api.__cached__)"
    answer, cached = subprocess.run([*python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert answer == "42"
    assert Path(cached).is_file()
    assert sorted(path.name for path in environments.site_packages(folder / "engine").iterdir()) == ["ppml_airflow"]
    assert {"image plain: installing engine, 0 packages", "image plain: compiling engine"} <= set(said)
    (environments.site_packages(folder / "engine") / "evil.py").write_text("")
    assert measure(folder, cache=FileDigestCache()).digest != before.digest


def test_an_engine_may_need_another_python(source: Path, tmp_path: Path) -> None:
    try:
        environments.find_python("3.9")
    except ConfigurationError:
        pytest.skip("no Python 3.9 on this machine")
    folder, _ = engine_image(source, tmp_path, version="3.9")
    noted = load_installation(folder).environments
    assert set(noted) == {"env", "engine"}
    assert noted["env"].executable != noted["engine"].executable
    assert list((folder / "bytecode").rglob("*.cpython-39.pyc"))
    _, said = engine_image(source, tmp_path, version="3.9")
    assert said == ["image plain: unchanged"]


def test_a_python_that_is_not_there_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no Python 2\.99 was found"):
        engine_image(source, tmp_path, version="2.99")


def test_an_engine_without_a_lock_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "engine").mkdir()
    with pytest.raises(ConfigurationError, match=r"needs .*engine/requirements\.txt"):
        set_up(source, tmp_path)


def test_a_file_that_somebody_changed_does_not_survive_the_next_set_up(source: Path, tmp_path: Path) -> None:
    folder, _ = set_up(source, tmp_path)
    before, record = measure(folder, cache=FileDigestCache()).digest, (folder / "set-up.json").read_bytes()
    (environments.site_packages(folder / "env") / "sample.py").write_text("ANSWER = 'evil'\n")
    _, said = set_up(source, tmp_path)
    assert (folder / "set-up.json").read_bytes() != record, "a new build is told from the one before"
    assert said[0].endswith("changed since it was set up; building it anew")
    assert run_in(folder, "import sample; print(sample.ANSWER)") == "42"
    assert measure(folder, cache=FileDigestCache()).digest == before


def test_an_interrupted_set_up_is_taken_up_again(source: Path, tmp_path: Path) -> None:
    half = tmp_path / "home/images/.plain.building/env/lib"
    half.mkdir(parents=True)
    folder, _ = set_up(source, tmp_path)
    assert not half.exists()
    assert run_in(folder, "import sample; print(sample.ANSWER)") == "42"


def test_an_image_of_another_domain_measures_differently(source: Path, tmp_path: Path) -> None:
    folder, _ = set_up(source, tmp_path)
    before = measure(folder, cache=FileDigestCache()).digest
    other = Domain(name="others", roots=(SigningKey.generate().public,), threshold=1, trust="simulated")
    wheel = make_wheel(tmp_path, files={"sample.py": "ANSWER = 42\n"})
    set_up_image("plain", source=source, home=tmp_path / "home", domain=other, wheel=wheel)
    assert measure(folder, cache=FileDigestCache()).digest != before


def test_requirements_without_hashes_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "requirements.txt").write_text("msgspec==0.20.0\n")
    with pytest.raises(ConfigurationError, match="the installer failed"):
        set_up(source, tmp_path)
    assert not (tmp_path / "home/images/plain").exists()


def test_a_build_that_pypi_does_not_carry_is_named_with_what_to_do(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for installer in ("UV", "PIP"):
        monkeypatch.setenv(f"{installer}_NO_INDEX", "1")
        monkeypatch.setenv(f"{installer}_FIND_LINKS", str(tmp_path))
    (source / "requirements.txt").write_text(f"sample==1.0+cpu \\\n    --hash=sha256:{'0' * 64}\n")
    with pytest.raises(ConfigurationError) as refused:
        set_up(source, tmp_path)
    assert refused.value.code == "build_missing"
    assert refused.value.hint.startswith("sample==1.0+cpu is a build that PyPI does not carry")
    assert "PIP_EXTRA_INDEX_URL" in refused.value.hint


def test_a_python_that_an_environment_wants_and_nobody_has_is_named(source: Path, tmp_path: Path) -> None:
    (source / ".python-version").write_text("3.0\n")
    with pytest.raises(ConfigurationError, match=r"no Python 3\.0 was found"):
        set_up(source, tmp_path)


def test_a_source_without_requirements_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "requirements.txt").unlink()
    with pytest.raises(ConfigurationError, match=r"requirements\.txt, which is missing"):
        set_up(source, tmp_path)


def test_a_wheel_that_is_none_is_refused(source: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "broken.whl"
    wheel.write_text("not a wheel")
    with pytest.raises(ConfigurationError, match="is not a wheel"):
        set_up_image("plain", source=source, home=tmp_path / "home", domain=DOMAIN, wheel=wheel)


def test_an_image_without_a_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no"):
        load_domain(tmp_path)


def test_a_missing_jdk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no JDK was found in JAVA_HOME"):
        environments.find_java_home()


def test_a_jar_without_its_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a checkout has it"):
        environments.build_jar(tmp_path, engine="spark", env=tmp_path, java_home=tmp_path, target=tmp_path / "x.jar")


def test_an_installer_that_does_not_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not start"):
        environments.ask_interpreter(tmp_path)
