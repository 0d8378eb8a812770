"""What a document may be made of, and what may be put into it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field

from configbus.block import Block, domain_of
from configbus.values import with_values

Share = Annotated[Decimal, Field(ge=0, le=1, max_digits=4, decimal_places=3)]


class Bounded(BaseModel):
    """Bounds stand with the type, below the field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Share | None = None
    names: tuple[Annotated[str, Field(max_length=5)], ...] = ()


class Grown(BaseModel):
    """`younger` was added after some documents had been stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    older: int = 1
    younger: int | None = None


def test_a_bound_may_stand_with_a_type_anywhere_in_a_document() -> None:
    class BoundedConfig(Block, domain="bounded"):
        part: Bounded = Bounded()

    assert domain_of(BoundedConfig).columns[0].kind == "json"


@pytest.mark.parametrize("stored", ['{"older": 2}', '{"older": 2, "younger": null}'], ids=["without it", "with null"])
def test_a_part_that_a_stored_document_does_not_have_yet_can_be_put(stored: str) -> None:
    class GrownConfig(Block, domain="grown"):
        part: Grown = Grown()

    block = with_values(domain_of(GrownConfig), "grown", {"part": stored}, [(["part", "younger"], 3)])
    assert block.model_dump() == {"part": {"older": 2, "younger": 3}}
