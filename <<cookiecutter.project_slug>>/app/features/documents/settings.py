"""Settings of the documents feature."""

from typing import ClassVar, Literal

from pydantic import Field

from app.core.settings import FeatureSettings

# What PostgreSQL 18 brings along. Add the name of a configuration of your own after the migration that creates it.
Language = Literal[
    "simple", "arabic", "armenian", "basque", "catalan", "danish", "dutch", "english", "estonian", "finnish", "french",
    "german", "greek", "hindi", "hungarian", "indonesian", "irish", "italian", "lithuanian", "nepali", "norwegian",
    "portuguese", "romanian", "russian", "serbian", "spanish", "swedish", "tamil", "turkish", "yiddish",
]  # fmt: skip


class DocumentsSettings(FeatureSettings):
    """What is taken, and how it is cut into passages."""

    prefix: ClassVar[str] = "DOCUMENTS_"
    compares_meaning: ClassVar[bool] = True

    max_bytes: int = Field(
        default=10 * 1024 * 1024,
        gt=0,
        description="Largest file. HTTP_MAX_BODY_BYTES and nginx's limit must be a little larger.",
    )
    upload_seconds: int = Field(
        default=900,
        ge=60,
        le=86_400,
        description="How long a signed upload address is good, and the upload can be completed. Whoever has it may use it.",
    )
    uploads_open: int = Field(
        default=100, gt=0, description="Signed uploads that one person may have begun and not completed."
    )
    download_seconds: int = Field(
        default=300, ge=10, le=86_400, description="How long a signed download address is good."
    )
    backlog: int = Field(
        default=5000,
        gt=0,
        description="Documents waiting for a worker or at one; beyond it uploads are answered 503 with Retry-After.",
    )
    backlog_per_person: int = Field(
        default=500, gt=0, description="The same for one person, answered 429: one must not fill everybody's queue."
    )
    large_bytes: int = Field(
        default=1024 * 1024,
        gt=0,
        description="Files from this size on are processed when nothing smaller waits.",
    )
    sweep_files: int = Field(
        default=20_000,
        gt=0,
        description="Stored files that the hourly sweep compares with the documents; the next run goes on behind them.",
    )
    max_pages: int = Field(default=2000, gt=0, description="Most pages of a PDF.")
    max_characters: int = Field(default=5_000_000, gt=0, description="Most characters of text in one file.")
    max_unpacked_bytes: int = Field(
        default=100_000_000,
        gt=0,
        description="Most bytes that a Word document may unfold to; a bomb unfolds to a thousand times its size.",
    )
    extract_seconds: int = Field(
        default=120,
        ge=1,
        description="Processor time for reading one file, in a process of its own. Plain pages of a PDF take 4 ms each.",
    )
    extract_memory_mb: int = Field(
        default=1024, ge=128, description="Address space of that process; a usual file takes a tenth of it."
    )
    max_passages: int = Field(default=20_000, gt=0, description="Most passages of one file; each costs an embedding.")
    passage_characters: int = Field(default=1000, ge=200, le=4000, description="Length of the longest passage.")
    passage_overlap: int = Field(
        default=150,
        ge=0,
        description="Characters that a passage repeats of the one before; at most half its length counts.",
    )
    language: Language = Field(
        default="simple",
        description="PostgreSQL's text search configuration: simple suits any language; english, german, … know word"
        " forms. Holds for what is processed from then on.",
    )
    search_seconds: float = Field(
        default=5, gt=0, description="How long a search waits for the embedding of its query before words alone decide."
    )
    answer_seconds: float = Field(default=60, gt=0, description="Deadline of a whole answer, first word to last.")
    answer_similarity: float = Field(
        default=0.3,
        ge=-1,
        le=1,
        description="A passage may be a source when its vector is this near to the question's (cosine). The scale is the"
        " embedding model's …",
    )
    answer_coverage: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="… or when it holds this share of the question's words, rare ones counting more. Without a source no"
        " model is asked.",
    )
    answer_days: int = Field(default=90, gt=0, description="Days until an answer's sources and feedback are deleted.")
