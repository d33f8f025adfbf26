"""Where variables come from: the environment, then AWS Secrets Manager, then the env file; the first that has one wins.

In the environment and in the env file a secret may be given as a file instead, as Docker and Kubernetes mount them:
`DATABASE_PASSWORD_FILE=/run/secrets/database_password`.
"""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import AWSSecretsManagerSettingsSource, BaseSettings, DotEnvSettingsSource

from app.core.project import ROOT
from app.core.settings.base import FeatureSettings, extra_of
from app.core.settings.listing import documented
from app.core.settings.root import Settings

ENV_FILE_VARIABLE = "ENV_FILE"
FILE_SUFFIX = "_FILE"
# A secret is a line of text. What is larger is the wrong file.
MAX_SECRET_BYTES = 64 * 1024
# Seconds to connect to AWS, and between two packets. A process that cannot start should say so soon.
AWS_SECONDS = 5
# What others read and begins like one of our groups: clients of HTTP, OpenTelemetry's SDK.
FOREIGN = ("HTTP_PROXY", "OTEL_")


@dataclass(slots=True)
class Variables:
    """What all sources say together.

    Attributes:
        values: name in capitals to text; what is empty is left out, as compose hands on `NAME=` for what nobody has set.
        faults: the faults found while reading, by the variable they concern.
    """

    values: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def env_file() -> Path | None:
    """The file read beside the environment: ENV_FILE, or `.env`; None when ENV_FILE is set and empty."""
    named = os.environ.get(ENV_FILE_VARIABLE)
    if named is None:
        return ROOT / ".env"
    return Path(named) if named else None


def read_variables(features: Iterable[type[FeatureSettings]]) -> Variables:
    """Read every source; what is wrong in one is a fault, not an exception."""
    secrets = [name for name, described in _known(features) if is_secret(described)]
    found = Variables()
    layers = (_present(os.environ), _present(_env_file_values()))
    environment, file = (_with_files(layer, secrets, found.faults) for layer in layers)
    found.values = {**file, **environment}
    if found.values.get("SECRETS_AWS_ID"):
        found.values = {**file, **_from_aws(found), **environment}
    return found


def is_secret(described: FieldInfo) -> bool:
    """Whether a field may also be given as a file: it holds a secret, `make setup` makes it, or it says `file`."""
    extra = extra_of(described)
    return SecretStr.__name__ in repr(described.annotation) or bool(extra.get("generated") or extra.get("file"))


def unknown_variables(
    variables: Variables, features: Sequence[type[FeatureSettings]], others: Iterable[str]
) -> list[str]:
    """A line for each variable that begins like one of our groups and is none of ours: a typing error, most likely.

    Args:
        variables: what all sources say.
        features: the groups of the features in use.
        others: names that are read by something else, compose for one.
    """
    known = [name for name, _ in _known(features)]
    files = [name + FILE_SUFFIX for name, described in _known(features) if is_secret(described)]
    right = {*known, *files, *others}
    prefixes = tuple(
        [f"{name.upper()}_" for name in Settings.model_fields if name not in ("environment", "features")]
        + [feature.prefix for feature in features]
    )
    lines = []
    for name in sorted(variables.values):
        if name.startswith(prefixes) and name not in right and not name.startswith(FOREIGN):
            near = difflib.get_close_matches(name, known, 1, 0.8)
            lines.append(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    return lines


def _known(features: Iterable[type[FeatureSettings]]) -> list[tuple[str, FieldInfo]]:
    return [pair for _, _, fields in documented(features) for pair in fields]


def _present(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name.upper(): value for name, value in values.items() if value}


def _env_file_values() -> Mapping[str, str | None]:
    return DotEnvSettingsSource(cast("type[BaseSettings]", Settings), env_file=env_file()).env_vars


def _with_files(layer: dict[str, str], secrets: Iterable[str], faults: dict[str, str]) -> dict[str, str]:
    """A source with the content of the files that it names."""
    for name in secrets:
        path = layer.get(name + FILE_SUFFIX)
        if not path:
            continue
        if name in layer:
            faults[name] = f"{name}: set as well as {name}{FILE_SUFFIX}; only one of them may be"
            continue
        try:
            layer[name] = _secret_of(Path(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            faults[name] = f"{name}{FILE_SUFFIX}: {path}: {reason}"
    return layer


def _secret_of(path: Path) -> str:
    """The text of a mounted secret without the newline that editors leave behind it."""
    with path.open("rb") as opened:
        content = opened.read(MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        raise ValueError("too large for a secret")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("not text") from None  # the original error quotes the content
    if not (text := text.rstrip("\r\n")):
        raise ValueError("empty")
    return text


def _from_aws(found: Variables) -> dict[str, str]:
    """The variables that the secret of SECRETS_AWS_ID holds."""
    # Loaded only where it is wanted: half a second and 20 MB.
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    given = found.values
    session = botocore.session.get_session()
    session.set_default_client_config(
        Config(connect_timeout=AWS_SECONDS, read_timeout=AWS_SECONDS, retries={"total_max_attempts": 2})
    )
    before = boto3.DEFAULT_SESSION
    boto3.setup_default_session(botocore_session=session)
    try:
        source = AWSSecretsManagerSettingsSource(
            cast("type[BaseSettings]", Settings),
            given["SECRETS_AWS_ID"],
            region_name=given.get("SECRETS_AWS_REGION") or given.get("AWS_REGION"),
            endpoint_url=given.get("SECRETS_AWS_ENDPOINT_URL"),
            case_sensitive=True,
        )
        return {name.upper(): str(value) for name, value in source.env_vars.items() if value not in (None, "")}
    except (BotoCoreError, ClientError) as error:
        found.faults["SECRETS_AWS_ID"] = f"SECRETS_AWS_ID: AWS does not give it: {error}"
    except (ValueError, AttributeError, KeyError):  # none of their texts, which quote what was read
        found.faults["SECRETS_AWS_ID"] = "SECRETS_AWS_ID: the secret's text is not a JSON object of variables"
    finally:
        boto3.DEFAULT_SESSION = before
    return {}
