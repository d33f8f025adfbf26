"""What must be right before production starts."""

from urllib.parse import urlsplit

from pydantic import SecretStr

from app.core.settings.auth import Auth
from app.core.settings.base import extra_of
from app.core.settings.listing import fields_of
from app.core.settings.root import Settings

MIN_SECRET_LENGTH = 24
# What providers of managed services generate is shorter.
MIN_MANAGED_LENGTH = 12
# What people leave in place: a secret that holds one of these words was never made fresh.
WEAK_SECRET_WORDS = (
    "change",
    "secret",
    "password",
    "example",
    "default",
    "insecure",
    "admin",
    "qwerty",
    "12345678",
)


def production_faults(settings: Settings) -> list[str]:
    """What must be mended before `settings` may serve in production; empty elsewhere."""
    if not settings.production:
        return []
    faults = _faults_of_secrets(settings) + _faults_of_keys(settings.auth)
    if settings.storage.access_key:
        faults += secret_faults("STORAGE_SECRET_KEY", settings.storage.secret_key)
    if settings.log.format == "console":
        faults.append("LOG_FORMAT: console is for a terminal; what collects the lines wants json")
    if settings.admin.enabled:
        faults += secret_faults("ADMIN_SECRET_KEY", settings.admin.secret_key)
    if "*" in settings.http.cors_origins:
        faults.append("HTTP_CORS_ORIGINS: * lets every site in; name the origins")
    if "*" in settings.allowed_hosts:
        faults.append("HTTP_ALLOWED_HOSTS: * answers to any name; name the hosts")
    if not settings.encryption.keys.get_secret_value():  # messages are encrypted in every project
        faults.append("ENCRYPTION_KEYS: missing; make one: python -m app.cli encryption new-key")
    # Only what makes backups holds the keys of their store; it says the same again where there are none (an IAM role).
    if settings.backup.s3_access_key and settings.backup.encryption and not settings.backup.keys_by_id():
        faults.append("BACKUP_KEYS: missing; make one: python -m app.cli encryption new-key (or BACKUP_ENCRYPTION=off)")
    return faults + _ai_faults(settings)


def _ai_faults(settings: Settings) -> list[str]:
    ai = settings.ai
    faults = []
    if any(group.compares_meaning for group in settings.features) and not ai.allow_offline:
        if ai.embedding_provider == "offline":
            faults.append(
                "AI_EMBEDDING_PROVIDER: offline finds words, not meaning; choose openai, or accept it with AI_ALLOW_OFFLINE=true"
            )
        if ai.answer_provider == "offline":
            faults.append(
                "AI_ANSWER_PROVIDER: offline quotes and does not answer; choose claude or openai, or accept it with AI_ALLOW_OFFLINE=true"
            )
    speaks_openai = ai.answer_provider == "openai" or (ai.embedding_provider == "openai" and not ai.embedding_base_url)
    if speaks_openai and not (ai.openai_api_key.get_secret_value() or ai.openai_base_url):
        faults.append("AI_OPENAI_API_KEY: missing; set it, or AI_OPENAI_BASE_URL for a server of your own")
    if ai.answer_provider == "claude" and not (ai.claude_api_key.get_secret_value() or ai.claude_base_url):
        faults.append("AI_CLAUDE_API_KEY: missing; set it, or AI_CLAUDE_BASE_URL for a server of your own")
    return faults


def _faults_of_secrets(settings: Settings) -> list[str]:
    # The whole address of a managed service carries its password.
    managed = {
        f"{name}_PASSWORD".upper()
        for name, group in settings
        if (url := getattr(group, "url", None)) and url.get_secret_value()
    }
    faults: list[str] = []
    for variable, field, value in fields_of(settings):
        if isinstance(value, SecretStr):
            if extra_of(field).get("required") and variable not in managed:
                faults += secret_faults(variable, value)
            if variable.endswith("_URL"):
                faults += _address_faults(variable, value)
    return faults


def _faults_of_keys(auth: Auth) -> list[str]:
    """Why tokens cannot be signed, or by nobody else either be checked."""
    faults: list[str] = []
    if auth.outside:
        if not auth.issuer:
            faults.append("AUTH_ISSUER: missing; name the provider whose keys AUTH_PUBLIC_KEYS are")
    elif auth.algorithm == "HS256":
        faults += secret_faults("AUTH_SECRET_KEY", auth.secret_key)
    elif not auth.private_key.get_secret_value():
        kind = "ed25519" if auth.algorithm == "EdDSA" else "rsa"
        faults.append(f"AUTH_PRIVATE_KEY: missing; make one: openssl genpkey -algorithm {kind}")
    for part in filter(None, auth.further_secret_keys.get_secret_value().split(",")):
        faults += secret_faults("AUTH_FURTHER_SECRET_KEYS", SecretStr(part.strip()))
    return faults


def _address_faults(variable: str, value: SecretStr) -> list[str]:
    """Why the password within an address is too weak. One without a password is let in by other means."""
    try:
        password = urlsplit(value.get_secret_value()).password
    except ValueError:
        return [f"{variable}: not an address"]
    weak = secret_faults("its password", SecretStr(password), MIN_MANAGED_LENGTH) if password else []
    return [f"{variable}: {fault.replace(': ', ' is ', 1)}" for fault in weak]


def secret_faults(variable: str, value: SecretStr, min_length: int = MIN_SECRET_LENGTH) -> list[str]:
    """Why a secret is too weak for production; empty when it is not."""
    secret = value.get_secret_value()
    advice = "make one: openssl rand -hex 32"
    if not secret:
        return [f"{variable}: missing; {advice}"]
    if len(secret) < min_length:
        return [f"{variable}: shorter than {min_length} characters; {advice}"]
    if len(set(secret)) < 8 or any(word in secret.lower() for word in WEAK_SECRET_WORDS):
        return [f"{variable}: a default or easily guessed value; {advice}"]
    return []
