"""Resolve requirements/*.in into locked, hashed requirements/*.txt: `make lock`, `make lock UPGRADE=1`.

All of them are resolved together first, so that a package has one version wherever it appears; each file is then an
exact subset of that. The locks hold for every supported Python and platform and name no package index.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
OLDEST_PYTHON = "3.11"
COMPILE = (
    "pip",
    "compile",
    "--python-version",
    OLDEST_PYTHON,
    "--universal",
    "--generate-hashes",
    "--no-header",
    "--quiet",
)


def uv() -> str:
    """The uv of this environment, which `make setup` has installed, or the one on PATH."""
    own = Path(sys.executable).with_name("uv")
    return str(own) if own.exists() else "uv"


def compile_lock(sources: list[Path], target: Path, *options: str) -> None:
    """Run uv; its output goes through, and so does its failure."""
    subprocess.run([uv(), *COMPILE, *options, *map(str, sources), "--output-file", str(target)], check=True, cwd=ROOT)


def lock(upgrade: bool, folder: Path = REQUIREMENTS) -> list[Path]:
    """Write every lock and return their paths.

    Args:
        upgrade: take newer releases; otherwise what is locked stays where it can.
        folder: holds the .in files.
    """
    sources = sorted(folder.glob("*.in"))
    with tempfile.TemporaryDirectory(prefix="lock-") as scratch:
        whole = Path(scratch) / "all.txt"
        # uv keeps the versions that it finds in the output file.
        whole.write_text("".join(path.read_text("utf-8") for path in sorted(folder.glob("*.txt"))), "utf-8")
        compile_lock(sources, whole, *(["--upgrade"] if upgrade else []))
        locks = []
        for source in sources:
            target = source.with_suffix(".txt")
            fresh = Path(scratch) / target.name
            compile_lock([source], fresh, "--no-annotate", "--constraint", str(whole))
            if address := re.search(r"\S*://\S*", fresh.read_text("utf-8")):
                raise SystemExit(f"lock: {target.name} would name an address: {address[0]}")
            locks.append((fresh, target))
        # Only when all of them could be made.
        for fresh, target in locks:
            target.write_bytes(fresh.read_bytes())
    return [target for _, target in locks]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m ops.lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take newer releases")
    for path in lock(parser.parse_args().upgrade):
        print(f"lock: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    try:
        main()
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"lock: {error}")
