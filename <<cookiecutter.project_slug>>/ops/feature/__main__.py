"""Command line: `python -m ops.feature billing`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from app.core.settings.root import Settings
from ops.feature import FEATURES, Refused, begin

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "app" / "core"


def main() -> None:
    """Begin the feature that the command line names."""
    name = sys.argv[1].strip() if len(sys.argv) == 2 else ""
    if not name:
        raise Refused("say which: make feature name=billing")
    taken = {path.stem for path in CORE.iterdir() if not path.name.startswith("_")} | set(Settings.model_fields)
    written = begin(ROOT, name, taken)
    # A longer name makes longer lines.
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "format", "--quiet", *written, ROOT / FEATURES], check=True)
    for path in [*written, ROOT / FEATURES]:
        print(f"feature: wrote {path.relative_to(ROOT)}")
    print(f"feature: try it: make test TESTS=tests/features/{name}; what goes where: docs/features.md")


if __name__ == "__main__":
    try:
        main()
    except Refused as refusal:
        sys.exit(f"feature: {refusal}")
