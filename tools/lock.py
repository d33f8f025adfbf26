"""Resolve requirements/*.in into locked, hashed requirements/*.txt: one version of each, and no address."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
OLDEST_PYTHON = "3.11"


def compile_lock(sources: list[Path], target: Path, *options: str) -> None:
    """Run uv's resolver once, for every platform and every Python from the oldest on."""
    uv = str(Path(sys.executable).with_name("uv"))
    shape = ["--universal", "--generate-hashes", "--python-version", OLDEST_PYTHON]
    quiet = ["--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    subprocess.run(
        [uv, "pip", "compile", *shape, *quiet, *options, "--output-file", str(target), *map(str, sources)],
        check=True,
        cwd=REQUIREMENTS.parent,
    )


def main() -> None:
    """Resolve everything together, then write each file as a part of that."""
    sources = sorted(REQUIREMENTS.glob("*.in"))
    with tempfile.TemporaryDirectory() as folder:
        together = Path(folder) / "all.txt"
        if "--upgrade" not in sys.argv:
            together.write_text("".join(source.with_suffix(".txt").read_text() for source in sources))
        compile_lock(sources, together)
        for source in sources:
            compile_lock([source], source.with_suffix(".txt"), "--constraint", str(together))


if __name__ == "__main__":
    main()
