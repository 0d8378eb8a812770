"""`configbus audit --verify`: whether history is what was written, told by its hashes and by what Redis remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from configbus.cli import DIFFERENT, printable, standing
from configbus.cli.output import show_json, show_table

if TYPE_CHECKING:
    from configbus.settings import Settings
    from configbus.store.chain import Witness


def show_chain(settings: Settings, expected: str | None, *, as_json: bool) -> None:
    """Name what is broken, the first break first. Exit status 8 where anything is."""
    from configbus.reader import Reader
    from configbus.store.chain import Witness

    witnesses = [Witness(expected, "--expect")] if expected else []
    noted, why = _noted_in_redis(settings) if settings.redis_url else (None, "")
    if noted is not None:
        witnesses.append(noted)
    with Reader(settings) as reader:
        chain = reader.verify_chain(witnesses)
    if as_json:
        show_json(chain)
    else:
        typer.echo(
            f"{chain.releases} releases and {chain.lines} lines of the audit log, up to revision {chain.revision}; "
            f"hash {chain.hash or 'none'}"
        )
        if chain.pruned:
            typer.echo(f"before revision {chain.pruned} history was pruned; what held then is as it was")
        if chain.broken:
            show_table(("what", "number", "at", "why"), [(b.what, b.number, b.at, b.why) for b in chain.broken])
    if why:
        typer.echo(f"Redis has no hash to compare with, so that an end that was cut would not show: {why}", err=True)
    if chain.broken:
        raise typer.Exit(DIFFERENT)


def _noted_in_redis(settings: Settings) -> tuple[Witness | None, str]:
    """The hash that the head in Redis holds, or why there is none to compare with: with keys it must be signed."""
    from configbus.errors import ConfigBusError
    from configbus.link import Link, looking_commands, reading_commands, reading_of
    from configbus.store.chain import Witness
    from configbus.wire import Keys, Malformed, read_head

    ring, keys = settings.keyring, Keys(settings.namespace, settings.environment)
    link = Link(settings.require("redis_url"))
    try:
        commands = looking_commands(keys) if ring is None else reading_commands(keys, ())
        reading = reading_of(link.call(*commands), ())
        if not reading.head:
            return None, "there is no head"
        head = read_head(reading.head)
        if head.bus != standing.of_postgres(settings).get("bus"):
            return None, f"the head there is of another installation, whose bus is {printable(head.bus)}"
        if ring is not None:
            ring.check_head(head, reading.head)
            ring.check_index(head, reading.head, reading.index)
    except (ConfigBusError, Malformed) as error:
        return None, printable(str(error))
    finally:
        link.close()
    if not (chain := reading.head.get("chain")):
        return None, "the head there has none"
    return Witness(chain, "the head in Redis", head.revision), ""
