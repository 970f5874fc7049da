"""The environments of a trusted image: made, installed, stripped, compiled; and what of the host they run on.

uv installs where it is present, else pip; both check every file against its hash in the lock. Files are copied, never
linked to an installer's cache, which others may write.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppml_airflow import canonical
from ppml_airflow.enclaves import bytecode as compiler
from ppml_airflow.enclaves.installation import Interpreter
from ppml_airflow.errors import ConfigurationError

_SKIPPED = {"__pycache__", "test", "tests", "idlelib", "lib2to3", "turtledemo", "tkinter", "ensurepip"}
_PACKAGES = {"site-packages", "dist-packages"}
_SYSTEM_CERTIFICATES = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
"""uv trusts the certificates of the system, as pip may be told to; under its new and its old name."""
_OF_THIS_INSTALLATION = ("uv_cache.json", "direct_url.json")
_ASK = """
import json, os, sys, sysconfig
shared = os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
zipped = [entry for entry in sys.path if entry.endswith(".zip")]
libraries = sorted(p for p in (*zipped, shared) if os.path.isfile(p) and not p.endswith(".a"))
found = dict(executable=os.path.realpath(sys.executable), standard_library=os.path.dirname(os.__file__))
print(json.dumps(dict(found, libraries=[os.path.realpath(p) for p in libraries], tag=sys.implementation.cache_tag)))
"""
_LOCAL_VERSION = re.compile(r"^[a-z0-9-]+==[^ +]+\+\S+", re.MULTILINE)
_JOB_API = "ppml_airflow/workloads/job_api.py"
_ENGINE_APIS = {"pyflink": "ppml_airflow/workloads/flink/api.py"}


def find_python(version: str) -> Path:
    """The interpreter of this version, such as `3.9`; of the version that runs here, the one that runs here.

    Raises:
        ConfigurationError: there is none on this machine.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(os.path.realpath(sys.executable))
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for candidate in (*([Path(on_path)] if on_path else []), *pyenv.glob(f"{version}.*/bin/python{version}")):
        found = subprocess.run((candidate, "-I", "-c", "import sys"), capture_output=True, check=False)
        if found.returncode == 0:
            return candidate
    raise ConfigurationError(
        f"no Python {version} was found", code="python_missing", hint=f"have python{version} on the PATH"
    )


def describe_python(python: Path) -> str:
    """An interpreter in words: another text means another environment."""
    return _run([str(python), "-I", "-c", "import os, sys; print(os.path.realpath(sys.executable), sys.version)"])


def create(env: Path, *, python: Path) -> None:
    """Make an empty environment without installers."""
    _run([str(python), "-I", "-m", "venv", "--symlinks", "--without-pip", "--clear", str(env)])


def install(env: Path, *, requirements: Path) -> None:
    """Install a lock file: exactly what it lists, every file checked against its hash.

    Raises:
        ConfigurationError: the installer refused or failed; says so where a build is wanted that PyPI does not carry.
    """
    try:
        _install(env, "--no-deps", "--require-hashes", "-r", str(requirements))
    except ConfigurationError as error:
        special = _LOCAL_VERSION.search(requirements.read_text())
        if special is None:
            raise
        raise ConfigurationError(
            error.message,
            code="build_missing",
            hint=f"{special[0]} is a build that PyPI does not carry: name the index that does in PIP_EXTRA_INDEX_URL"
            " (of torch+cpu: PyTorch's index of builds for CPUs)",
        ) from error


def install_wheel(env: Path, *, wheel: Path) -> None:
    """Install this package as a wheel, in place of one that is there.

    Raises:
        ConfigurationError: the installer refused or failed.
    """
    _install(env, "--no-deps", "--force-reinstall", str(wheel))


def install_job_apis(env: Path, *, wheel: Path) -> None:
    """Give an engine's own environment the modules that job authors import, and nothing else of this package.

    Raises:
        ConfigurationError: the wheel has no such module.
    """
    engines = [api for package, api in _ENGINE_APIS.items() if holds(env, package)]
    with zipfile.ZipFile(wheel) as archive:
        for name in (_JOB_API, *engines):
            target = site_packages(env) / name
            try:
                content = archive.read(name)
            except KeyError as error:
                raise ConfigurationError(f"wheel {wheel} has no {name}") from error
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # an image that is being replaced may share the file
            target.write_bytes(content)
            for package in target.relative_to(site_packages(env)).parents[:-1]:
                (site_packages(env) / package / "__init__.py").touch()


def strip(env: Path) -> None:
    """Remove what guests never run and what differs from one installation to the next: scripts, installers' notes."""
    for script in (env / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()
    for info in site_packages(env).glob("*.dist-info"):
        for name in _OF_THIS_INSTALLATION:
            (info / name).unlink(missing_ok=True)
        record = info / "RECORD"
        if not record.is_file():
            continue
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not _is_stripped(line.split(",", 1)[0])))


def _is_stripped(path: str) -> bool:
    return path.endswith(_OF_THIS_INSTALLATION) or path.startswith("../../../bin/")


