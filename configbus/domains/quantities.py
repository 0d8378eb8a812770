"""What the catalogue's fields measure: quantities that several of them share, each with its unit and its bounds."""

from decimal import Decimal
from typing import Annotated

from pydantic import Field

Percent = Annotated[Decimal, Field(ge=0, le=100, max_digits=5, decimal_places=2)]
Ratio = Annotated[Decimal, Field(ge=0, le=1, max_digits=4, decimal_places=3)]
Amplification = Annotated[Decimal, Field(ge=1, le=9, max_digits=4, decimal_places=3)]
"""A factor that makes a score larger, never smaller."""
Spike = Annotated[Decimal, Field(ge=1, le=100_000, max_digits=8, decimal_places=2)]
"""How many times the usual."""
BasisPoints = Annotated[int, Field(ge=0, le=10_000)]

Sol = Annotated[Decimal, Field(gt=0, max_digits=20, decimal_places=8)]
Usd = Annotated[Decimal, Field(ge=0, le=10**12, max_digits=20, decimal_places=2)]

Count = Annotated[int, Field(ge=1, le=10_000)]
RequestsPerMinute = Annotated[int, Field(ge=1, le=100_000)]

Seconds = Annotated[int, Field(ge=1, le=86_400)]
SecondsOrZero = Annotated[int, Field(ge=0, le=86_400)]
Minutes = Annotated[int, Field(ge=1, le=525_600)]
Hours = Annotated[int, Field(ge=1, le=87_600)]
Days = Annotated[int, Field(ge=1, le=3_650)]
