"""The frame: environments, releases, audit log, trigger functions.

Revision ID: 0001
Revises:
"""

from pathlib import Path

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    options = context.config.attributes
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf8")
    script = script.replace("{schema}", options["quoted_schema"]).replace("{channel}", options["schema"])
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))


def downgrade() -> None:
    schema = context.config.attributes["quoted_schema"]
    op.execute(f"DROP TABLE {schema}.release_block, {schema}.release, {schema}.environment, {schema}.config_audit_log")
    op.execute(
        f"DROP FUNCTION {schema}.lifecycle, {schema}.audit, {schema}.capture, {schema}.seal, {schema}.refuse,"
        f" {schema}.refuse_later, {schema}.digest, {schema}.instant, {schema}.changed_fields, {schema}.bare,"
        f" {schema}.actor"
    )
    op.execute(f"DROP TYPE {schema}.config_status")
