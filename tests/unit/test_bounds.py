"""The lowest versions that `make test-lowest` tries are those that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def test_the_lowest_constraints_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
    extras = project["project"]["optional-dependencies"]
    listed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    listed += [requirement for name, extra in extras.items() if name != "dev" for requirement in extra]
    bounds = {found[1]: found[2] for requirement in listed if (found := REQUIREMENT.match(requirement))}
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf8").splitlines()
    lowest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert lowest.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert lowest[name].split(".")[: bound.count(".") + 1] == bound.split("."), name
