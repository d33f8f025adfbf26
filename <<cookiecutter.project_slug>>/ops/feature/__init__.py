"""Begin a feature: `make feature name=billing` writes its skeleton and enters it in FEATURES.

What is written is a small finished feature, `skeleton/`, with its name replaced: whatever it does can be seen to work before the
first line of one's own.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Collection
from pathlib import Path

SKELETON = Path(__file__).resolve().parent / "skeleton"
FEATURES = Path("app") / "features" / "__init__.py"
LONGEST = 20  # a revision's name, which ends in a number, has 32 characters
LINE = 120


class Refused(Exception):
    """Nothing was written; the text says why."""


def places(name: str) -> dict[Path, Path]:
    """Each part of the skeleton, and where it goes."""
    return {
        SKELETON / "app": Path("app") / "features" / name,
        SKELETON / "migrations": Path("migrations") / "versions" / name,
        SKELETON / "tests": Path("tests") / "features" / name,
    }


def fault_of(root: Path, name: str, taken: Collection[str]) -> str | None:
    """Say what is wrong with a name, or None.

    Args:
        root: the project.
        name: of the feature to be.
        taken: names that mean something else: of core's parts, and of its groups of settings.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > LONGEST:
        return f"write a name in lower case, with single underscores, of at most {LONGEST} characters: billing, time_sheets"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return "that is a word of Python; try another one"
    if name == "core" or name in taken:
        return "that is a part of core, whose settings or routes it would share; try another one"
    if clash := next((other for other in sorted(taken) if name.startswith(f"{other}_")), None):
        return f"its settings would begin as those of {clash} do; try another one"
    listed = set(features((root / FEATURES).read_text("utf-8")))
    for other in sorted(listed):
        if name == other:
            return "that feature is there already"
        if name.startswith(f"{other}_") or other.startswith(f"{name}_"):
            return f"its settings would begin as those of {other} do; try another one"
    if there := next((place for place in places(name).values() if (root / place).exists()), None):
        return f"{there} is there already; take it away, or choose another name"
    return None


def _assignment(source: str) -> ast.Tuple:
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "FEATURES" for t in node.targets):
            value = node.value
            if isinstance(value, ast.Tuple) and all(isinstance(item, ast.Constant) for item in value.elts):
                return value
    raise Refused(f"{FEATURES} holds no tuple of names called FEATURES; enter the feature there by hand")


def features(source: str) -> tuple[str, ...]:
    """The names in FEATURES.

    Raises:
        Refused: there is no such list of plain names.
    """
    return tuple(ast.literal_eval(_assignment(source)))


def entered(source: str, name: str) -> str:
    """The text of the list with one more name. Everything else stays as somebody wrote it.

    Raises:
        Refused: there is no such list of plain names.
    """
    value = _assignment(source)
    lines = source.splitlines(keepends=True)
    end = (value.end_lineno or value.lineno) - 1
    if value.lineno - 1 < end:  # one name a line
        lines.insert(end, f'    "{name}",\n')
        last = value.elts[-1] if value.elts else None
        if last and last.end_lineno:
            place, column = last.end_lineno - 1, last.end_col_offset or 0
            rest = lines[place][column:]
            if not rest.lstrip().startswith(","):
                lines[place] = f"{lines[place][:column]},{rest}"
        return "".join(lines)
    names = [*ast.literal_eval(value), name]
    whole = "(" + ", ".join(f'"{each}"' for each in names) + ("," if len(names) == 1 else "") + ")"
    line = lines[end]
    if value.col_offset + len(whole) > LINE:
        whole = "(\n" + "".join(f'    "{each}",\n' for each in names) + ")"
    lines[end] = line[: value.col_offset] + whole + line[value.end_col_offset :]
    return "".join(lines)


def begin(root: Path, name: str, taken: Collection[str] = ()) -> list[Path]:
    """Write the skeleton of a feature, and enter it in FEATURES.

    Returns:
        The files that were written.

    Raises:
        Refused: the name cannot be used.
    """
    if fault := fault_of(root, name, taken):
        raise Refused(f'"{name}": {fault}')
    listing = entered((root / FEATURES).read_text("utf-8"), name)
    camel = "".join(word.capitalize() for word in name.split("_"))
    written = []
    for part, place in places(name).items():
        for path in sorted(part.rglob("*.template")):
            target = root / place / path.relative_to(part).with_suffix("").as_posix().replace("sample", name)
            text = path.read_text("utf-8")
            for old, new in (("sample", name), ("Sample", camel), ("SAMPLE", name.upper())):
                text = text.replace(old, new)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
            written.append(target)
    (root / FEATURES).write_text(listing, "utf-8")
    return written
