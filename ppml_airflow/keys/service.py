"""The seam to a key management service: it holds key-encryption keys, and wraps and unwraps small secrets with them.

A context, mandatory, says what a wrapped secret is for; it opens under the same context only (attack: confused deputy).
A key-encryption key never leaves the service. Disabling one takes effect at the next unwrap, because callers ask the
service each time and keep nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class KeyManagementService(Protocol):
    """Wraps and unwraps secrets under named keys: a keystore file, Vault, a cloud KMS, an HSM."""

    def create_key(self, key_id: str) -> None:
        """Make a key-encryption key.

        Raises:
            ConfigurationError: the key exists.
        """

    def disable(self, key_id: str) -> None:
        """Refuse to use a key from now on, until it is enabled.

        Raises:
            ConfigurationError: no such key.
        """

    def enable(self, key_id: str) -> None:
        """Use a disabled key again.

        Raises:
            ConfigurationError: no such key.
        """

    def wrap(self, secret: bytes, *, key_id: str, context: Mapping[str, str]) -> bytes:
        """Encrypt a secret under a key, for this context.

        Raises:
            ConfigurationError: no such key, or an empty context.
            PolicyDeniedError: the key is disabled.
        """

    def unwrap(self, wrapped: bytes, *, key_id: str, context: Mapping[str, str]) -> bytes:
        """Decrypt what `wrap` gave for the same key and context.

        Raises:
            ConfigurationError: no such key, or an empty context.
            PolicyDeniedError: the key is disabled.
            VerificationError: wrapped under another key or for another context, or changed.
        """
