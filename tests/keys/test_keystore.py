"""The keystore file wraps for a context, obeys disable at once, and gives nothing without its passphrase."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, VerificationError
from ppml_airflow.keys.keystore import KeystoreFile, load_passphrase
from ppml_airflow.keys.service import KeyManagementService

PASSPHRASE = b"correct horse battery staple"
CONTEXT = {"label": "ppml/v1/dataset-key", "dataset": "claims"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keystore with one key, made once: each derivation of its passphrase costs a third of a second."""
    path = tmp_path_factory.mktemp("keystore") / "keystore.json"
    KeystoreFile.create(path, passphrase=PASSPHRASE).create_key("kek-claims")
    return path


@pytest.fixture
def path(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy2(prepared, tmp_path / "keystore.json"))


@pytest.fixture
def keystore(path: Path) -> KeystoreFile:
    return KeystoreFile.load(path, passphrase=PASSPHRASE)


def test_a_secret_comes_back_under_its_key_and_context(keystore: KeystoreFile) -> None:
    service: KeyManagementService = keystore
    wrapped = service.wrap(b"secret", key_id="kek-claims", context=CONTEXT)
    assert b"secret" not in wrapped
    assert service.unwrap(wrapped, key_id="kek-claims", context=dict(reversed(CONTEXT.items()))) == b"secret"


@pytest.mark.parametrize("context", [{**CONTEXT, "dataset": "lenient"}, {**CONTEXT, "extra": "x"}, {"label": "other"}])
def test_a_secret_wrapped_for_another_context_does_not_open(keystore: KeystoreFile, context: dict[str, str]) -> None:
    wrapped = keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)
    with pytest.raises(VerificationError, match="another context") as refusal:
        keystore.unwrap(wrapped, key_id="kek-claims", context=context)
    assert refusal.value.code == "wrong_context"


def test_a_secret_does_not_open_under_another_key(keystore: KeystoreFile) -> None:
    keystore.create_key("kek-lenient")
    wrapped = keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)
    with pytest.raises(VerificationError):
        keystore.unwrap(wrapped, key_id="kek-lenient", context=CONTEXT)


@pytest.mark.parametrize("length", [0, 5, 20])
def test_a_cut_wrapped_secret_does_not_open(keystore: KeystoreFile, length: int) -> None:
    wrapped = keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)
    with pytest.raises(VerificationError):
        keystore.unwrap(wrapped[:length], key_id="kek-claims", context=CONTEXT)


def test_an_empty_context_is_refused(keystore: KeystoreFile) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        keystore.wrap(b"secret", key_id="kek-claims", context={})


def test_an_unknown_key_is_refused(keystore: KeystoreFile) -> None:
    with pytest.raises(ConfigurationError, match="has no key kek-other") as refusal:
        keystore.wrap(b"secret", key_id="kek-other", context=CONTEXT)
    assert refusal.value.code == "unknown_key"
    with pytest.raises(ConfigurationError):
        keystore.disable("kek-other")


def test_a_key_is_not_made_twice(keystore: KeystoreFile) -> None:
    wrapped = keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)
    with pytest.raises(ConfigurationError, match="exists already"):
        keystore.create_key("kek-claims")
    assert keystore.unwrap(wrapped, key_id="kek-claims", context=CONTEXT) == b"secret"


def test_disabling_in_one_process_takes_effect_in_another_at_once(keystore: KeystoreFile, path: Path) -> None:
    wrapped = keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)
    elsewhere = KeystoreFile.load(path, passphrase=PASSPHRASE)
    elsewhere.disable("kek-claims")
    with pytest.raises(PolicyDeniedError) as refusal:
        keystore.unwrap(wrapped, key_id="kek-claims", context=CONTEXT)
    assert refusal.value.code == "key_disabled"
    with pytest.raises(PolicyDeniedError):
        keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)
    elsewhere.enable("kek-claims")
    assert keystore.unwrap(wrapped, key_id="kek-claims", context=CONTEXT) == b"secret"


def test_a_wrong_passphrase_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="wrong passphrase") as refusal:
        KeystoreFile.load(path, passphrase=b"guess")
    assert refusal.value.code == "wrong_passphrase"
    assert "guess" not in str(refusal.value)


def test_an_empty_passphrase_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        KeystoreFile.create(tmp_path / "new.json", passphrase=b"")
    with pytest.raises(ConfigurationError, match="is empty"):
        KeystoreFile.load(path, passphrase=b"")


def test_a_changed_keystore_is_refused(keystore: KeystoreFile, path: Path) -> None:
    text = path.read_text()
    position = text.index('"sealed":"') + 40
    path.write_text(text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :])
    with pytest.raises(ConfigurationError, match="the file was changed"):
        keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"salt":"AAAA","sealed":"","v":1}', b"\xff\xfe"])
def test_what_is_not_a_keystore_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keystore.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="is not a keystore"):
        KeystoreFile.load(path, passphrase=PASSPHRASE)


def test_a_keystore_cut_to_nothing_sealed_is_refused(path: Path) -> None:
    text = path.read_text()
    start = text.index('"sealed":"') + len('"sealed":"')
    path.write_text(text[:start] + text[text.index('"', start) :])
    with pytest.raises(ConfigurationError, match="does not open"):
        KeystoreFile.load(path, passphrase=PASSPHRASE)


def test_a_missing_keystore_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        KeystoreFile.load(tmp_path / "none.json", passphrase=PASSPHRASE)


def test_a_keystore_that_others_can_read_is_refused(path: Path) -> None:
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="mode 0640; wanted 0600"):
        KeystoreFile.load(path, passphrase=PASSPHRASE)


def test_a_keystore_is_private_and_never_overwritten(keystore: KeystoreFile, path: Path) -> None:
    keystore.create_key("kek-2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="not overwritten"):
        KeystoreFile.create(path, passphrase=PASSPHRASE)


def test_a_failed_write_leaves_the_keystore_as_it_was(
    keystore: KeystoreFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = keystore.wrap(b"secret", key_id="kek-claims", context=CONTEXT)

    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        keystore.create_key("kek-2")
    assert keystore.unwrap(wrapped, key_id="kek-claims", context=CONTEXT) == b"secret"
    assert sorted(p.name for p in path.parent.iterdir()) == [".keystore.json.lock", "keystore.json"]


def test_keys_made_at_the_same_time_are_all_kept(keystore: KeystoreFile) -> None:
    threads = [threading.Thread(target=keystore.create_key, args=(f"kek-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        keystore.wrap(b"secret", key_id=f"kek-{i}", context=CONTEXT)


def test_a_keystore_file_shows_no_key_id_and_no_key(path: Path) -> None:
    assert b"kek-claims" not in path.read_bytes()


def test_a_passphrase_is_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE + b"\n")
    path.chmod(0o600)
    assert load_passphrase(path) == PASSPHRASE
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="wanted 0600"):
        load_passphrase(path)
    path.chmod(0o600)
    path.write_bytes(b"\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        load_passphrase(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_passphrase(tmp_path / "none")
