"""Parse a file by what its name says it is; a file that cannot be parsed raises `MalformedError`."""

from __future__ import annotations

import ast
import itertools
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import PurePosixPath

import yaml
from markdown_it import MarkdownIt

VOID_ELEMENTS = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)


class MalformedError(Exception):
    """The file is not what its name says."""


class _AnyTag(yaml.SafeLoader):
    """Loads YAML whose own tags (compose's `!reset`, mkdocs' `!!python`) are not the question here."""


def _untagged(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_AnyTag.add_multi_constructor("!", _untagged)


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            raise MalformedError(f"</{tag}> closes what is not open")


def parse_html(text: str) -> None:
    """Every tag that opens closes again, in order."""
    parser = _Balanced()
    parser.feed(text)
    parser.close()
    if parser.open:
        raise MalformedError(f"<{parser.open[-1]}> never closes")


def parse_markdown(text: str) -> None:
    """Fences close, and no table row has another number of cells than its head."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for token in tokens:
        if token.type == "fence" and token.map:
            last = text.splitlines()[token.map[1] - 1]
            if not last.strip().startswith(token.markup):
                raise MalformedError("a code fence never closes")


@dataclass(frozen=True)
class Block:
    """What stands between two fences of a document.

    Attributes:
        kind: the word behind the opening one.
        section: the heading above it.
        text: without the indentation of a list.
    """

    kind: str
    section: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines, as a person types them one after the other."""
        return [line for line in self.text.splitlines() if line and not line.startswith("#")]


def blocks(text: str) -> list[Block]:
    """Every fenced block of a document, in order."""
    found, section = [], ""
    tokens = MarkdownIt("commonmark").parse(text)
    for before, token in itertools.pairwise(tokens):
        if before.type == "heading_open":
            section = token.content
        elif token.type == "fence":
            found.append(Block(token.info, section, token.content))
    return found


def parse_env(text: str) -> None:
    """Every line is empty, a comment, or NAME=value."""
    for line in text.splitlines():
        if line and not re.fullmatch(r"#.*|[A-Z][A-Z0-9_]*=.*", line):
            raise MalformedError(f"not a variable: {line!r}")


def parse_conf(text: str) -> None:
    """Braces of an nginx file balance."""
    bare = re.sub(r"#.*|\"[^\"]*\"|'[^']*'|\$\{[A-Za-z_]+\}", "", text)
    if bare.count("{") != bare.count("}"):
        raise MalformedError("braces do not balance")


PARSERS: dict[str, Callable[[str], object]] = {
    ".env.example": parse_env,
    ".html": parse_html,
    ".json": json.loads,
    ".md": parse_markdown,
    ".py": ast.parse,
    ".svg": parse_html,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.load_all(text, _AnyTag)),
    ".yml": lambda text: list(yaml.load_all(text, _AnyTag)),
}


def parser_for(path: str) -> Callable[[str], object] | None:
    """The parser of a path, by its whole name or its ending."""
    name = PurePosixPath(path)
    return PARSERS.get(name.name) or PARSERS.get(name.suffix)


def parse(path: str, text: str) -> object:
    """Parse the text of a file, or return None where nothing is known of its kind."""
    parser = parser_for(path)
    try:
        return parser(text) if parser else None
    except (SyntaxError, ValueError, yaml.YAMLError, MalformedError) as error:
        raise MalformedError(f"{path}: {error}") from error
