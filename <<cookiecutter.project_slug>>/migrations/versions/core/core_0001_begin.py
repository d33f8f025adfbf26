"""The extension that vectors need, and the outbox of tasks."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "core_0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # Where the role may not make extensions, the database's owner has made it before: then this does nothing.
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "task_outbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("args", postgresql.JSONB(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("context", postgresql.JSONB(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_outbox")),
    )
    op.create_index("ix_task_outbox_due_at", "task_outbox", ["due_at"], postgresql_where=sa.text("state <> 'dead'"))


def downgrade() -> None:
    op.drop_index("ix_task_outbox_due_at", table_name="task_outbox")
    op.drop_table("task_outbox")
    # The extension stays: another schema of the database may use it, and dropping it needs its owner.
