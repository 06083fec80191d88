"""Names of the files in a bundle."""

from __future__ import annotations

MANIFEST = "manifest.json"
DECISIONS = "decisions.json"
GRAPH = "graph.npz"
ENGINE = "model.engine"
GOLDEN = "golden.npz"
EVAL = "eval.npz"
ROWS = "rows-"
"""What names of files begin with that hold rows of stages, in mode `batched`."""

PACKED = ".rows"
"""What names of files of packed rows end with."""

REPORT = "report.json"
REPORT_TEXT = "report.md"

UNLISTED = frozenset({MANIFEST, REPORT, REPORT_TEXT})
"""Files without a hash in the manifest: itself, and the reports, which `validate` may renew."""
