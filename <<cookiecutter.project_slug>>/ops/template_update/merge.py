"""The merge itself: git's own, between what the old template baked, what the new one bakes, and the project.

Both bakes become commits that no branch holds, one the parent of the other, and the difference is picked onto a branch of
its own. So renames, deletions, modes, binary files and conflict markers are those that git has everywhere else.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ops.template_update.git import Refused, git, names, run

# As many pairs as a merge looks at, so that what counts as renamed here is what counts so there.
RENAMES = ("--find-renames", "-l7000")


@dataclass(frozen=True)
class Project:
    """A project in a git repository, of which it may be a folder."""

    folder: Path
    root: Path
    prefix: str

    @classmethod
    def at(cls, folder: Path) -> Project:
        """Find the repository.

        Raises:
            Refused: there is none, it holds no commit, or what is in the work tree is not committed.
        """
        inside = run(folder, "rev-parse", "--show-toplevel")
        if inside.returncode:
            raise Refused("this is no git repository; the update is a merge: git init && git add --all && git commit")
        root = Path(inside.stdout.rstrip("\n"))
        if run(root, "rev-parse", "--verify", "--quiet", "HEAD").returncode:
            raise Refused("this repository holds no commit yet: git add --all && git commit")
        if status := git(root, "status", "--porcelain", "--untracked-files=no"):
            raise Refused(
                f"there are changes that are not committed; commit them, or put them away:\n{status.rstrip()}"
            )
        if run(root, "var", "GIT_COMMITTER_IDENT").returncode:
            raise Refused("git does not know who commits: git config user.name … && git config user.email …")
        return cls(folder, root, git(folder, "rev-parse", "--show-prefix").rstrip("\n"))

    def tree(self, baked: Path) -> str:
        """Write a baked project into the repository, and return the name of its tree."""
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            place = (f"--git-dir={git(self.root, 'rev-parse', '--absolute-git-dir').rstrip()}", f"--work-tree={baked}")
            # Forced: whatever somebody has git ignore, it was baked.
            git(baked, *place, "-c", "core.fileMode=true", "add", "--all", "--force", ".", env=index)
            tree = git(self.root, "write-tree", env=index).strip()
            if self.prefix:
                git(self.root, "read-tree", "--empty", env=index)
                git(self.root, "read-tree", f"--prefix={self.prefix}", tree, env=index)
                tree = git(self.root, "write-tree", env=index).strip()
            return tree

    def without(self, tree: str, gone: Iterable[str]) -> str:
        """The tree without some of its files."""
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            git(self.root, "read-tree", tree, env=index)
            removed = "".join(f"{name}\0" for name in gone)
            git(self.root, "update-index", "--force-remove", "-z", "--stdin", stdin=removed, env=index)
            return git(self.root, "write-tree", env=index).strip()

    def files(self, tree: str) -> set[str]:
        """Every file of a tree, by its path from the root."""
        return set(names(git(self.root, "ls-tree", "-r", "-z", "--name-only", tree)))


@dataclass(frozen=True)
class Deletions:
    """What the person has deleted of the old template, and the new one would bring back.

    Attributes:
        old: deleted files of the old bake; a file that was moved is none.
        new: files of the new bake that stay away: the same, what they are called now, and what has come into folders that
            were deleted whole.
    """

    old: set[str]
    new: set[str]


def deletions(project: Project, old: str, new: str) -> Deletions:
    """Compare the old bake with the project."""
    changes = names(git(project.root, "diff-tree", "-r", "-z", *RENAMES, "--diff-filter=D", "--name-only", old, "HEAD"))
    gone = set(changes)
    left = project.files(old) - gone
    standing = {parent for name in left for parent in PurePosixPath(name).parents}
    folders = {parent for name in gone for parent in PurePosixPath(name).parents} - standing
    renamed = names(git(project.root, "diff-tree", "-r", "-z", *RENAMES, "--diff-filter=R", "--name-status", old, new))
    moved = {target for source, target in zip(renamed[1::3], renamed[2::3], strict=True) if source in gone}
    away = {
        name
        for name in project.files(new)
        if name in gone or name in moved or folders.intersection(PurePosixPath(name).parents)
    }
    return Deletions(gone, away)


@dataclass
class Outcome:
    """What a merge has come to.

    Attributes:
        branch: where it is.
        before: the branch, or commit, that it began from; untouched.
        changed: how many files the merge has changed.
        conflicts: path and two letters as `git status` writes them.
        away: what stays deleted and has changed in the template.
    """

    branch: str
    before: str
    changed: int = 0
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    away: list[str] = field(default_factory=list)


def commits(project: Project, old: Path, new: Path, message: str) -> tuple[str, str, list[str]]:
    """Write both bakes as commits without what the person has deleted.

    Returns:
        The old commit, the new one, and the files that stay away although the new template changes or adds them.
    """
    old_tree, new_tree = project.tree(old), project.tree(new)
    lost = deletions(project, old_tree, new_tree)
    changed = set(names(git(project.root, "diff-tree", "-r", "-z", "--no-renames", "--name-only", old_tree, new_tree)))
    old_tree, new_tree = project.without(old_tree, lost.old), project.without(new_tree, lost.new)
    parent = git(project.root, "commit-tree", old_tree, "-m", "What the old template bakes").strip()
    commit = git(project.root, "commit-tree", new_tree, "-p", parent, "-m", message).strip()
    return parent, commit, sorted(lost.new & changed)


def in_the_way(project: Project, commit: str) -> list[str]:
    """Files that git does not know and the merge would write over: git itself spares them, but not when it ignores them."""
    fresh = project.files(commit) - project.files("HEAD")
    tracked = {parent.as_posix() for name in project.files("HEAD") for parent in PurePosixPath(name).parents}
    found = set()
    for name in fresh:
        path = PurePosixPath(name)
        for place in (path, *path.parents):
            there = project.root / place
            if place.as_posix() not in tracked and os.path.lexists(there) and (place == path or not there.is_dir()):
                found.add(place.as_posix())
    return sorted(found - project.files("HEAD"))


def merge(project: Project, commit: str, branch: str) -> Outcome:
    """Pick the difference between a commit and its parent onto a new branch, and stay there.

    Raises:
        Refused: nothing was merged; the work tree is on the branch it was on.
    """
    root = project.root
    if ways := in_the_way(project, commit):
        raise Refused(
            "the new template brings files that lie here already, unknown to git; move them: " + ", ".join(ways)
        )
    if not run(root, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}").returncode:
        raise Refused(
            f"the branch {branch} is there already, from an earlier update: merge it, or git branch -D {branch}"
        )
    named = run(root, "symbolic-ref", "--quiet", "--short", "HEAD").stdout.strip()
    head = git(root, "rev-parse", "HEAD").strip()
    git(root, "switch", "--quiet", "--create", branch)
    picked = run(
        root,
        *("-c", "merge.renames=true", "-c", "merge.directoryRenames=conflict", "-c", "merge.renameLimit=7000"),
        *("cherry-pick", "--keep-redundant-commits", commit),
    )
    outcome = Outcome(branch, named or head)
    entries = names(git(root, "status", "--porcelain", "-z", "--untracked-files=no"))
    outcome.conflicts = [(entry[3:], entry[:2]) for entry in entries if "U" in entry[:2] or entry[:2] in {"AA", "DD"}]
    if picked.returncode and not outcome.conflicts:
        # What was tracked was committed, so nothing of anybody's is taken back here.
        run(root, "cherry-pick", "--abort")
        git(root, "switch", "--quiet", *([named] if named else ["--detach", head]))
        git(root, "branch", "--quiet", "-D", branch)
        raise Refused(f"git does not merge it: {picked.stderr.strip()}")
    outcome.changed = len(names(git(root, "diff", "--name-only", "-z", head)))
    return outcome
