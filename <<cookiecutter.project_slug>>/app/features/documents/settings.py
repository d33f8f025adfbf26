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
    max_pages: int = Field(default=2000, gt=0, description="Most pages of a PDF.")
    max_characters: int = Field(default=5_000_000, gt=0, description="Most characters of text in one file.")
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
