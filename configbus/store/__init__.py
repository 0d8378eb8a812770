"""Postgres, the truth. Every function here takes a connection; whoever calls it owns the transaction."""
