"""Encryption of fields."""

import base64
import binascii
import re
import secrets
from collections.abc import Mapping
from datetime import date

from pydantic import BaseModel, Field, SecretStr, field_validator

from app.core.settings.base import NO_SECRET

KEY_BYTES = 32
KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


def new_key(today: date) -> str:
    """A fresh key as ENCRYPTION_KEYS wants it; its id tells when it was made."""
    secret = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    return f"k{today:%Y%m%d}{secrets.token_hex(2)}:{secret}"


def read_keys(text: str) -> dict[str, bytes]:
    """The keys of a setting by their ids, in order.

    Raises:
        ValueError: not in that form. The message quotes no key.
    """
    keys: dict[str, bytes] = {}
    for number, part in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        name, _, secret = part.partition(":")
        try:
            key = base64.b64decode(secret, validate=True)
        except binascii.Error:
            key = b""
        if not KEY_ID.fullmatch(name) or len(key) != KEY_BYTES:
            raise ValueError(f"key {number} is not an id, a colon and {KEY_BYTES} bytes in base64")
        if name in keys:
            raise ValueError(f"the id {name} is there twice")
        keys[name] = key
    return keys


class Encryption(BaseModel):
    """Fields that only this service can read; docs/encryption.md tells how."""

    keys: SecretStr = Field(
        default=NO_SECRET,
        description="Keys as id:base64 of 32 bytes, comma-separated. The first one encrypts, all of them decrypt: docs/runbook/rotate-encryption-keys.md. Losing one loses what it encrypted.",
        json_schema_extra={"generated": "encryption key"},
    )

    @field_validator("keys")
    @classmethod
    def keys_can_be_read(cls, value: SecretStr) -> SecretStr:
        """They are keys."""
        read_keys(value.get_secret_value())
        return value

    def by_id(self) -> Mapping[str, bytes]:
        """The keys, the current one first."""
        return read_keys(self.keys.get_secret_value())
