"""The blocks of the simulated world, and the workers' models of them: some refuse what others take."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from configbus.block import Block
from configbus.catalogue import catalogue_of

if TYPE_CHECKING:
    from random import Random

    from configbus.catalogue import Catalogue

NAMES = ("trading", "risk", "strategy/alpha")
REFUSED_LIMIT = 13
REFUSED_LABEL = "unlucky"

Content = dict[str, Any]
"""The values of a block as JSON gives them."""


class Trading(Block, domain="trading"):
    size: Annotated[Decimal, Field(max_digits=6, decimal_places=2)] = Decimal("1.00")
    mode: Literal["slow", "fast"] = "slow"
    slots: int = 5


class Risk(Block, domain="risk"):
    limit: int = 10


class Strategy(Block, domain="strategy", keyed=True):
    label: str = "none"
    weights: list[int] = Field(default_factory=list)


class StrictRisk(Block, domain="risk"):
    limit: int = 10

    @field_validator("limit")
    @classmethod
    def _lucky(cls, limit: int) -> int:
        if limit == REFUSED_LIMIT:
            raise ValueError("this worker refuses the number")
        return limit


class StrictStrategy(Block, domain="strategy", keyed=True):
    label: str = "none"
    weights: list[int] = Field(default_factory=list)

    @field_validator("label")
    @classmethod
    def _lucky(cls, label: str) -> str:
        if label == REFUSED_LABEL:
            raise ValueError("this worker refuses the label")
        return label


EASY = catalogue_of([Trading, Risk, Strategy])
STRICT = catalogue_of([Trading, StrictRisk, StrictStrategy])


def content(name: str, random: Random) -> Content | None:
    """New values for a block; None retires one that may be retired."""
    match name:
        case "trading":
            size = f"{random.randrange(1000, 9999) / 100:.2f}"
            return {"size": size, "mode": random.choice(("slow", "fast")), "slots": random.randrange(1, 9)}
        case "risk":
            return {"limit": REFUSED_LIMIT if random.random() < 0.1 else random.randrange(20, 99)}
        case _:
            chance = random.random()
            if chance < 0.15:
                return None
            label = REFUSED_LABEL if chance < 0.22 else f"label {random.randrange(99)} ü"
            return {"label": label, "weights": [random.randrange(9) for _ in range(random.randrange(3))]}


def refused_content(name: str, random: Random) -> Content | None:
    """New values that strict workers refuse, where the block has any."""
    match name:
        case "risk":
            return {"limit": REFUSED_LIMIT}
        case "strategy/alpha":
            return {"label": REFUSED_LABEL, "weights": [random.randrange(9)]}
        case _:
            return content(name, random)


def is_refused(catalogue: Catalogue, values: Content | None) -> bool:
    """Whether a worker with this catalogue must hold a block of these values back."""
    return (
        catalogue is STRICT
        and values is not None
        and (values.get("limit") == REFUSED_LIMIT or values.get("label") == REFUSED_LABEL)
    )


def texts(values: Content) -> dict[str, str]:
    """The fields as canonical JSON texts."""
    return {field: json.dumps(value, ensure_ascii=False) for field, value in values.items()}
