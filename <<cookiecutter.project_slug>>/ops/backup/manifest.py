"""The manifest: what a backup holds, and the proof that it is one. Written last; what has none is no backup."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeAlias, get_args

from ops.backup.errors import Damaged

# What is backed up, each below a folder of its own. `proof` is no backup: it is what a restore drill found.
Kind: TypeAlias = Literal["dump", "base", "redis", "objects", "logs", "proof"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMAT = 2
# Dumps alone, at the top of the prefix; still read.
FIRST_FORMAT = 1
SUFFIX = ".json"
ID = re.compile(r"(\d{6,})-\d{8}T\d{6}Z\b")


@dataclass(frozen=True)
class Part:
    """One object of a backup.

    Attributes:
        name: its key below the prefix, so that a copied bucket is as good.
        size: bytes as they lie in the store.
        sha256: of the same bytes.
        encrypted_with: id of the key; empty where it is not encrypted.
    """

    name: str
    size: int
    sha256: str
    encrypted_with: str = ""


@dataclass(frozen=True)
class Manifest:
    """One backup.

    Attributes:
        sequence: one more than that of the backup of this kind before it: the order that no clock can upset.
        parts: its objects; more than one where the kind has several.
        seconds: how long it took to make.
        details: what only its kind understands.
    """

    kind: Kind
    id: str
    sequence: int
    created_at: datetime
    parts: tuple[Part, ...] = ()
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Bytes of all its objects in the store."""
        return sum(part.size for part in self.parts)

    @property
    def name(self) -> str:
        """Where the manifest itself lies, below the prefix."""
        return manifest_name(self.kind, self.id) if self.format != FIRST_FORMAT else f"{self.id}{SUFFIX}"

    @property
    def only(self) -> Part:
        """The one object of a backup that has one.

        Raises:
            Damaged: it has none or several.
        """
        if len(self.parts) != 1:
            raise Damaged(f"{self.id} has {len(self.parts)} objects instead of one")
        return self.parts[0]

    def to_json(self) -> bytes:
        """As it is stored, before encryption."""
        fields = asdict(self) | {"created_at": self.created_at.isoformat()}
        return json.dumps(fields, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes, name: str) -> Self:
        """Read it back.

        Raises:
            Damaged: that is no manifest of ours.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields["format"] == FIRST_FORMAT:
                fields = _from_first_format(fields)
            elif fields["format"] != FORMAT:
                raise Damaged(f"{name} has format {fields['format']}", "restore it with the version that wrote it")
            fields["created_at"] = datetime.fromisoformat(fields["created_at"]).astimezone(UTC)
            fields["parts"] = tuple(Part(**part) for part in fields["parts"])
            manifest = cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{name} cannot be read as a manifest: {error!r}") from error
        if manifest.name != name or manifest.kind not in KINDS:
            raise Damaged(f"{name} holds the manifest of {manifest.kind} {manifest.id}")
        return manifest


def manifest_name(kind: Kind, id_: str) -> str:
    """Where the manifest of a backup lies."""
    return f"{kind}/{id_}{SUFFIX}"


def new_id(sequence: int, now: datetime) -> str:
    """A name that sorts by sequence and tells people the time."""
    return f"{sequence:06d}-{now:%Y%m%dT%H%M%SZ}"


def sequence_of(name: str) -> int:
    """The sequence in the name of a backup's object, also where its manifest cannot be read; 0 where there is none."""
    found = ID.match(name.rpartition("/")[2])
    return int(found[1]) if found else 0


def _from_first_format(fields: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had one object, named by its whole key, and the details of a dump at the top."""
    part = {
        "name": fields["object"].rpartition("/")[2],
        "size": fields["size"],
        "sha256": fields["sha256"],
    }
    return {
        "kind": "dump",
        "id": fields["id"],
        "sequence": fields["sequence"],
        "created_at": fields["created_at"],
        "parts": [part],
        "details": {name: fields[name] for name in ("database", "server_version", "contents", "outside")},
        "format": FIRST_FORMAT,
    }
