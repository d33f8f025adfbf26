"""Bring this template into a project that is older than `make template-update`, by the command that new projects have.

    python tools/adopt.py ../my-service --template . --from COMMIT 'project_name=My Service' …

Name the answers that were given then; from now on the project keeps them itself.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from stage import ROOT, TEMPLATE_FOLDER

if __name__ == "__main__":
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"adopt: name the project's folder first: {__doc__}")
    os.chdir(sys.argv.pop(1))
    sys.path.insert(0, str(ROOT / TEMPLATE_FOLDER))
    runpy.run_module("ops.template_update", run_name="__main__")
