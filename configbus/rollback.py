"""Rollback: the contents of an earlier revision become active again, as new rows, in the caller's transaction.

What changed after that revision is put back and nothing else is touched, so the cost is that of the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from pydantic import ValidationError

from configbus.block import problems
from configbus.difference import same
from configbus.errors import Conflict, InvalidValue, Problem, UnknownBlock
from configbus.log import log
from configbus.names import near, split_block
from configbus.store.history import changed_since, check_kept, ever_released, released_of
from configbus.store.versions import LOCK_ATTEMPTS, FormerRows, NewRow, former_rows, lock_active, replace_active
from configbus.values import default_texts, valid_content
from configbus.wire import entry_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Connection

    from configbus.block import Domain
    from configbus.catalogue import Catalogue
    from configbus.store.connect import Place
    from configbus.store.history import Content
    from configbus.store.versions import VersionRow

LONGEST_TITLE = 70


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done in one domain."""

    replaced: list[UUID]
    rows: list[NewRow]
    problems: list[Problem]


def roll_back(
    connection: Connection, place: Place, catalogue: Catalogue, names: Sequence[str] | None, revision: int
) -> None:
    """Put back what was live at a revision, for these blocks, or for all of them.

    A keyed block that did not exist then is retired; a singleton that did not is left, and a warning logged.
    Fields that were added since keep their values; those that the model has no more are left out, with a
    warning. Raises InvalidValue with everything that today's bounds refuse, UnknownBlock for names that no
    release holds and for blocks whose domain is not in the catalogue.
    """
    if names is not None:
        _check_names(connection, place, catalogue, names)
    for _ in range(LOCK_ATTEMPTS):
        with connection.begin_nested() as attempt:
            changed = list(changed_since(connection, place, revision, names))
            active = _lock(connection, place, catalogue, changed, revision)
            if changed == list(changed_since(connection, place, revision, names)):
                check_kept(connection, place, revision)
                break
            attempt.rollback()  # a release came in while its locks were waited for: it is to be undone as a whole
    else:
        raise Conflict(f"blocks change too fast to be rolled back to revision {revision}; try again")
    found: list[Problem] = []
    for name, group in groupby(changed, key=_domain_of):
        domain, contents = catalogue.domain(name), list(group)
        missing = [content.key for content in contents if content.key not in active[name]]
        former = former_rows(connection, place, domain, missing)
        plan = _plan(place, domain, contents, active[name], former, revision)
        found += plan.problems
        if not found:
            replace_active(connection, place, domain, plan.replaced, plan.rows)
    if found:
        raise InvalidValue(found)


def _lock(
    connection: Connection, place: Place, catalogue: Catalogue, changed: Sequence[Content], revision: int
) -> dict[str, dict[str, VersionRow]]:
    """The active rows of these blocks, by domain and key. Raises UnknownBlock for domains not in the catalogue."""
    if strangers := [content.block for content in changed if _domain_of(content) not in catalogue.domains]:
        raise UnknownBlock(
            f"{', '.join(strangers[:5])} changed after revision {revision}, and CONFIGBUS_DOMAINS names no such "
            "domain: add its module, or name the blocks to roll back"
        )
    return {
        name: lock_active(connection, place, catalogue.domain(name), [content.key for content in contents])
        for name, contents in groupby(changed, key=_domain_of)
    }


def _check_names(connection: Connection, place: Place, catalogue: Catalogue, names: Sequence[str]) -> None:
    for name in names:
        catalogue.locate(name)
    if missing := sorted(set(names) - ever_released(connection, place, names)):
        known = released_of(connection, place, split_block(missing[0])[0])
        raise UnknownBlock(f"{missing[0]!r} was never released in {place.environment}", near(missing[0], known))


def _plan(
    place: Place,
    domain: Domain,
    contents: Sequence[Content],
    active: dict[str, VersionRow],
    former: dict[str, FormerRows],
    revision: int,
) -> _Plan:
    plan = _Plan([], [], [])
    defaults = default_texts(domain)
    logger = log.bind(environment=place.environment, to_revision=revision)
    for content in contents:
        live = active.get(content.key)
        if content.texts is None:
            if live is not None and domain.keyed:
                plan.replaced.append(live.id)
            elif live is not None:
                logger.warning("left_as_it_is", block=content.block, reason="it did not exist then")
            continue
        if gone := sorted(content.texts.keys() - defaults.keys()):
            logger.warning(
                "fields_left_out", block=content.block, fields=", ".join(gone), reason="the model has them no more"
            )
        today = defaults | dict(live.texts if live is not None else {})
        texts = {name: content.texts.get(name, today[name]) for name in defaults}
        try:
            block = domain.model.model_validate_json(entry_text(texts.items()), strict=True)
        except ValidationError as error:
            plan.problems.extend(problems(content.block, error))
            continue
        if live is not None and same(block, valid_content(domain, live.texts)):
            continue
        if live is not None:
            plan.replaced.append(live.id)
            plan.rows.append(NewRow(content.key, live.version + 1, texts, live.name, live.description))
        else:
            before = former.get(content.key, FormerRows(0, ()))
            title = content.title or ""
            if title in before.names:
                title = f"{title[:LONGEST_TITLE]} of revision {revision}"
            plan.rows.append(NewRow(content.key, before.version + 1, texts, title))
    return plan


def _domain_of(content: Content) -> str:
    return split_block(content.block)[0]
