"""Seeds that once failed: the suite always runs them."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).with_name("seeds.txt")


def kept() -> list[int]:
    """The seeds in the file; what stands behind a `#` is for people."""
    lines = (line.partition("#")[0].strip() for line in FILE.read_text(encoding="utf8").splitlines())
    return [int(line) for line in lines if line]


def keep(seed: int, reason: str) -> None:
    if seed not in kept():
        with FILE.open("a", encoding="utf8") as file:
            file.write(f"{seed}  # {reason}\n")
