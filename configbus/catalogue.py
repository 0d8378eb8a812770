"""The catalogue: which domains this process knows, and finding things in it by name."""

from __future__ import annotations

import importlib
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configbus.block import Block, Domain, domain_of
from configbus.errors import DefinitionError, SettingsError, UnknownBlock, UnknownField
from configbus.names import is_key, near, split_block

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Domains by name."""

    domains: dict[str, Domain]

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.domains.values())

    def domain(self, name: str) -> Domain:
        """The domain of that name; UnknownBlock names near misses."""
        try:
            return self.domains[name]
        except KeyError:
            raise UnknownBlock(f"there is no domain {name!r}", near(name, self.domains)) from None

    def locate(self, block: str) -> Domain:
        """The domain that a block name belongs to; UnknownBlock if it cannot be a block's name."""
        name, key = split_block(block)
        domain = self.domain(name)
        if domain.keyed and not is_key(key):
            raise UnknownBlock(f"{block!r} needs a key: {name}/KEY, of letters, digits, _ and -, at most 63")
        if not domain.keyed and block != name:
            raise UnknownBlock(f"{block!r}: {name} has no keys", [name])
        return domain

    def require_field(self, domain: Domain, field: str, block: str = "") -> None:
        """UnknownField, naming near misses and the block where it is known, unless the domain has that field."""
        if not field:
            name = block or (f"{domain.name}/KEY" if domain.keyed else domain.name)
            raise UnknownField(f"{name!r} is a whole block; name a field of it: {name}.FIELD")
        if field not in domain.model.model_fields:
            raise UnknownField(f"{domain.name} has no field {field!r}", near(field, domain.model.model_fields))


def catalogue_of(models: Iterable[type[Block]]) -> Catalogue:
    """A catalogue of these classes; two classes of one domain name are refused."""
    domains: dict[str, Domain] = {}
    for model in models:
        domain = domain_of(model)
        other = domains.setdefault(domain.name, domain)
        if other.model is not model:
            raise DefinitionError(f"domain {domain.name!r} is declared by {other.model!r} and by {model!r}")
    return Catalogue(domains)


def load_catalogue(modules: Iterable[str]) -> Catalogue:
    """The Block classes with a domain that these modules hold, imported or defined there."""
    found: list[type[Block]] = []
    for module in modules:
        try:
            members = vars(importlib.import_module(module)).values()
        except DefinitionError:
            raise
        except Exception as error:
            told = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
            if place := _place_of(error):
                told += f" ({place})"
            raise SettingsError(f"CONFIGBUS_DOMAINS names {module!r}, which cannot be imported: {told}") from error
        models = [m for m in members if isinstance(m, type) and issubclass(m, Block) and m.__domain__]
        if not models:
            raise SettingsError(f"CONFIGBUS_DOMAINS names {module!r}, which holds no class derived from Block")
        found += models
    return catalogue_of(found)


def _place_of(error: Exception) -> str:
    """File and line of the user's code that an error comes from, if it comes from any."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "" if last.filename.startswith("<frozen") else f"{last.filename}:{last.lineno}"
