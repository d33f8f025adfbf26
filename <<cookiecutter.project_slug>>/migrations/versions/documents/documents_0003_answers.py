"""Answers and what people think of them; statistics and storage as the search wants them."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "documents_0003"
down_revision: str | Sequence[str] | None = "documents_0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "document_answers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("sources", JSONB(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_document_answers")),
    )
    op.create_index("ix_document_answers_created_at", "document_answers", ["created_at"])
    # The search decides by who owns how much: statistics know a thousand owners by name instead of a hundred.
    op.execute("ALTER TABLE document_passages ALTER owner_id SET STATISTICS 1000")
    # Ranking reads the words of every passage that matches, and the text of those alone that are shown: so the words stay
    # in the row and the text leaves it. Holds for rows written from now on.
    op.execute("ALTER TABLE document_passages ALTER words SET STORAGE MAIN")


def downgrade() -> None:
    op.execute("ALTER TABLE document_passages ALTER words SET STORAGE EXTENDED")
    op.execute("ALTER TABLE document_passages ALTER owner_id SET STATISTICS DEFAULT")
    op.drop_table("document_answers")
