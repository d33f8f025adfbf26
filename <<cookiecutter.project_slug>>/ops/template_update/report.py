"""What an update has come to, in words, with the next step of each kind."""

from __future__ import annotations

import fnmatch

from ops.template_update.merge import Outcome

# Two letters of `git status`: what they say, and what ends it.
MEANING = {
    "UU": ("both changed it", "edit what stands between the markers, then git add"),
    "AA": ("both added it", "edit what stands between the markers, then git add"),
    "UD": ("you changed it, the template deleted it", "git rm, or git add to keep yours"),
    "DU": ("you deleted it, the template changed it", "git rm, or git add to take it back"),
    "AU": ("you moved or added it", "git add, or git rm"),
    "UA": ("the template moved or added it", "git add, or git rm"),
    "DD": ("both moved it", "git rm"),
}
# What is made by a command needs no hand.
MADE = (
    ("requirements/*.txt", "git checkout --theirs {}, git add, and make lock at the end"),
    (".env.example", "git checkout --theirs {}, git add, and make generate at the end"),
    ("docs/metrics.md", "git checkout --theirs {}, git add, and make generate at the end"),
)


def advice(path: str, letters: str, binary: bool) -> str:
    """A line about a conflict."""
    meaning, act = MEANING.get(letters, ("both changed it", "edit it, then git add"))
    for pattern, made in MADE:
        if fnmatch.fnmatch(path, pattern):
            act = made.format(path)
    if binary and letters in {"UU", "AA"}:
        act = "no text: yours is there; git checkout --theirs takes the template's; then git add"
    return f"  {path}: {meaning}; {act}"


def lines(outcome: Outcome, binaries: set[str], notes: list[str]) -> list[str]:
    """The report."""
    said = [f"template: {outcome.changed} files changed on the branch {outcome.branch}", *notes]
    if outcome.away:
        said += ["stay deleted, as you deleted them, though the template has changed or added them:"]
        said += [f"  {path}" for path in outcome.away]
    back = f"git switch {outcome.before} && git branch -D {outcome.branch}"
    if outcome.conflicts:
        said += ["need a hand:"]
        said += [advice(path, letters, path in binaries) for path, letters in outcome.conflicts]
        said += [
            "then:  git cherry-pick --continue && make setup && make check && make test",
            f"undo:  git cherry-pick --abort && {back}",
        ]
    else:
        said += [
            "next:  make setup && make check && make test",
            f"take:  git switch {outcome.before} && git merge {outcome.branch}",
            f"undo:  {back}",
        ]
    return said