def site_packages(env: Path) -> Path:
    """Where an environment keeps its packages."""
    return next(env.glob("lib/python3.*/site-packages"))


def holds(env: Path, package: str) -> bool:
    """Whether a package is installed."""
    return (site_packages(env) / package).is_dir()


def ask_interpreter(env: Path) -> Interpreter:
    """What the environment's interpreter says of itself.

    Raises:
        ConfigurationError: it does not run.
    """
    found = {name: value for name, value in _asked(env).items() if name != "tag"}
    return canonical.convert(found, into=Interpreter)


def compile_sources(env: Path, *, installed_at: Path, bytecode: Path) -> set[Path]:
    """Compile an environment and its standard library into a bytecode folder, for guests' `-X pycache_prefix`.

    Args:
        env: the environment as it lies now.
        installed_at: where it will lie; the bytecode is filed under this path.
        bytecode: the folder to fill. Files whose source is unchanged are kept.

    Returns:
        Every file of bytecode that belongs to it.
    """
    library, tag = Path(ask_interpreter(env).standard_library), _asked(env)["tag"]
    sources = [*_sources(site_packages(env), installed_at / site_packages(env).relative_to(env))]
    sources += _sources(library, library)
    jobs = [(str(source), str(_cached(final, bytecode, tag=tag)), str(final)) for source, final in sources]
    _run([str(env / "bin" / "python"), "-I", "-B", "-S", compiler.__file__], given=json.dumps(jobs))
    return {Path(target) for _, target, _ in jobs}


def describe_java() -> str:
    """The JDK that would be used, or nothing."""
    try:
        return str(find_java_home())
    except ConfigurationError:
        return ""


def find_java_home() -> Path:
    """The real folder of the JDK: JAVA_HOME, else where `javac` on the PATH lies.

    Raises:
        ConfigurationError: there is none.
    """
    named, javac = os.environ.get("JAVA_HOME"), shutil.which("javac")
    home = Path(named).resolve() if named else Path(javac).resolve().parent.parent if javac else None
    if home is None or not (home / "bin" / "javac").is_file():
        raise ConfigurationError(
            f"no JDK was found{f' in JAVA_HOME={named}' if named else ''}",
            code="java_missing",
            hint="install one (default-jdk-headless), or name it in JAVA_HOME",
        )
    return home


def build_jar(jvm: Path, *, engine: str, env: Path, java_home: Path, target: Path) -> None:
    """Build an engine's jar from `jvm/`, against what its environment holds.

    Raises:
        ConfigurationError: there is no `jvm/`, or the compiler failed.
    """
    script = jvm / "build.py"
    if not script.is_file():
        raise ConfigurationError(f"{script} is missing; a checkout has it")
    command = [
        sys.executable,
        str(script),
        str(env),
        "--engine",
        engine,
        "--java-home",
        str(java_home),
        "--output",
        str(target),
    ]
    _run(command, what="the jar's build")


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _install(env: Path, *arguments: str) -> None:
    """Install with uv; where there is none, or it fails (it does not read pip's settings), with pip."""
    python, uv = str(env / "bin" / "python"), _uv()
    with_pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
    with_pip += ["--disable-pip-version-check", "--no-input", *arguments]
    if uv is None:
        _run(with_pip, what="the installer")
        return
    with_uv = [uv, "pip", "install", "--quiet", "--python", python, "--link-mode", "copy", "--no-config", *arguments]
    try:
        _run(with_uv, what="the installer")
    except ConfigurationError as error:
        if importlib.util.find_spec("pip") is None:
            raise
        try:
            _run(with_pip, what="the installer")
        except ConfigurationError:
            raise error from None


def _asked(env: Path) -> dict[str, Any]:
    answer = _run([str(env / "bin" / "python"), "-I", "-B", "-S", "-c", _ASK], what="the environment's interpreter")
    found: dict[str, Any] = json.loads(answer)
    return found


def _run(command: list[str], *, what: str = "Python", given: str | None = None) -> str:
    # An installer that inherits PYTHONPATH finds packages there and leaves them out of the environment.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = _SYSTEM_CERTIFICATES | kept | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, input=given)
    except OSError as error:
        raise ConfigurationError(f"{what} ({command[0]}) does not start: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise ConfigurationError(f"{what} failed with exit code {done.returncode}: {said[-2000:]}")
    return done.stdout


def _sources(root: Path, final: Path) -> Iterator[tuple[Path, Path]]:
    """Each module under a folder: where it lies, and where it will lie."""
    for folder, folders, files in os.walk(root):
        skipped = _SKIPPED | _PACKAGES if Path(folder) == root else _SKIPPED
        folders[:] = [name for name in folders if name not in skipped]
        for name in files:
            if name.endswith(".py"):
                path = Path(folder, name)
                yield path, final / path.relative_to(root)


def _cached(final: Path, bytecode: Path, *, tag: str) -> Path:
    """Where an interpreter looks for a module's bytecode under a prefix (PEP 3147, `sys.pycache_prefix`)."""
    return bytecode / str(final.parent).lstrip("/") / f"{final.stem}.{tag}.pyc"
