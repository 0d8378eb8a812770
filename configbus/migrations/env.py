"""Alembic's way in: one connection, handed over by `configbus.store.schema`, whose transaction decides."""

from alembic import context

options = context.config.attributes
context.configure(
    connection=options["connection"],
    version_table="migration",
    version_table_schema=options["schema"],
    transactional_ddl=False,
)
context.run_migrations()
