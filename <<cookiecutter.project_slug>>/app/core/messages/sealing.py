"""What a message says as it lies in the table: sealed for its own row.

A link that sets a password waits there with it. Whoever reads the table, a replica or a backup reads neither.
"""

from uuid import UUID

from app.core.encryption import Encryption
from app.core.messages.kinds import Message, parse
from app.core.messages.models import MessageRow
from app.core.messages.queue import Claimed


def seal(encryption: Encryption, identity: UUID, content: str) -> bytes:
    """What lies in the row `identity` for a message, or what is left of one, in JSON.

    Raises:
        NoKey: ENCRYPTION_KEYS is empty.
    """
    return encryption.seal(content, MessageRow.sealed, identity)


def unseal(encryption: Encryption, row: MessageRow | Claimed) -> Message | None:
    """What a message says; None once it is erased.

    Raises:
        DecryptionError: it cannot be read: changed, from another row, or its key is gone.
    """
    content = row.content if row.sealed is None else encryption.open(row.sealed, MessageRow.sealed, row.id)
    return parse(row.channel, content) if content else None
