"""PPML_HOME: where everything of one installation lies, each party in a folder of its own.

`PPML_HOME` if set; else `.ppml` in a checkout; else the user's data folder. The paths below are the only place where
the layout is written down. Nothing is created here but the folders asked for, readable by their owner only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ppml_airflow
from ppml_airflow import canonical
from ppml_airflow.domain.documents import Domain
from ppml_airflow.errors import ConfigurationError, MalformedInputError

_LONGEST_SOCKET_PATH = 107
"""What Linux allows, in bytes."""
_LONGEST_NAME = "model_owner-agent"


@dataclass(frozen=True, slots=True)
class Home:
    """The folders and files under PPML_HOME."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        """The home of this process, by environment and place."""
        named = os.environ.get("PPML_HOME")
        if named:
            return cls(Path(named).expanduser().absolute())
        checkout = find_checkout()
        if checkout is not None:
            return cls(checkout / ".ppml")
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return cls(Path(data).absolute() / "ppml")

    @property
    def owner(self) -> Path:
        """Root keys and everything signed with them. Production: a machine of the owner's."""
        return self.path / "owner"

    @property
    def domain_file(self) -> Path:
        """The domain, canonical JSON."""
        return self.owner / "domain.json"

    @property
    def trust_bundle(self) -> Path:
        """What `ppml verify --trust` takes."""
        return self.owner / "trust.json"

    @property
    def airflow_token(self) -> Path:
        """By which the broker knows Airflow. Kept here: what lies in Airflow's folder, Airflow may change."""
        return self.owner / "airflow.token"

    @property
    def broker(self) -> Path:
        """The broker's folder."""
        return self.path / "broker"

    def agent(self, name: str) -> Path:
        """The folder of the agent `owner`, `model_owner` or `recipient`."""
        return self.path / "agents" / name

    @property
    def tee(self) -> Path:
        """The simulated platform: its keys for the quoting service only, its collateral for everybody."""
        return self.path / "tee"

    @property
    def collateral(self) -> Path:
        """Collateral of platforms, as `ppml collateral` keeps it."""
        return self.path / "collateral"

    def image(self, name: str) -> Path:
        """A trusted image as it is set up."""
        return self.path / "images" / name

    @property
    def storage(self) -> Path:
        """Sealed datasets: ciphertext."""
        return self.path / "storage"

    @property
    def passports(self) -> Path:
        """A passport per run."""
        return self.path / "passports"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME."""
        return self.path / "airflow"

    @property
    def dags(self) -> Path:
        """The DAGs that Airflow sees."""
        return self.path / "dags"

    @property
    def compiler(self) -> Path:
        """AIRFLOW_HOME of whoever compiles: never Airflow's own, whose settings would then run as its owner."""
        return self.run / "compiler"

    @property
    def run(self) -> Path:
        """Process ids, logs and sockets of the services."""
        return self.path / "run"

    @property
    def sockets(self) -> Path:
        """The folder of the services' sockets: `run/`, or elsewhere where paths below it are too long for sockets."""
        if len(os.fsencode(self.run / _LONGEST_NAME / "socket")) <= _LONGEST_SOCKET_PATH:
            return self.run
        key = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return private_folder(Path(tempfile.gettempdir()) / f"ppml-{os.getuid()}-{key}")

    def socket(self, name: str) -> Path:
        """The Unix socket of a service, in a folder of its own."""
        return self.sockets / name / "socket"

    def load_domain(self) -> Domain:
        """The domain of this home.

        Raises:
            ConfigurationError: there is none yet.
        """
        try:
            return canonical.decode(self.domain_file.read_bytes(), into=Domain)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} has no domain yet", code="no_domain", hint="make one with: ppml domain create"
            ) from error
        except MalformedInputError as error:
            raise ConfigurationError(f"domain {self.domain_file} cannot be read: {error.message}") from error


def find_checkout() -> Path | None:
    """The checkout that this package runs from, or None when it is installed without its sources."""
    folder = Path(ppml_airflow.__file__).resolve().parent.parent
    return folder if all((folder / part).exists() for part in ("pyproject.toml", "dags", "images")) else None


def require_checkout() -> Path:
    """The checkout.

    Raises:
        ConfigurationError: this package was installed without its sources.
    """
    folder = find_checkout()
    if folder is None:
        raise ConfigurationError("this command needs a checkout: images/, jvm/ and dags/ are not in the package")
    return folder


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner reads or writes, or make sure that it is one.

    Raises:
        ConfigurationError: it is a link, or somebody else's (attack: a folder laid out in /tmp beforehand).
    """
    if not path.parent.exists():
        private_folder(path.parent)
    if not path.exists():
        path.mkdir(mode=0o700)
        _share_fate(path)
    _require_ours(path)
    status = path.stat()
    if status.st_uid == os.getuid() and status.st_mode & 0o066:
        path.chmod(0o700)
    return path


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only the owner of its folder reads. It appears whole, by one rename."""
    if not path.parent.exists():
        private_folder(path.parent)
    _require_ours(path.parent)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        _share_fate(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _require_ours(folder: Path) -> None:
    if not _is_ours(folder):
        raise ConfigurationError(f"{folder} is not a folder of this user's")


def _is_ours(folder: Path) -> bool:
    """Whether this user has made a folder: it is this user's, or was given away where nobody else can make any."""
    status, above = folder.lstat(), folder.parent.stat()
    if not stat.S_ISDIR(status.st_mode):
        return False
    if status.st_uid == os.getuid() or (above.st_uid == os.getuid() and not above.st_mode & 0o022):
        return True
    return status.st_uid == above.st_uid and _is_ours(folder.parent)


def _share_fate(path: Path) -> None:
    """What root makes in a folder of somebody's is that somebody's."""
    folder = path.parent.stat()
    if os.getuid() == 0 and folder.st_uid != 0:
        os.chown(path, folder.st_uid, folder.st_gid, follow_symlinks=False)
