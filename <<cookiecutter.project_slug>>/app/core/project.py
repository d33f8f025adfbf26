"""Who this project is: read once from pyproject.toml, so that no Python file holds the project's name."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Project:
    """Name and description of this service.

    Attributes:
        name: machine name, as in `[project] name`; used for the token issuer and as a prefix of keys.
        title: name for people.
        description: one sentence.
        version: version of the code, shown by `/health` and sent to Sentry as the release.
        domain: the public host name in production.
    """

    name: str
    title: str
    description: str
    version: str
    domain: str


@cache
def project() -> Project:
    """The project as pyproject.toml describes it."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    about, service = data["project"], data["tool"]["service"]
    return Project(
        name=about["name"],
        title=service["title"],
        description=about["description"],
        version=about["version"],
        domain=service["domain"],
    )
