"""Canonical JSON (RFC 8785) in and out, and `H(x)`, the digest of a document.

Refuses: unknown fields, duplicate fields, floats, trailing bytes, any encoding other than the canonical one.
A document has exactly one encoding, so a changed byte is a refused byte.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, TypeVar

import msgspec
import rfc8785

from ppml_airflow.errors import MalformedInputError
from ppml_airflow.units import MIB, Digest

MAX_DOCUMENT_BYTES = 16 * MIB
_SAFE_INTEGER = 2**53
_ENCODER = msgspec.json.Encoder(order="sorted")
"""Writes RFC 8785 fifty times faster than `rfc8785`; not so floats, large integers, the order of keys beyond ASCII."""
_NUMBER = rb"-?(?:[0-9]{16}|[0-9]+[.eE])"
_DELICATE = tuple(re.compile(before + _NUMBER) for before in (b'":', b",", rb"\["))


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value with one canonical encoding. Fields are never optional on the wire: absent is not the same as null.

    `bytes` are base64 strings, `Mapping`s have string keys, integers stay within 2**53, there are no floats.
    """


T = TypeVar("T")


def encode(value: object) -> bytes:
    """Encode a document, or plain dicts, lists, strings, integers, booleans and None, as RFC 8785 JSON.

    Raises:
        MalformedInputError: the value holds something that has no canonical form here (a float, say).
    """
    plain = msgspec.to_builtins(value)
    try:
        return _ENCODER.encode(plain) if _has_ascii_keys(plain) else rfc8785.dumps(plain)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise MalformedInputError(f"{type(value).__name__} has no canonical JSON form: {error}") from error


def decode(data: bytes, *, into: type[T], max_bytes: int = MAX_DOCUMENT_BYTES) -> T:
    """Decode canonical JSON into a document type.

    Raises:
        MalformedInputError: too long, not JSON, not of the type, unknown or missing fields, or not canonical.
    """
    name = getattr(into, "__name__", str(into))
    if len(data) > max_bytes:
        raise MalformedInputError(f"{name} has {len(data)} bytes; at most {max_bytes} are read")
    try:
        value = msgspec.json.decode(data, type=into, strict=True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedInputError(f"{name} is malformed: {error}") from error
    if (encode(value) if _is_delicate(data) else _ENCODER.encode(value)) != data:
        raise MalformedInputError(f"{name} is not in canonical form (RFC 8785)", code="not_canonical")
    return value


def convert(value: object, *, into: type[T]) -> T:
    """Turn plain dicts and lists (from YAML, or a lenient HTTP body) into a document type.

    Raises:
        MalformedInputError: not of the type, unknown or missing fields.
    """
    try:
        return msgspec.convert(value, type=into, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedInputError(f"{getattr(into, '__name__', into)} is malformed: {error}") from error


def digest(value: object) -> Digest:
    """`H(x)`: SHA-256 over the canonical encoding."""
    return digest_bytes(encode(value))


def digest_bytes(data: bytes) -> Digest:
    """SHA-256 of bytes as a `Digest`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _is_delicate(data: bytes) -> bool:
    """Whether JSON may hold what `_ENCODER` writes in another way; text that looks like it costs time only."""
    return data[:1] != b"{" or not data.isascii() or any(number.search(data) for number in _DELICATE)


def _has_ascii_keys(value: Any) -> bool:
    """Whether all keys in a plain value are ASCII.

    Raises:
        MalformedInputError: there is a float, a key that is no string, or an integer of 2**53 or more.
    """
    found, waiting = True, [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind is dict:
            if not all(type(key) is str for key in item):
                raise MalformedInputError("a key is no string; wanted strings only")
            found = found and "".join(item).isascii()
            waiting += [each for each in item.values() if type(each) is not str]
        elif kind is list or kind is tuple:
            waiting += [each for each in item if type(each) is not str]
        elif kind is float:
            raise MalformedInputError("a float has no place in a document; write decimals as strings")
        elif kind is int and not -_SAFE_INTEGER < item < _SAFE_INTEGER:
            raise MalformedInputError(f"integer {item} has no canonical JSON form; wanted one within 2**53")
    return found
