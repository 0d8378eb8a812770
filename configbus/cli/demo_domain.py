"""What the demo shows of keyed domains: a strategy, of which there may be many."""

from __future__ import annotations

from pydantic import Field

from configbus.block import Block


class StrategyConfig(Block, domain="strategy", keyed=True):
    """One strategy: whether it trades, and how much."""

    enabled: bool = Field(default=True, description="whether it trades")
    lots: int = Field(10, ge=1, le=1000, description="largest order, in lots")
