"""What README shows in Python runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["worker", "author"])
def test_an_example_of_the_readme_runs(example: str, database_url: str, redis_url: str) -> None:
    variables = {
        "CONFIGBUS_DATABASE_URL": database_url,
        "CONFIGBUS_REDIS_URL": redis_url,
        "CONFIGBUS_ENVIRONMENT": "production",
    }
    if "Author" not in example:
        publish = "from configbus.author import Author; Author.connect().set({'risk.max_order_attempts': 4})"
        subprocess.run([sys.executable, "-c", publish], env=os.environ | variables, timeout=30, check=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
