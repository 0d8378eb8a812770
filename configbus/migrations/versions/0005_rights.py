"""Least privilege: history is written with its owner's rights, whoever makes it.

Revision ID: 0005
Revises: 0004
"""

from pathlib import Path

from alembic import context, op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PUBLIC_BEFORE = (
    "audit()",
    "seal()",
    "raise_epoch(text, bigint, bigint, text)",
    "lock_environment(text)",
    "capture_block(text, text, boolean, {schema}.environment, text, uuid)",
)
INVOKER_BEFORE = ("audit()", "capture()", "seal()", "raise_epoch(text, bigint, bigint, text)")


def upgrade() -> None:
    _run(Path(__file__).with_suffix(".sql").read_text(encoding="utf8"))


def downgrade() -> None:
    _run("DROP FUNCTION {schema}.record_repair(text, text, uuid, text, jsonb, jsonb)")
    for function in INVOKER_BEFORE:
        _run(f"ALTER FUNCTION {{schema}}.{function} SECURITY INVOKER RESET search_path")
    for function in PUBLIC_BEFORE:
        _run(f"GRANT EXECUTE ON FUNCTION {{schema}}.{function} TO PUBLIC")


def _run(script: str) -> None:
    options = context.config.attributes
    script = script.replace("{schema}", options["quoted_schema"]).replace("{channel}", options["schema"])
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))
