"""Secrets in files that may be committed: detect-secrets with all its detectors.

What only looks like one is said so on its line: `# pragma: allowlist secret`. Tests are left out, since they are full of passwords
that open nothing, and so are the locks and the schemas of others, which are full of hashes.
"""

from __future__ import annotations

import json
from pathlib import Path

from ops.check.tools import Findings, findings, run

LEFT_OUT = r"(^|/)(tests/|\.cruft\.json$|requirements/.*\.txt$|ops/deploy/.*/schemas/.*\.json$|\.env$|\.git/|\.venv/|\.cache/|\.devstack/|\.[a-z_]+_cache/|__pycache__/|htmlcov/)"

# postgresql://user:password@host in explanations; the name of an object that holds an authority's certificate.
PLACEHOLDER = "^(password|postgres-ca.*)$"


def check(root: Path) -> Findings:
    """Every file that is not left out."""
    options = ["--all-files", "--exclude-files", LEFT_OUT, "--exclude-secrets", PLACEHOLDER]
    scanned = run(root, ["detect-secrets", "scan", *options, "."])
    if scanned.returncode:
        return findings(scanned)
    return "\n".join(
        f"{file}:{hit['line_number']}: {hit['type']}"
        for file, hits in sorted(json.loads(scanned.stdout)["results"].items())
        for hit in hits
    )
