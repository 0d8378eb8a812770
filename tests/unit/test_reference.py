"""docs/reference.md says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_is_what_its_script_makes_of_the_code() -> None:
    made = runpy.run_path(str(DOCS / "generate_reference.py"))["reference"]()
    kept = (DOCS / "reference.md").read_text(encoding="utf8")
    assert kept == made, "run: .venv/bin/python docs/generate_reference.py"
