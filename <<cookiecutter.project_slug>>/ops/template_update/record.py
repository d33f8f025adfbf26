"""What a project knows about where it came from: `.cruft.json`, in the form that the tool of that name reads too."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ops.template_update.git import Refused

NAME = ".cruft.json"
# What another person can reach. A path of one machine is used, and not written down.
ADDRESS = re.compile(r"(?!file:)[a-z+]+://|[\w.-]+@[\w.-]+:")


@dataclass(frozen=True)
class Record:
    """Where a project came from.

    Attributes:
        template: address of the template's repository; empty where it is not known.
        commit: what the project was baked from, or brought to; empty where it is not known.
        answers: what the questions were answered with.
        rest: what else the file holds, kept as it is.
    """

    template: str = ""
    commit: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)

    def moved(self, template: str, commit: str, answers: dict[str, str]) -> Record:
        """The record of the same project after an update."""
        return replace(
            self, template=template if ADDRESS.match(template) else self.template, commit=commit, answers=answers
        )

    def text(self) -> str:
        """The file."""
        state = {
            "template": self.template,
            "commit": self.commit or None,
            "checkout": None,
            "context": {"cookiecutter": self.answers},
            "directory": None,
        }
        return json.dumps({**state, **self.rest}, ensure_ascii=False, indent=2) + "\n"


def read(project: Path) -> Record | None:
    """The record of a project, or None where there is none: it is older than that.

    Raises:
        Refused: the file cannot be read as one.
    """
    path = project / NAME
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        asked = state["context"]["cookiecutter"]
        # The other tool also writes down what was derived from the answers.
        answers = {name: str(answer) for name, answer in asked.items() if not name.startswith("_")}
        rest = {name: value for name, value in state.items() if name not in json.loads(Record().text())}
        return Record(state.get("template") or "", state.get("commit") or "", answers, rest)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Refused(f"{NAME} is no record of a template ({error}); take it back from git's history") from error
