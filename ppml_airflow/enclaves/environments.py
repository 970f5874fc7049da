"""The environment of a trusted image: made, installed, stripped, compiled; and what of the host it runs on.

uv installs where it is present, else pip; both check every file against its hash in the lock. Files are copied, never
linked to an installer's cache, which others may write.
"""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

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
print(json.dumps([os.path.realpath(sys.executable), os.path.dirname(os.__file__), libraries]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """The interpreter behind an environment: real paths on the host."""

    executable: str
    standard_library: str
    libraries: tuple[str, ...]


def describe_interpreter() -> str:
    """The interpreter that environments are made with: the one that runs here, without its virtual environment."""
    return f"{os.path.realpath(sys.executable)} {sys.version}"


def create(env: Path) -> None:
    """Make an empty environment without installers."""
    venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(env)


def install(env: Path, *, requirements: Path) -> None:
    """Install a lock file, every file checked against its hash.

    Raises:
        ConfigurationError: the installer refused or failed.
    """
    _install(env, "--require-hashes", "-r", str(requirements))


def install_wheel(env: Path, *, wheel: Path) -> None:
    """Install this package as a wheel, in place of one that is there.

    Raises:
        ConfigurationError: the installer refused or failed.
    """
    _install(env, "--no-deps", "--force-reinstall", str(wheel))


def strip(env: Path) -> None:
    """Remove what guests never run and what differs from one installation to the next: scripts, installers' notes."""
    for script in (env / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()
    for info in site_packages(env).glob("*.dist-info"):
        for name in _OF_THIS_INSTALLATION:
            (info / name).unlink(missing_ok=True)
        record = info / "RECORD"
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not _is_stripped(line.split(",", 1)[0])))


def _is_stripped(path: str) -> bool:
    return path.endswith(_OF_THIS_INSTALLATION) or path.startswith("../../../bin/")


def site_packages(env: Path) -> Path:
    """Where an environment keeps its packages."""
    return env / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def holds_spark(env: Path) -> bool:
    """Whether pyspark is installed: then the image needs a JDK and the jar."""
    return (site_packages(env) / "pyspark" / "jars").is_dir()


def ask_interpreter(env: Path) -> Interpreter:
    """What the environment's interpreter says of itself.

    Raises:
        ConfigurationError: it does not run.
    """
    command = [str(env / "bin" / "python"), "-I", "-B", "-S", "-c", _ASK]
    executable, library, libraries = json.loads(_run(command, what="the environment's interpreter"))
    return Interpreter(executable=executable, standard_library=library, libraries=tuple(libraries))


def compile_sources(env: Path, *, installed_at: Path, bytecode: Path) -> None:
    """Compile an environment and its standard library into a bytecode folder, for guests' `-X pycache_prefix`.

    Args:
        env: the environment as it lies now.
        installed_at: where it will lie; the bytecode is filed under this path.
        bytecode: the folder to fill. Files whose source is unchanged are kept; those without a source are removed.
    """
    library = Path(ask_interpreter(env).standard_library)
    jobs = [*_sources(site_packages(env), site_packages(installed_at)), *_sources(library, library)]
    targets = [(source, _cached(final, bytecode), final) for source, final in jobs]
    wanted = {target for _, target, _ in targets}
    for stale in [path for path in bytecode.rglob("*.pyc") if path not in wanted]:
        stale.unlink()
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(_compile, targets, chunksize=50):
            pass


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


def build_jar(jvm: Path, *, env: Path, java_home: Path, target: Path) -> None:
    """Build the jar from `jvm/` against the environment's Spark.

    Raises:
        ConfigurationError: there is no `jvm/`, or the compiler failed.
    """
    script = jvm / "build.py"
    if not script.is_file():
        raise ConfigurationError(f"{script} is missing; a checkout has it")
    command = [sys.executable, str(script), str(env), "--java-home", str(java_home), "--output", str(target)]
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


def _run(command: list[str], *, what: str) -> str:
    # An installer that inherits PYTHONPATH finds packages there and leaves them out of the environment.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = _SYSTEM_CERTIFICATES | kept | {"PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
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


def _cached(final: Path, bytecode: Path) -> Path:
    """Where the interpreter looks for a module's bytecode under a prefix (PEP 3147, `sys.pycache_prefix`)."""
    return bytecode / str(final.parent).lstrip("/") / f"{final.stem}.{sys.implementation.cache_tag}.pyc"


def _compile(job: tuple[Path, Path, Path]) -> None:
    source, target, final = job
    unchecked = (1).to_bytes(4, "little")
    expected = importlib.util.MAGIC_NUMBER + unchecked + importlib.util.source_hash(source.read_bytes())
    if target.is_file() and target.read_bytes()[: len(expected)] == expected:
        return
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    try:
        py_compile.compile(str(source), str(target), str(final), doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, ValueError):
        return  # a template or a file for another version: the interpreter would refuse it, too, if ever asked
