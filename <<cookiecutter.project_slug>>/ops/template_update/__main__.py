"""Bring a newer template into this project by a three-way merge, on a branch of its own.

    python -m ops.template_update                   to the newest commit
    python -m ops.template_update monitoring=none   the same, with another answer
    python -m ops.template_update --check           only say whether there is something newer
    python -m ops.template_update --diff            only show what would come

Exit code 0: done, or nothing to do. 1: refused, and nothing was changed; with --check: there is something newer. 2: merged, and
conflicts need a hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ops.template_update import merge, record, report
from ops.template_update.git import Refused, environment
from ops.template_update.record import Record
from ops.template_update.source import Source


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.template_update", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only say whether there is something newer")
    parser.add_argument("--diff", action="store_true", help="only show what would come")
    parser.add_argument("--ask", action="store_true", help="put every question again, your answers being the defaults")
    parser.add_argument("--template", metavar="ADDRESS", help="the template's repository; else the recorded one")
    parser.add_argument("--from", dest="old", metavar="COMMIT", help="what you have; else the recorded commit")
    parser.add_argument(
        "--to", dest="new", metavar="COMMIT", help="what you want: commit, tag or branch; else the newest"
    )
    parser.add_argument("answers", nargs="*", metavar="question=answer", help="answer a question anew")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says, in the folder it is called in."""
    options = arguments()
    folder = Path.cwd()
    known = record.read(folder)
    here = known or Record()
    address = options.template or here.template
    if not address:
        raise Refused(f"{record.NAME} does not say where the template is: make template-update TEMPLATE=address")
    old_name = options.old or here.commit
    if not old_name:
        raise Refused(
            f"{record.NAME} does not say which commit of the template this was baked from: make template-update FROM=commit"
        )
    project = None if options.check else merge.Project.at(folder)
    source = Source.fetch(folder, address)
    old = source.commit(old_name)
    new = source.commit(options.new) if options.new else source.newest()
    if options.check:
        return check(source, old, new)
    assert project is not None
    changed = given(options.answers)
    if old == new and known and not (changed or options.ask):
        print(f"template: nothing to do, this is {source.title(new)}")
        return 0
    return update(project, source, Update(here, known is not None, old, new, changed, options.ask, options.diff))


def given(pairs: list[str]) -> dict[str, str]:
    """Answers from the command line."""
    for pair in pairs:
        if "=" not in pair:
            raise Refused(f"{pair} is no answer; write question=answer")
    return dict(pair.split("=", 1) for pair in pairs)


def check(source: Source, old: str, new: str) -> int:
    """Say how far the template has moved on."""
    behind = source.count(old, new)
    if not behind:
        print(f"template: up to date, with {source.title(old)}")
        return 0
    print(f"template: {behind} commits behind; the newest is {source.title(new)}")
    for line in source.news(old, new):
        print(f"  {line}")
    print("see it: make template-diff; take it: make template-update")
    return 1


class Update:
    """What is to be brought in."""

    def __init__(
        self, here: Record, recorded: bool, old: str, new: str, changed: dict[str, str], ask: bool, only_show: bool
    ) -> None:
        self.here, self.recorded = here, recorded
        self.old, self.new = old, new
        self.changed, self.ask, self.only_show = changed, ask, only_show

    def answers(self, questions: dict[str, Any], answers: dict[str, str]) -> dict[str, str]:
        """Those answers that a commit of the template asks for.

        Raises:
            Refused: a choice is gone, or nobody asks that.
        """
        for name in self.changed:
            if name not in questions and name not in self.here.answers:
                raise Refused(f"{name} is no question of the template; it asks {', '.join(questions)}")
        asked = {name: answer for name, answer in answers.items() if name in questions}
        for name, answer in asked.items():
            choices = questions[name]
            if isinstance(choices, list) and answer not in choices:
                raise Refused(f"{name}={answer} is no choice (any more); choose: {name}={' or '.join(choices)}")
        return asked


def update(project: merge.Project, source: Source, wish: Update) -> int:
    """Bake twice, and merge the difference."""
    asked_before, asked_now = source.questions(wish.old), source.questions(wish.new)
    # Who has no record says what they had answered; from then on it is known.
    had = wish.here.answers if wish.recorded else wish.changed
    had = {name: answer for name, answer in had.items() if name in asked_before}
    wanted = wish.answers(asked_now, {**wish.here.answers, **wish.changed})
    python = source.python(project.folder, wish.new)
    with tempfile.TemporaryDirectory(prefix="template-") as scratch:
        old = source.bake(wish.old, had, python, Path(scratch) / "old")
        new = source.bake(wish.new, wanted, python, Path(scratch) / "new", ask=wish.ask)
        baked = record.read(new)
        now = wish.here.moved(source.address, wish.new, baked.answers if baked else wanted)
        (new / record.NAME).write_text(now.text(), encoding="utf-8")
        (old / record.NAME).unlink(missing_ok=True)
        if wish.recorded:
            (old / record.NAME).write_bytes((project.folder / record.NAME).read_bytes())
        message = f"Bring in the template at {wish.new[:7]}\n\nFrom {wish.old} to {wish.new}."
        parent, commit, away = merge.commits(project, old, new, message)
    if wish.only_show:
        return subprocess.run(
            ["git", "diff", parent, commit], cwd=project.root, env=environment(), check=False
        ).returncode
    outcome = merge.merge(project, commit, f"template/{wish.new[:7]}")
    outcome.away = away
    notes = [
        f"from {source.title(wish.old)}",
        f"to   {source.title(wish.new)}",
        *answered(asked_before, asked_now, had, now.answers),
    ]
    binaries = {path for path, _ in outcome.conflicts if is_binary(project, path)}
    print("\n".join(report.lines(outcome, binaries, notes)))
    if news := source.news(wish.old, wish.new):
        print("\n".join(["what is new:", *(f"  {line}" for line in news)]))
    return 2 if outcome.conflicts else 0


def answered(
    asked_before: dict[str, Any], asked_now: dict[str, Any], before: dict[str, str], now: dict[str, str]
) -> list[str]:
    """What is answered otherwise than before, for the report."""
    fresh = [name for name in asked_now if name in now and name not in asked_before]
    other = [name for name in before if name in now and now[name] != before[name]]
    return [
        *(f"new question: {name}={now[name]}; otherwise: make template-update ANSWERS={name}=…" for name in fresh),
        *(f"answered anew: {name}={now[name]}" for name in other),
        *(f"no longer asked: {name}={before[name]}" for name in before if name not in asked_now),
    ]


def is_binary(project: merge.Project, path: str) -> bool:
    """Whether git takes a file for no text, and so has put no markers into it."""
    there = project.root / path
    return there.is_file() and b"\0" in there.read_bytes()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as refusal:
        sys.exit(f"template: {refusal}")
    except KeyboardInterrupt:
        sys.exit(130)
