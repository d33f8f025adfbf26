"""A made corpus in the baked project's own tables: clustered vectors, and words as frequent as in a language.

Everything comes from a fixed seed, so that each run measures the same rows. Rows come in by COPY; the HNSW and GIN indexes
are built afterwards, as after a restore. A vector is the sum of its subject and of three deviations, taken from pools that
live in a space of `DIRECTIONS` dimensions: the vectors of texts lie near those of the same subject too, and vary there in far
fewer directions than they have numbers. The server does the sums: there is no library for arrays here.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from uuid import UUID

import asyncpg

DIMENSIONS = 512
SEED = 20261121
SUBJECTS = 500
DIRECTIONS = 40
POOLS = 3
POOL = 300
SPREAD = 1.2
VOCABULARY = 20_000
WORDS = 110
# Who holds which share of the rows; what is left belongs to many small owners.
SHARES = {"1 %": 0.01, "10 %": 0.10}
OTHERS = 300
PASSAGES_IN_A_DOCUMENT = 50


class Corpus:
    """A plan of so many passages; the same one for the same number."""

    def __init__(self, passages: int) -> None:
        self.passages = passages
        self._dice = random.Random(SEED)
        syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "il")]
        words: dict[str, None] = {}
        while len(words) < VOCABULARY:
            words["".join(self._dice.choices(syllables, k=self._dice.randint(2, 4)))] = None
        self.vocabulary = list(words)
        """Most frequent first, by Zipf's law."""
        self._frequency = list(accumulate(1 / rank for rank in range(10, VOCABULARY + 10)))

    @staticmethod
    def owner(name: str) -> UUID:
        """The id of an owner named in `SHARES`."""
        return _owner(list(SHARES).index(name))

    def pools(self) -> Iterator[tuple[str, int, str]]:
        """Rows (pool, number, vector) of the subjects `s` and the deviations `0`, `1`, `2`."""
        dice = random.Random(SEED + 1)
        directions = [[dice.gauss(0, 1) for _ in range(DIMENSIONS)] for _ in range(DIRECTIONS)]
        for number in range(SUBJECTS):
            yield "s", number, _text([dice.gauss(0, 1) for _ in range(DIMENSIONS)])
        for pool in range(POOLS):
            for number in range(POOL):
                parts = [dice.gauss(0, SPREAD / (DIRECTIONS * POOLS) ** 0.5) for _ in directions]
                vector = [0.0] * DIMENSIONS
                for part, direction in zip(parts, directions, strict=True):
                    vector = [value + part * along for value, along in zip(vector, direction, strict=True)]
                yield str(pool), number, _text(vector)

    def rows(self) -> Iterator[tuple[UUID, int, UUID, str, int, int, int, int]]:
        """Rows (document, position, owner, text, subject, three deviations), owners mixed as they come in."""
        owners = [number for number, share in enumerate(SHARES.values()) for _ in range(int(self.passages * share))]
        owners += [self._dice.randrange(len(SHARES), len(SHARES) + OTHERS) for _ in range(self.passages - len(owners))]
        self._dice.shuffle(owners)
        seen: Counter[int] = Counter()
        for owner in owners:
            document, position = divmod(seen[owner], PASSAGES_IN_A_DOCUMENT)
            seen[owner] += 1
            words = self._dice.choices(self.vocabulary, cum_weights=self._frequency, k=WORDS)
            yield (
                UUID(int=(0x2000 + owner << 32) + document),
                position,
                _owner(owner),
                " ".join(words),
                *self.picks(self._dice),
            )

    @staticmethod
    def picks(dice: random.Random) -> tuple[int, int, int, int]:
        """A subject and three deviations: a passage's vector, or a query's."""
        return dice.randrange(SUBJECTS), dice.randrange(POOL), dice.randrange(POOL), dice.randrange(POOL)


