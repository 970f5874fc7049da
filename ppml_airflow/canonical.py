"""Canonical JSON (RFC 8785) in and out, and `H(x)`, the digest of a document.

Refuses: unknown fields, duplicate fields, floats, trailing bytes, any encoding other than the canonical one.
A document has exactly one encoding, so a changed byte is a refused byte.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec
import rfc8785

from ppml_airflow.errors import MalformedInputError
from ppml_airflow.units import MIB, Digest

MAX_DOCUMENT_BYTES = 16 * MIB


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
    _refuse_floats(plain)
    try:
        return rfc8785.dumps(plain)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
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
    if encode(value) != data:
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


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise MalformedInputError("a float has no place in a document; write decimals as strings")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
