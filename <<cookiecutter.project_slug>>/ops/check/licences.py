"""Under which licences the packages are that the image ships: the tools of development are not passed on."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ops.check.tools import Findings, findings, run

#: Words in a licence's name that let it be shipped in a closed service. A choice ("MIT OR GPL-2.0") needs one, all else each.
FREE = re.compile(r"\b(MIT|Apache|BSD|ISC|PSF|Python Software Foundation|Unlicense|MPL|Mozilla|Zlib|0BSD|CC0)\b")
#: Locks of what only works on the service; the Dockerfile leaves out the same.
NOT_SHIPPED = re.compile(r"dev.*|load")
#: Packages whose own words are not clear enough, with what was found by reading.
READ: dict[str, str] = {}


def shipped(root: Path) -> set[str]:
    """Names of the packages in the locks of the image."""
    locks = [path for path in root.glob("requirements/*.txt") if not NOT_SHIPPED.fullmatch(path.stem)]
    return {
        name
        for path in locks
        for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==", path.read_text("utf-8"), re.MULTILINE)
    }


def allowed(licence: str) -> bool:
    """Whether every part of the expression, or one of each choice, is free."""
    parts = re.split(r"\bAND\b|;", licence.replace("(", " ").replace(")", " ") if " OR " not in licence else licence)
    return all(any(FREE.search(choice) for choice in part.split(" OR ")) for part in parts)


def check(root: Path) -> Findings:
    """Every shipped package that is installed."""
    listed = run(root, ["pip-licenses", "--from=mixed", "--format=json", "--packages", *sorted(shipped(root))])
    if listed.returncode:
        return findings(listed)
    return "\n".join(
        f"{package['Name']} {package['Version']}: {package['License']!r} is not among the licences that ops/check/licences.py knows as free"
        for package in json.loads(listed.stdout)
        if package["Name"] not in READ and not allowed(package["License"])
    )