async def load(connection: asyncpg.Connection, corpus: Corpus) -> dict[str, float]:
    """Fill the project's tables and build the indexes; returns the seconds of each step."""
    begin = time.perf_counter()
    seconds: dict[str, float] = {}

    def step(name: str) -> None:
        nonlocal begin
        seconds[name], begin = time.perf_counter() - begin, time.perf_counter()

    await connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '1GB'")
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename ~ '^document_(passages|embeddings)$' AND indexdef ~ 'USING (hnsw|gin)'"
    )
    for index in indexes:
        await connection.execute(f'DROP INDEX "{index["indexname"]}"')
    await connection.execute(
        f"""
        CREATE UNLOGGED TABLE bench_pool (pool text, number int, vector vector({DIMENSIONS}), PRIMARY KEY (pool, number));
        CREATE TEMP TABLE planned (document uuid, position int, owner uuid, text text, s int, a int, b int, c int);
        """
    )
    await _copy(connection, "bench_pool", corpus.pools())
    await _copy(connection, "planned", corpus.rows())
    step("copy")
    await connection.execute(
        """
        INSERT INTO embedding_models (slot, name, state) VALUES (0, 'offline-lexical-1', 'active');
        INSERT INTO documents (id, owner_id, title, file_name, media_type, size, sha256, status, passages)
        SELECT document, owner, 'Document ' || document, document, 'text/plain', 1, document, 'ready', count(*)
        FROM planned GROUP BY document, owner
        """
    )
    await connection.execute(
        f"""
        INSERT INTO document_passages (document_id, position, owner_id, text, language)
        SELECT document, position, owner, text, 'simple' FROM planned;
        INSERT INTO document_embeddings (document_id, position, slot, owner_id, embedding)
        SELECT document, position, 0, owner, {SUM} FROM planned {JOINS.format(picks="planned")};
        """
    )
    step("rows")
    for index in indexes:
        await connection.execute(index["indexdef"])
        step(index["indexname"])
    for table in ("documents", "document_passages", "document_embeddings"):
        await connection.execute(f"VACUUM ANALYZE {table}")
    step("vacuum")
    return seconds


SUM = "l2_normalize(s.vector + a.vector + b.vector + c.vector)"
JOINS = """
    JOIN bench_pool s ON s.pool = 's' AND s.number = {picks}.s
    JOIN bench_pool a ON a.pool = '0' AND a.number = {picks}.a
    JOIN bench_pool b ON b.pool = '1' AND b.number = {picks}.b
    JOIN bench_pool c ON c.pool = '2' AND c.number = {picks}.c
"""


async def queries(connection: asyncpg.Connection, count: int, seed: int) -> list[str]:
    """Vectors of questions, made as those of passages are, as PostgreSQL writes them."""
    dice = random.Random(seed)
    rows = await connection.fetch(
        f"SELECT CAST(CAST({SUM} AS halfvec) AS text) FROM jsonb_to_recordset($1::jsonb) AS asked(n int, s int, a int, b int, c int) "
        + JOINS.format(picks="asked")
        + " ORDER BY n",
        json.dumps([dict(zip("nsabc", (n, *Corpus.picks(dice)), strict=True)) for n in range(count)]),
    )
    return [row[0] for row in rows]


async def _copy(connection: asyncpg.Connection, table: str, rows: Iterator[tuple[object, ...]]) -> None:
    """COPY in text form: asyncpg has no binary form of a vector."""

    async def lines():  # type: ignore[no-untyped-def]
        block: list[str] = []
        for row in rows:
            block.append("\t".join(map(str, row)) + "\n")
            if len(block) == 500:
                yield "".join(block).encode()
                block.clear()
        yield "".join(block).encode()

    await connection.copy_to_table(table, source=lines(), format="text")


def _owner(number: int) -> UUID:
    return UUID(int=0x1000 + number)


def _text(vector: list[float]) -> str:
    return "[" + ",".join(f"{value:.4f}" for value in vector) + "]"
