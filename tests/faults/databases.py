"""Databases that are put in place of the one that everybody knows, as a restored backup is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from faults.cluster import KEYS, redis_fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.cluster import Cluster

EPOCH = "SELECT epoch FROM configbus.environment WHERE name = 'production'"


def run(cluster: Cluster, statement: str, **names: str) -> None:
    """A statement of the server's administrator."""
    with psycopg.connect(cluster.postgres.url, autocommit=True) as administrator:
        given = {name: sql.Identifier(value) for name, value in names.items()}
        administrator.execute(sql.SQL(statement).format(**given))


def name_of(cluster: Cluster) -> str:
    return cluster.database_url.rpartition("/")[2]


def url_of(cluster: Cluster, name: str) -> str:
    return f"{cluster.database_url.rpartition('/')[0]}/{name}"


@contextmanager
def without_connections(cluster: Cluster) -> Iterator[None]:
    """Nobody is connected to the database, and nobody can connect."""
    name = name_of(cluster)
    run(cluster, "ALTER DATABASE {name} ALLOW_CONNECTIONS false", name=name)
    with psycopg.connect(cluster.postgres.url, autocommit=True) as administrator:
        administrator.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
    yield
    run(cluster, "ALTER DATABASE {name} ALLOW_CONNECTIONS true", name=name)


def copy(cluster: Cluster) -> str:
    """The name of a copy of the database as it is now, a backup so to say."""
    backup = f"{name_of(cluster)}_backup"
    with without_connections(cluster):
        run(cluster, "CREATE DATABASE {backup} TEMPLATE {name}", backup=backup, name=name_of(cluster))
    return backup


def put_in_place(cluster: Cluster, other: str) -> None:
    """From now on another database has the name that everybody knows."""
    cluster.hurt()
    with without_connections(cluster):
        run(cluster, "ALTER DATABASE {name} RENAME TO {old}", name=name_of(cluster), old=f"{name_of(cluster)}_old")
        run(cluster, "ALTER DATABASE {other} RENAME TO {name}", other=other, name=name_of(cluster))
    cluster.healed()


def epoch_of(cluster: Cluster) -> int:
    with psycopg.connect(cluster.database_url) as connection:
        ((epoch,),) = connection.execute(EPOCH).fetchall()
    return int(epoch)


def is_published(cluster: Cluster, epoch: int) -> bool:
    """Whether Redis stands where Postgres stands, in a later epoch than that."""
    with cluster.redis() as client:
        head = client.hgetall(KEYS.head)
    later = int(head["epoch"]) == epoch_of(cluster) > epoch
    return later and int(head["revision"]) == cluster.head() and redis_fault(cluster.valkey.url) is None
