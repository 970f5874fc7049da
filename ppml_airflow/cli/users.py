"""Users of their own for the parties of a home that root runs: who they are, what belongs to whom, how they start.

The one place that decides it. Root itself keeps the owner's keys, the platform and the quoting service; broker,
agents, Airflow and each guest are other users (`ppml_airflow.users`). `PPML_USERS=shared` has everything run as root,
as it runs as one user where somebody else than root started it.

    PPML_HOME/            0711 root
      owner/              0700 root                 the owners' keys: no service enters
      tee/                0711 root                 its keys 0600; collateral.json is for everybody
      images/             root                      measured; everybody reads
      broker/, airflow/, passports/   0700          the party's own
      agents/NAME/        0750 root:agent           an agent reads its map and keys and cannot change them;
        state/, opened/   0700                      these are its own
      dags/               0750 root:airflow         Airflow reads what it runs and cannot change it
      storage/            2770 root:storage         agents and guests
      run/                0711 root                 logs 0600; a folder for each socket
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ppml_airflow.cli.home import Home, find_checkout, write_private
from ppml_airflow.confinement import can_confine, confined
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.users import PASSWD, Users

VARIABLE = "PPML_USERS"
OWN, SHARED = "own", "shared"
AIRFLOW, BROKER, QUOTING = "airflow", "broker", "quoting"


def users_of(home: Home) -> Users | None:
    """The users of this home's parties; None if all are the one who started it.

    Raises:
        ConfigurationError: PPML_USERS is neither `own` nor `shared`, or users of their own cannot be had.
    """
    wanted = os.environ.get(VARIABLE, OWN if can_confine() else SHARED)
    if wanted not in (OWN, SHARED):
        raise ConfigurationError(f"{VARIABLE} is {wanted[:20]!r}; wanted {OWN} or {SHARED}")
    if wanted == SHARED:
        return None
    if not can_confine():
        raise ConfigurationError(
            "users of their own need root, and the right to make mounts (CAP_SYS_ADMIN)",
            hint=f"start as root, or with {VARIABLE}={SHARED}",
        )
    return Users.of_domain(home.load_domain().domain_id)


def describe(home: Home) -> str:
    """Whether parties are kept apart, in one line for people."""
    users = users_of(home)
    if users is not None:
        parties = ", ".join(f"{party} {users.of(party)}" for party in _parties(home, users=users))
        return f"users of their own: {parties}, guests {users.guests.start}-{users.guests.stop - 1}"
    why = f"{VARIABLE}={SHARED}" if os.environ.get(VARIABLE) == SHARED else "not started as root with CAP_SYS_ADMIN"
    return f"one user for all parties ({why}): nothing here is kept from that user"


def as_party(home: Home, party: str, command: Sequence[str]) -> tuple[str, ...]:
    """A command as the user of a party, who finds this home, the checkout and the interpreter; else as it is."""
    users = users_of(home)
    if users is None:
        return tuple(command)
    return confined(
        command,
        user=users.of(party),
        groups=() if party in (AIRFLOW, BROKER) else (users.storage_group,),
        passwd=home.path / PASSWD,
        see=seen_by_all(home),
        see_listed=sources_file(home, party),
    )


def socket_users(home: Home, *, of: str) -> list[str]:
    """Which other users of this home may connect to a service, as its settings file has them.

    The broker has all for its callers, guests among them. An agent and the quoting service have Airflow.
    """
    users = users_of(home)
    if users is None:
        return []
    if of == BROKER:
        return [f"{users.everybody.start}-{users.everybody.stop - 1}"]
    return [str(users.of(AIRFLOW))]


def party_environment(home: Home, party: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What a party's processes get of an environment of who started them: HOME and TMPDIR are not theirs."""
    if users_of(home) is None:
        return dict(environment)
    kept = {name: value for name, value in environment.items() if name != "TMPDIR"}
    return kept | {"HOME": str(_folder(home, party))}


def sources_file(home: Home, party: str) -> Path:
    """The sources outside this home that a party's agent seals, a line each."""
    return home.run / f"{party}.sources"


def seen_by_all(home: Home) -> list[Path]:
    """What every party needs of the machine beyond the system's own folders."""
    places = [Path(sys.base_prefix), Path(sys.prefix), find_checkout(), home.path, home.sockets]
    return [place for place in places if place is not None]


