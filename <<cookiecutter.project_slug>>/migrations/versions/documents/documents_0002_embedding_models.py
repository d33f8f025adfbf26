"""Vectors in a table of their own with the model that made them, uploads by signed addresses, the sweep's place.

Documents whose vectors are of another model than most lose them, and are found by their words until
`python -m app.cli documents reembed`, since the vectors of two models cannot be compared.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC

revision: str = "documents_0002"
down_revision: str | Sequence[str] | None = "documents_0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# What ops/check/migrations.py finds here, and why it may be.
ACCEPTED = {
    "ban-drop-column": "the vectors move to a table of their own; the version before cannot run beside this one",
    "require-concurrent-index-deletion": "the index goes with its column",
    "require-concurrent-index-creation": "the index is on the few rows that are not ready",
    "adding-not-nullable-field": "as many rows as there are documents, which is few beside passages",
}

HNSW: dict[str, Any] = {
    "postgresql_using": "hnsw",
    "postgresql_with": {"m": 16, "ef_construction": 128},
    "postgresql_ops": {"embedding": "halfvec_cosine_ops"},
}
UNFINISHED = "status IN ('pending', 'processing')"


def upgrade() -> None:
    op.create_table(
        "embedding_models",
        sa.Column("slot", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("done", sa.Uuid(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("slot IN (0, 1)", name=op.f("ck_embedding_models_slot")),
        sa.PrimaryKeyConstraint("slot", name=op.f("pk_embedding_models")),
        sa.UniqueConstraint("name", name=op.f("uq_embedding_models_name")),
        sa.UniqueConstraint("state", name=op.f("uq_embedding_models_state")),
    )
    op.create_table(
        "document_embeddings",
        sa.Column("document_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("slot", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("embedding", HALFVEC(512), nullable=False),
        sa.ForeignKeyConstraint(
            ["document_id", "position"],
            ["document_passages.document_id", "document_passages.position"],
            name=op.f("fk_document_embeddings_document_id_document_passages"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["slot"], ["embedding_models.slot"], name=op.f("fk_document_embeddings_slot_embedding_models")
        ),
        sa.PrimaryKeyConstraint("document_id", "position", "slot", name=op.f("pk_document_embeddings")),
    )
    op.execute("""
        INSERT INTO embedding_models (slot, name, state)
        SELECT 0, embedding_model, 'active' FROM documents WHERE embedding_model IS NOT NULL
        GROUP BY embedding_model ORDER BY sum(passages) DESC, embedding_model LIMIT 1
    """)
    op.execute("""
        INSERT INTO document_embeddings (document_id, position, slot, owner_id, embedding)
        SELECT document_id, position, slot, document_passages.owner_id, embedding
        FROM document_passages
        JOIN documents ON documents.id = document_id
        JOIN embedding_models ON embedding_models.name = documents.embedding_model
    """)
    op.create_index("ix_document_embeddings_owner_id_slot", "document_embeddings", ["owner_id", "slot"])
    for slot in (0, 1):
        op.create_index(
            f"ix_document_embeddings_slot_{slot}",
            "document_embeddings",
            ["embedding"],
            postgresql_where=sa.text(f"slot = {slot}"),
            **HNSW,
        )
    op.drop_index("ix_document_passages_embedding", "document_passages")
    op.drop_column("document_passages", "embedding")
    op.drop_column("documents", "embedding_model")
    op.add_column("documents", sa.Column("file_name", sa.Text(), nullable=True))
    op.execute("""
        UPDATE documents SET file_name = title || CASE media_type
            WHEN 'application/pdf' THEN '.pdf' WHEN 'text/html' THEN '.html' WHEN 'text/markdown' THEN '.md' ELSE '.txt'
        END
    """)
    op.alter_column("documents", "file_name", nullable=False)
    op.create_index("ix_documents_unfinished", "documents", ["id"], postgresql_where=sa.text(UNFINISHED))
    op.create_table(
        "document_uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("document_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(
            ["document_id"],
            ["documents.id"],
            name=op.f("fk_document_uploads_document_id_documents"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_document_uploads")),
    )
    op.create_index("ix_document_uploads_owner_id", "document_uploads", ["owner_id"])
    op.create_index("ix_document_uploads_expires_at", "document_uploads", ["expires_at"])
    op.create_index("ix_document_uploads_document_id", "document_uploads", ["document_id"])
    op.create_table(
        "document_sweep",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("reached", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_document_sweep")),
    )


def downgrade() -> None:
    op.drop_table("document_sweep")
    op.drop_table("document_uploads")
    op.drop_index("ix_documents_unfinished", "documents")
    op.drop_column("documents", "file_name")
    op.add_column("documents", sa.Column("embedding_model", sa.Text(), nullable=True))
    op.add_column("document_passages", sa.Column("embedding", HALFVEC(512), nullable=True))
    op.execute("""
        UPDATE document_passages SET embedding = made.embedding
        FROM document_embeddings AS made JOIN embedding_models USING (slot)
        WHERE state = 'active' AND made.document_id = document_passages.document_id
          AND made.position = document_passages.position
    """)
    op.execute("UPDATE documents SET embedding_model = name FROM embedding_models WHERE state = 'active'")
    # The column takes no passage without a vector; whoever uploads such a document again has it processed anew.
    op.execute("""
        UPDATE documents SET status = 'failed', error = 'Upload it again.', passages = 0
        WHERE id IN (SELECT document_id FROM document_passages WHERE embedding IS NULL)
    """)
    op.execute("""
        DELETE FROM document_passages
        WHERE document_id IN (SELECT document_id FROM document_passages WHERE embedding IS NULL)
    """)
    op.alter_column("document_passages", "embedding", nullable=False)
    op.create_index("ix_document_passages_embedding", "document_passages", ["embedding"], **HNSW)
    op.drop_table("document_embeddings")
    op.drop_table("embedding_models")
