"""What the pages for people say exists: where links lead, what an index lists, which files are named, and what commands name.

A document is read by somebody who cannot tell a slip from the truth. Whether a command does what it says is for the tests that run it;
whether it can be typed at all is looked at here, in every block marked `bash` or `sh` and wherever `make` is quoted within a line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ops.check.tools import Findings

FENCE = re.compile(r"^( *)```(\w[^\n]*)?\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
MAKE = re.compile(
    r"""(?:^|[;&|(] *|\b(?:then|do|else) )(?:[A-Z_]+=(?:'[^']*'|"[^"]*"|\S)+ +)*make((?: +(?:'[^']*'|"[^"]*"|[^;&|#)\n'"])+)?)"""
)
WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")
FILE = re.compile(r"[a-z_.][\w./-]*/[\w./-]*\.(?:conf|json|md|mk|py|sh|sql|template|toml|ya?ml)")
# What running makes, and the feature that pages speak of when they mean yours.
NOT_HERE = {".cache", ".devstack", ".release", ".venv", "billing", "billing.py"}
SHELL = {"bash", "bash compose", "sh"}


def pages(root: Path) -> list[Path]:
    """Every page for people; what lies in hidden folders is somebody else's."""
    return sorted([*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("ops/**/*.md")])


def commands(text: str, kinds: frozenset[str] | set[str] = frozenset(SHELL)) -> list[str]:
    """The blocks of a page that a person types, without their indentation."""
    return [
        re.sub(rf"(?m)^{match[1]}", "", match[3]) for match in FENCE.finditer(text) if (match[2] or "").strip() in kinds
    ]


def anchors(text: str) -> set[str]:
    """What a link may name behind `#`: the headings, as GitHub writes them."""
    headings = re.findall(r"(?m)^#+ +(.*)$", FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Links within the project that lead nowhere."""
    for link in LINK.findall(FENCE.sub("", text)):
        target, _, anchor = link.partition("#")
        place = page.parent / target if target else page
        if re.match(r"[a-z]+:", link):
            continue
        if not place.exists():
            yield f"there is no {link}"
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text("utf-8")):
            yield f"{link}: there is no such heading"


def unlisted(root: Path, page: Path, text: str) -> Iterator[str]:
    """Pages that the index of their folder does not name."""
    if page.name == "README.md" and page.is_relative_to(root / "docs"):
        listed = {link.partition("#")[0] for link in LINK.findall(text)}
        below = [f"{folder.name}/" for folder in page.parent.iterdir() if (folder / "README.md").exists()]
        for name in sorted([*(path.name for path in page.parent.glob("*.md") if path != page), *below]):
            if name not in listed:
                yield f"does not list {name}"


def rules_of(root: Path) -> str:
    """All makefiles in one, with the scripts that read their variables."""
    return "\n".join(
        path.read_text("utf-8")
        for path in [root / "Makefile", *sorted(root.glob("ops/deploy/*/*.mk")), *sorted(root.glob("ops/**/*.sh"))]
    )


def unknown_targets(rules: str, line: str) -> Iterator[str]:
    """What a line asks of make and there is not: targets, and variables that no target reads."""
    for asked in MAKE.findall(re.sub(r"\$\([^()]*\)", "…", line)):
        for word in WORD.findall(asked):
            name, given, _ = word.partition("=")
            if given and not re.search(rf"\$[({{]?{re.escape(name)}\b", rules):
                yield f"make {asked.strip()}: nothing reads {name}"
            elif not given and re.fullmatch(r"[a-z][a-z-]*", word) and not re.search(rf"(?m)^{word}:", rules):
                yield f"make {word}: there is no such target"


def unknown_programs(root: Path, line: str) -> Iterator[str]:
    """Scripts and modules of the project that are not there."""
    for script in re.findall(r"(?<![\w/.-])((?:ops|devstack|app)/[\w./-]+\.sh)\b", line):
        sourced = f". {script}" in line
        if not os.access(root / script, os.R_OK if sourced else os.X_OK):
            yield f"{script} cannot be run"
    for module in re.findall(r"\bpython3? -m ((?:app|ops|devstack)[\w.]*)", line):
        place = root.joinpath(*module.split("."))
        if not (place / "__main__.py").exists() and not place.with_suffix(".py").exists():
            yield f"python -m {module}: there is no such module"


def unknown_files(root: Path, page: Path, text: str) -> Iterator[str]:
    """Files that a page names within a line and that are not there: from the root, or from where such pages count from."""
    for name in sorted(set(QUOTED.findall(FENCE.sub("", text)))):
        if FILE.fullmatch(name) and not NOT_HERE & set(name.split("/")):
            places = [root, page.parent, root / "app", root / "docs", root / "ops", *root.glob("ops/deploy/*")]
            if not any((place / name).exists() for place in places):
                yield f"there is no file {name}"


def faults(root: Path, page: Path, rules: str) -> Iterator[str]:
    """Everything that one page says and that is not so.

    Args:
        root: the project.
        page: a document in it.
        rules: the text of its makefiles.
    """
    text = page.read_text("utf-8")
    yield from broken_links(page, text)
    yield from unlisted(root, page, text)
    yield from unknown_files(root, page, text)
    typed = [line for block in commands(text) for line in block.replace("\\\n", " ").splitlines()]
    quoted = [code for code in QUOTED.findall(FENCE.sub("", text)) if re.match(r"(?:[A-Z_]+=\S+ )*make\b", code)]
    for line in [*typed, *quoted]:
        yield from unknown_targets(rules, line)
        yield from unknown_programs(root, line)


def check(root: Path) -> Findings:
    """Every page."""
    rules = rules_of(root)
    return "\n".join(
        f"{page.relative_to(root)}: {fault}" for page in pages(root) for fault in faults(root, page, rules)
    )
