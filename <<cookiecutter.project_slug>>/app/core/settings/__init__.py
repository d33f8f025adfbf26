"""Typed settings: the one place that reads the environment, a file for each group.

A variable is named GROUP_FIELD: `DATABASE_POOL_SIZE` is `settings.database.pool_size`. Every field carries its own
documentation; `.env.example` is made from it (`make generate`) and a check holds the two together. A feature brings
its own group (`FeatureSettings`), which goes when the feature goes.
"""

from app.core.settings.admin import Admin
from app.core.settings.ai import Ai, Price
from app.core.settings.audit import KEEP_AT_LEAST_DAYS, Audit
from app.core.settings.auth import Auth
from app.core.settings.backup import Backup
from app.core.settings.base import NO_SECRET, Address, CommaList, FeatureSettings, secret
from app.core.settings.database import Database
from app.core.settings.encryption import Encryption
from app.core.settings.health import Health
from app.core.settings.http import Http
from app.core.settings.limits import Limits
from app.core.settings.listing import default_text, documented, is_generated, redacted
from app.core.settings.loading import SettingsError, load_settings
from app.core.settings.log import Log
from app.core.settings.messages import Messages
from app.core.settings.production import production_faults, secret_faults
from app.core.settings.redis import Broker, Cache
from app.core.settings.root import Environment, Settings
from app.core.settings.secrets import Secrets
from app.core.settings.sources import ENV_FILE_VARIABLE, Variables, env_file, read_variables, unknown_variables
from app.core.settings.storage import Storage
from app.core.settings.tasks import Tasks
from app.core.settings.telemetry import Metrics, Otel, Sentry
from app.core.settings.ws import Ws

__all__ = [
    "ENV_FILE_VARIABLE",
    "KEEP_AT_LEAST_DAYS",
    "NO_SECRET",
    "Address",
    "Admin",
    "Ai",
    "Audit",
    "Auth",
    "Backup",
    "Broker",
    "Cache",
    "CommaList",
    "Database",
    "Encryption",
    "Environment",
    "FeatureSettings",
    "Health",
    "Http",
    "Limits",
    "Log",
    "Messages",
    "Metrics",
    "Otel",
    "Price",
    "Secrets",
    "Sentry",
    "Settings",
    "SettingsError",
    "Storage",
    "Tasks",
    "Variables",
    "Ws",
    "default_text",
    "documented",
    "env_file",
    "is_generated",
    "load_settings",
    "production_faults",
    "read_variables",
    "redacted",
    "secret",
    "secret_faults",
    "unknown_variables",
]
