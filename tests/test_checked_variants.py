"""Every combination of answers passes the checks of its own `make check`, each done once for what it looks at."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from baking import name_of
from checking import Combinations, every_version, findings, inputs, unions
from projects import Projects, Say, Tell

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(projects: Projects) -> Path:
    """That of the default project, which has what every other one needs."""
    return projects("default", print)[1]


def test_every_combination_is_checked(
    combinations: Combinations, environment: Path, spacious: Path, tell: Tell, say: Say
) -> None:
    """Workflows, containers, shell, nginx, alarms, manifests, migrations, licences, contracts of imports, settings."""
    wanted = inputs(combinations, environment)
    # The first combination that has a check does it for all.
    by: dict[str, Path] = {}
    for each in wanted:
        by.setdefault(each.check, each.project)
    wrong, done = [], Counter[str]()
    for number, project in enumerate(dict.fromkeys(by.values())):
        mine = [each for each in wanted if by[each.check] == project]
        jobs = [(each.check, each.laid_out(spacious / f"checked-{number}-{n}")) for n, each in enumerate(mine)]
        for each, (found, missing) in zip(mine, findings(jobs, project, environment), strict=True):
            where = f"{each.check} in {len(each.names)} combinations, such as {each.names[0]}"
            if missing and not os.environ.get("CI"):
                say(f"NOT CHECKED: {where}: {missing}")
            elif found:
                wrong.append(f"{where}:\n{found}")
            else:
                done[each.check] += 1
    for check in sorted(by):
        names = [len(each.names) for each in wanted if each.check == check]
        tell(f"checked: {check}", sum(names), f"{done[check]} of {len(names)} different inputs")
    assert not wrong, "\n\n".join(wrong)


def test_every_combination_has_sound_types(
    combinations: Combinations, environment: Path, tmp_path: Path, tell: Tell
) -> None:
    """By mypy over all their Python files together: what a module imports is where it is, so one result holds for all."""
    together = unions(combinations)
    assert [torn for union in together for torn in union.torn()] == []
    jobs = [("types", union.laid_out(tmp_path / str(number))) for number, union in enumerate(together)]
    found = [found for job in jobs for found, _ in findings([job], combinations[0][1], environment)]
    assert found == [""] * len(together), "\n".join(found)
    files = len({(path, digest) for union in together for path, digest in union.digests.items()})
    tell("checked: types", len(combinations), f"{files} different files in {len(together)} runs of mypy")


def test_no_combination_holds_a_secret(
    combinations: Combinations, environment: Path, spacious: Path, tell: Tell
) -> None:
    """Every different file of all combinations, once."""
    count = every_version(combinations, spacious / "versions")
    assert findings([("secrets", spacious / "versions")], combinations[0][1], environment) == [("", "")]
    tell("checked: secrets", len(combinations), f"{count} different files in one run")


def spoilt(project: Path, folder: Path, path: str, change: Callable[[str], str]) -> tuple[dict[str, str], Path]:
    """A combination of which one file is changed."""
    shutil.copytree(project, folder)
    (folder / path).write_text(change((folder / path).read_text(encoding="utf-8")), encoding="utf-8")
    return {"example": "spoilt"}, folder


def test_a_fault_in_one_combination_is_found(combinations: Combinations, environment: Path, tmp_path: Path) -> None:
    """Whatever the others look like: a capability kept, a type that does not fit, a module that is gone, a password."""
    good = combinations[0]
    keeps = spoilt(
        good[1], tmp_path / "keeps", "ops/compose/base.yaml", lambda text: text.replace("cap_drop", "cap_add")
    )
    wanted = [each for each in inputs([good, keeps], environment) if each.check == "compose"]
    assert [each.names for each in wanted] == [[name_of(good[0])], ["example=spoilt"]]
    jobs = [(each.check, each.laid_out(tmp_path / f"compose-{n}")) for n, each in enumerate(wanted)]
    (clean, _), (found, _) = findings(jobs, good[1], environment)
    assert clean == ""
    assert "keeps capabilities" in found

    wrong = spoilt(good[1], tmp_path / "wrong", "app/main.py", lambda text: f"{text}\nx: int = 'text'\n")
    together = unions([good, wrong])
    assert [sorted(union.members) for union in together] == [[name_of(good[0])], ["example=spoilt"]]

    gone = spoilt(good[1], tmp_path / "gone", "app/core/db.py", lambda text: text)
    (gone[1] / "app/core/db.py").unlink()
    (union,) = unions([good, gone])
    assert "example=spoilt: app/core/health.py imports app.core.db" in union.torn()

    (tmp_path / "small").mkdir()
    small = good[0], Path(shutil.copy(good[1] / "README.md", tmp_path / "small")).parent
    open_ = spoilt(
        small[1], tmp_path / "open", "README.md", lambda text: f"{text}\npostgresql://me:{'x7Q' * 4}@host/db\n"
    )
    every_version([small, open_], tmp_path / "versions")
    ((found, _),) = findings([("secrets", tmp_path / "versions")], good[1], environment)
    assert "2/README.md" in found
    assert "1/README.md" not in found
