"""What keeps histories true: epochs that rise with the timeline, and drift behind the triggers.

Revision ID: 0003
Revises: 0002
"""

import re
from pathlib import Path

from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NEW = (
    "capture_drift(text)",
    "drift(text)",
    "capture_block(text, text, boolean, {schema}.environment, text, uuid)",
    "newest(text)",
    "raise_epoch(text, bigint, bigint, bigint, text)",
    "lock_environment(text)",
    "ring(text)",
    "server()",
    "timeline()",
)


def upgrade() -> None:
    _run(Path(__file__).with_suffix(".sql").read_text(encoding="utf8"))


def downgrade() -> None:
    before = Path(__file__).with_name("0002_authoring.sql").read_text(encoding="utf8")
    (capture,) = re.findall(r"CREATE OR REPLACE FUNCTION {schema}\.capture\(.*?\nEND \$\$;", before, re.DOTALL)
    _run(capture)
    _run("GRANT EXECUTE ON FUNCTION {schema}.capture() TO PUBLIC")
    for function in NEW:
        _run(f"DROP FUNCTION {{schema}}.{function}")


def _run(script: str) -> None:
    options = context.config.attributes
    script = script.replace("{schema}", options["quoted_schema"]).replace("{channel}", options["schema"])
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))
