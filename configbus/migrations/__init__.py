"""Alembic revisions of the frame; driven by `configbus.store.schema`, never by an alembic.ini."""
