"""Passwords: hashed with Argon2id, off the event loop, and a bounded number at a time."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from app.features.accounts.settings import AccountsSettings


class Passwords:
    """Hashing with the parameters of the settings."""

    def __init__(self, memory_kib: int, passes: int, lanes: int) -> None:
        self._hasher = PasswordHash((Argon2Hasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes),))
        # Each takes its memory and a core for tens of milliseconds: a crowd at the door waits here, without starving
        # other requests of the threads of the event loop, and without taking all memory.
        self._threads = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="passwords")
        self._decoy = ""

    async def hash(self, password: str) -> str:
        """The hash to keep, with its parameters and a salt of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, password)

    async def verify(self, password: str, hashed: str | None) -> tuple[bool, str | None]:
        """Whether it is the password, and the hash to keep instead if the parameters have changed.

        Args:
            password: as typed.
            hashed: None where there is no account: something is checked all the same, so that it takes as long.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._verify, password, hashed)

    def _verify(self, password: str, hashed: str | None) -> tuple[bool, str | None]:
        if hashed is None:
            self._decoy = self._decoy or self._hasher.hash(os.urandom(16).hex())
            self._hasher.verify(password, self._decoy)
            return False, None
        return self._hasher.verify_and_update(password, hashed)


@cache
def _passwords(memory_kib: int, passes: int, lanes: int) -> Passwords:
    return Passwords(memory_kib, passes, lanes)


def passwords(settings: AccountsSettings) -> Passwords:
    """The hashing that the settings ask for; one for each set of parameters."""
    return _passwords(settings.argon2_memory_kib, settings.argon2_passes, settings.argon2_lanes)
