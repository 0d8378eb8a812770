"""A new epoch begins even while releases are made.

Revision ID: 0004
Revises: 0003
"""

import re
from pathlib import Path

from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _run(Path(__file__).with_suffix(".sql").read_text(encoding="utf8"))


def downgrade() -> None:
    before = Path(__file__).with_name("0003_histories.sql").read_text(encoding="utf8")
    (earlier,) = re.findall(r"CREATE FUNCTION {schema}\.raise_epoch\(.*?\nEND \$\$;", before, re.DOTALL)
    _run("DROP FUNCTION {schema}.raise_epoch(text, bigint, bigint, text)")
    _run(earlier)


def _run(script: str) -> None:
    options = context.config.attributes
    script = script.replace("{schema}", options["quoted_schema"]).replace("{channel}", options["schema"])
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))
