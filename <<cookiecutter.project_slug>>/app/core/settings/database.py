"""PostgreSQL."""

from urllib.parse import quote

from pydantic import BaseModel, Field, SecretStr

from app.core.settings.base import NO_SECRET, secret


class Database(BaseModel):
    """PostgreSQL with pgvector."""

    url: SecretStr = Field(
        default=NO_SECRET,
        description="Whole address of a managed database, with its TLS options: postgresql://user:password@host:5432/name?sslmode=verify-full. Empty: made of the parts below.",
    )
    replica_url: SecretStr = Field(
        default=NO_SECRET,
        description="Whole address of a streaming replica, for reads that may be a little late, and for all reads while the primary is away. Empty: there is none.",
    )
    replica_lag_seconds: float = Field(
        default=30, gt=0, description="A replica further behind is not read in place of the primary."
    )
    pooler: bool = Field(
        default=False,
        description="The address is a pooler in transaction mode (PgBouncer, Supabase, RDS Proxy): no prepared statements, no settings of a session. Give the role a statement_timeout instead: ALTER ROLE … SET.",
    )
    host: str = Field(default="127.0.0.1", description="Name or address of the server.")
    port: int = Field(default=5432, description="Port of the server.")
    user: str = Field(default="app", description="Role of the application; it owns its database and nothing else.")
    password: SecretStr = secret("Password of that role.")
    name: str = Field(default="app", description="Name of the database.")
    pool_size: int = Field(default=5, ge=1, description="Connections kept open by each process.")
    pool_overflow: int = Field(default=5, ge=0, description="Connections a process may open beyond that under load.")
    connect_seconds: float = Field(
        default=3, gt=0, description="Deadline for a new connection, and for a free one from the pool."
    )
    statement_seconds: float = Field(default=10, gt=0, description="Deadline for one statement.")

    def dsn(self) -> str:
        """The address as libpq, asyncpg and pg_dump read it."""
        if self.url.get_secret_value():
            return self.url.get_secret_value()
        return (
            f"postgresql://{quote(self.user, safe='')}:{quote(self.password.get_secret_value(), safe='')}"
            f"@{self.host}:{self.port}/{quote(self.name, safe='')}"
        )
