"""What documents take and give."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.features.documents.extraction import MediaType
from app.features.documents.extraction.text import clean_line
from app.features.documents.models import Status, Verdict
from app.features.documents.search import CANDIDATES, Part

MAX_QUERY = 1000
DOCUMENT_ID = "01934f2c-7a1e-7c43-9d1b-5b0f6a2e8c11"


def _something(value: str) -> str:
    value = clean_line(value)
    if not value:
        raise ValueError("must hold a word")
    return value


def _printable(value: str) -> str:
    return value.replace("\x00", "").strip()


class DocumentOut(BaseModel):
    """An uploaded file and how far it has come."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(examples=[DOCUMENT_ID])
    title: str = Field(description="Made of the file's name.", examples=["Employee handbook"])
    media_type: MediaType = Field(description="Found from the content.", examples=[MediaType.PDF])
    size: int = Field(description="Bytes.", examples=[482_113])
    sha256: str = Field(description="Digest of the file, in hexadecimal.", examples=["9f86d081…"])
    status: Status = Field(
        description="pending and processing end in ready (it can be found) or failed (see error).",
        examples=[Status.READY],
    )
    error: str | None = Field(description="Why it failed.", examples=[None])
    passages: int = Field(
        description="Passages that it was cut into; all of them can be found when it is ready.", examples=[214]
    )
    created_at: datetime
    processed_at: datetime | None


class UploadIn(BaseModel):
    """A file to be sent to a signed address."""

    model_config = ConfigDict(extra="forbid")

    file_name: str = Field(max_length=1000, description="Makes the title; it may be empty.", examples=["Handbook.pdf"])
    size: int = Field(ge=1, description="Bytes, exactly.", examples=[482_113])
    content_type: str | None = Field(
        default=None,
        max_length=200,
        description="What the client takes it for. Only to be told early that it is not taken; the content decides.",
        examples=[MediaType.PDF],
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="Digest of the file, in hexadecimal; then no other bytes are taken.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],  # pragma: allowlist secret
    )


class UploadOut(BaseModel):
    """Leave to send one file to the object store."""

    id: UUID = Field(examples=[DOCUMENT_ID])
    method: Literal["PUT"] = Field(default="PUT", description="Send the bytes as the body of this request …")
    url: str = Field(
        description="… to this address …", examples=["https://files.example.com/app/quarantine/0193…?X-Amz-…"]
    )
    headers: dict[str, str] = Field(description="… with exactly these headers, and no others of your own.")
    expires_at: datetime = Field(description="Send and complete it until then.")


class DownloadOut(BaseModel):
    """Where a file can be fetched."""

    url: str = Field(description="Anyone who has it can fetch the file; send no Authorization header there.")
    file_name: str = Field(examples=["Handbook.pdf"])
    expires_at: datetime


class SearchIn(BaseModel):
    """What to look for."""

    model_config = ConfigDict(extra="forbid")

    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY), AfterValidator(_something)] = Field(
        description='Words or a question. "Quotes" ask for a phrase, -word leaves a word out; then all words must be there.',
        examples=["how many days of parental leave"],
    )
    limit: int = Field(default=5, ge=1, le=CANDIDATES, description="At most so many passages.")
    min_score: float = Field(default=0.0, ge=0.0, le=1.0, strict=True, description="None with a score below this.")


class Found(BaseModel):
    """A passage and its source."""

    model_config = ConfigDict(from_attributes=True)

    document_id: UUID = Field(examples=[DOCUMENT_ID])
    title: str = Field(examples=["Employee handbook"])
    passage: str = Field(examples=["Parents may take up to 30 days of paid leave in the year after a birth."])
    page: int | None = Field(description="From 1; null where the format has no pages.", examples=[17])
    heading: str | None = Field(description="Path of the headings above it.", examples=["Leave > Parents"])
    score: float = Field(description="1 is best; comparable within one answer only.", examples=[0.984])
    similarity: float | None = Field(
        description="Cosine of the question's and the passage's vectors, if those found it. Its scale is the model's.",
        examples=[0.71],
    )
    found_by: list[Part] = Field(
        description="Nearest vectors, matching words, or both.", examples=[[Part.VECTOR, Part.TEXT]]
    )


class SearchOut(BaseModel):
    """The best passages, best first."""

    results: list[Found]
    complete: bool = Field(
        description="False when the embedding provider was away and words alone decided.", examples=[True]
    )


class AskIn(BaseModel):
    """What to answer."""

    model_config = ConfigDict(extra="forbid")

    question: Annotated[str, Field(min_length=1, max_length=MAX_QUERY), AfterValidator(_something)] = Field(
        examples=["How many days of parental leave are paid?"]
    )
    sources: int = Field(default=6, ge=1, le=20, description="At most so many passages to answer from.")


class AnswerEvent(BaseModel):
    """One event of a streamed answer, as the wire has it."""

    event: Literal["sources", "text", "done", "error"]
    data: str = Field(description="JSON.", examples=['{"text": "Thirty days [1]"}'])


class FeedbackIn(BaseModel):
    """What you think of an answer."""

    model_config = ConfigDict(extra="forbid")

    verdict: Verdict = Field(examples=[Verdict.HELPFUL])
    comment: Annotated[str, Field(max_length=2000), AfterValidator(_printable)] | None = Field(
        default=None, description="For whoever improves the documents or the service.", examples=["It is 30 weeks."]
    )
