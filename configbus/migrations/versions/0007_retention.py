"""Retention: history that the schema's owner may prune.

Revision ID: 0007
Revises: 0006
"""

import re
from pathlib import Path

from alembic import context, op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SAFE = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
REFUSING = r"CREATE TRIGGER (?:kept|append_only) BEFORE (?:UPDATE OR )?DELETE OR TRUNCATE ON .*?;"


def upgrade() -> None:
    _run(Path(__file__).with_suffix(".sql").read_text(encoding="utf8"))


def downgrade() -> None:
    chain = _script("0006_chain.sql")
    (broken,) = re.findall(r"CREATE FUNCTION {schema}\.broken_chain\(.*?\n\$\$;", chain, re.DOTALL)
    (audit,) = re.findall(
        r"CREATE OR REPLACE FUNCTION {schema}\.audit\(.*?\nEND \$\$;", _script("0002_authoring.sql"), re.DOTALL
    )
    _run(broken.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    _run(audit)
    _run(f"ALTER FUNCTION {{schema}}.audit() {SAFE}")
    for table in ("release", "release_block", "audit_line"):
        _run(f"DROP TRIGGER never ON {{schema}}.{table}")
    for table in ("release", "release_block", "audit_line", "config_audit_log"):
        _run(f"DROP TRIGGER kept ON {{schema}}.{table}")
    _run("DROP TRIGGER append_only ON {schema}.config_audit_log")
    for trigger in re.findall(REFUSING, _script("0001_frame.sql") + chain, re.DOTALL):
        _run(trigger)
    for function in (
        "prune(text, timestamptz, boolean)",
        "kept_until(text, bigint)",
        "state_until(text, bigint)",
        "pruning()",
    ):
        _run(f"DROP FUNCTION {{schema}}.{function}")
    for function in ("lifecycle", "refuse", "refuse_later"):
        _run(f"ALTER FUNCTION {{schema}}.{function}() RESET ALL")
    (raising,) = re.findall(
        r"CREATE FUNCTION {schema}\.raise_epoch\(.*?\nEND \$\$;", _script("0004_epochs.sql"), re.DOTALL
    )
    _run(raising.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    _run(f"ALTER FUNCTION {{schema}}.raise_epoch(text, bigint, bigint, text) {SAFE}")
    _run("ALTER TABLE {schema}.environment DROP COLUMN pruned")


def _script(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf8")


def _run(script: str) -> None:
    options = context.config.attributes
    script = script.replace("{schema}", options["quoted_schema"]).replace("{channel}", options["schema"])
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))
