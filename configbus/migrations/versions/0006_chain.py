"""A chain of hashes through releases and the audit log.

Revision ID: 0006
Revises: 0005
"""

import re
from pathlib import Path

from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _run(Path(__file__).with_suffix(".sql").read_text(encoding="utf8"))


def downgrade() -> None:
    first = Path(__file__).with_name("0001_frame.sql").read_text(encoding="utf8")
    (seal,) = re.findall(r"CREATE FUNCTION {schema}\.seal\(.*?\nEND \$\$;", first, re.DOTALL)
    _run("DROP FUNCTION {schema}.broken_chain(text)")
    _run(seal.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    _run("ALTER FUNCTION {schema}.seal() SECURITY DEFINER SET search_path = pg_catalog, pg_temp")
    _run("DROP TRIGGER hashed ON {schema}.config_audit_log")
    _run("DROP FUNCTION {schema}.hash_line()")
    _run("DROP FUNCTION {schema}.chain_of({schema}.release)")
    _run("DROP FUNCTION {schema}.line_digest({schema}.config_audit_log)")
    _run("DROP TABLE {schema}.audit_line")
    _run("ALTER TABLE {schema}.release DROP COLUMN chain_before, DROP COLUMN chain")


def _run(script: str) -> None:
    options = context.config.attributes
    script = script.replace("{schema}", options["quoted_schema"]).replace("{channel}", options["schema"])
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))
