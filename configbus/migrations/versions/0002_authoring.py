"""What authoring needs of the frame: idempotency keys, retirement in the audit log, indexes for history.

Revision ID: 0002
Revises: 0001
"""

import re
from pathlib import Path

from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

REPLACED = ("audit", "capture")


def upgrade() -> None:
    _run(Path(__file__).with_suffix(".sql").read_text(encoding="utf8"))


def downgrade() -> None:
    frame = Path(__file__).with_name("0001_frame.sql").read_text(encoding="utf8")
    for name in REPLACED:
        (function,) = re.findall(rf"CREATE (FUNCTION {{schema}}\.{name}\(.*?\nEND \$\$;)", frame, re.DOTALL)
        _run(f"CREATE OR REPLACE {function}")
    schema = context.config.attributes["quoted_schema"]
    op.execute(f"DROP INDEX {schema}.config_audit_log_block, {schema}.release_time")
    op.execute(f"DROP TABLE {schema}.idempotency, {schema}.domain")


def _run(script: str) -> None:
    options = context.config.attributes
    script = script.replace("{schema}", options["quoted_schema"]).replace("{channel}", options["schema"])
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))