def hand_over(home: Home) -> None:
    """Give each party what is its own. To be called after anything was written for one; repeating it is cheap.

    Only what root made is given (attack: a party links to somebody else's file, and root gives it that).
    """
    users = users_of(home)
    if users is None:
        return
    for folder in (home.path, home.run, home.tee, home.path / "agents", home.path / "images", home.sockets):
        if folder.exists():
            folder.chmod(0o711)
    write_private(home.path / PASSWD, users.passwd())
    (home.path / PASSWD).chmod(0o644)
    for party in {*_parties(home, users=users), QUOTING} - {AIRFLOW}:
        socket = home.socket(party).parent
        socket.mkdir(exist_ok=True)
        user = 0 if party == QUOTING else users.of(party)
        _own(socket, user=user, group=user, mode=0o711)
    for folder, party in ((home.broker, BROKER), (home.airflow, AIRFLOW), (home.passports, AIRFLOW)):
        _own(folder, user=users.of(party), group=users.of(party), mode=0o700)
        _give_below(folder, user=users.of(party), group=users.of(party))
    for party in set(_parties(home, users=users)) - {BROKER, AIRFLOW}:
        _hand_over_agent(_folder(home, party), user=users.of(party))
    _own(home.dags, user=0, group=users.of(AIRFLOW), mode=0o750)
    _give_below(home.dags, group=users.of(AIRFLOW), folder_mode=0o750, file_mode=0o640)
    _own(home.storage, user=0, group=users.storage_group, mode=0o2770)
    _give_below(home.storage, group=users.storage_group, folder_mode=0o2770)


def note_sources(home: Home, sources: Sequence[Path], *, agent: str) -> None:
    """Have an agent find, at its next start, the files and folders outside this home that it is to seal.

    Raises:
        ConfigurationError: its user may not read one.
    """
    users = users_of(home)
    if users is None:
        return
    outside = sorted({source for source in sources if not source.is_relative_to(home.path)})
    for source in outside:
        _require_readable(source, agent=agent, user=users.of(f"{agent}-agent"))
    write_private(sources_file(home, f"{agent}-agent"), "".join(f"{source}\n" for source in outside).encode())


def _require_readable(source: Path, *, agent: str, user: int) -> None:
    needed = 0o005 if source.is_dir() else 0o004
    if source.exists() and source.stat().st_mode & needed != needed:
        raise ConfigurationError(
            f"source {source} is closed to the user of the {agent} agent, {user}",
            code="source_closed",
            hint=f"chmod -R o+rX {source}, or start with {VARIABLE}={SHARED}",
        )


def _parties(home: Home, *, users: Users) -> list[str]:
    """Those that this home has."""
    return [party for party in users.parties if _folder(home, party).exists()]


def _folder(home: Home, party: str) -> Path:
    folders = {BROKER: home.broker, AIRFLOW: home.airflow}
    return folders.get(party) or home.agent(party.removesuffix("-agent"))


def _hand_over_agent(folder: Path, *, user: int) -> None:
    own = (folder / "state", folder / "opened")
    _own(folder, user=0, group=user, mode=0o750)
    for path in own:
        path.mkdir(exist_ok=True)
        _own(path, user=user, group=user, mode=0o700)
        _give_below(path, user=user, group=user)
    _give_below(folder, group=user, folder_mode=0o750, file_mode=0o640, but=own)


def _own(folder: Path, *, user: int, group: int, mode: int) -> None:
    os.chown(folder, user, group)
    folder.chmod(mode)


def _give_below(
    top: Path,
    *,
    user: int = -1,
    group: int,
    folder_mode: int | None = None,
    file_mode: int | None = None,
    but: Sequence[Path] = (),
) -> None:
    """Give what root has made below a folder; -1 leaves the user. Never through a link."""
    for folder, folders, files, above in os.fwalk(top):
        folders[:] = [name for name in folders if Path(folder, name) not in but]
        for name, mode in (*((name, folder_mode) for name in folders), *((name, file_mode) for name in files)):
            with _opened(name, above=above) as handle:
                if handle is None or (user == -1 and os.fstat(handle).st_gid == group):
                    continue
                os.fchown(handle, user, group)
                if mode is not None:
                    os.fchmod(handle, mode)


@contextmanager
def _opened(name: str, *, above: int) -> Iterator[int | None]:
    """A handle of a folder or file that root has made, and that has no second name."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
    except OSError:  # a link, a socket, or gone
        yield None
        return
    try:
        status = os.fstat(handle)
        is_plain = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
        yield handle if status.st_uid == 0 and is_plain else None
    finally:
        os.close(handle)
