"""Puts the first values: `python -m strategy_platform.first_values`. Where there are values already it changes none."""

from __future__ import annotations

import sys

from configbus import ConfigBusError
from configbus.author import Author
from configbus.errors import UnknownBlock
from configbus.settings import load_settings
from strategy_platform.values import STRATEGIES, SYSTEM

REASON = "first values"


def main() -> None:
    """Activate each strategy that never was, and set `system` where nobody has changed it yet."""
    settings = load_settings()
    with Author(settings) as author:
        for key, values in STRATEGIES.items():
            block = f"strategy/{key}"
            if was_activated(author, block):
                print(f"{block}: is there already")
                continue
            draft = author.draft(block, values)
            release = author.activate(draft.id, expect=draft.version, reason=REASON)
            print(f"{block}: activated, revision {release.revision}")

        system = SYSTEM.get(settings.environment)
        if system is None or author.active("system").version > 1:
            print("system: left as it is")
            return
        release = author.set({f"system.{field}": value for field, value in system.items()}, reason=REASON)
        print(f"system: set, revision {release.revision}" if release.blocks else "system: is so already")


def was_activated(author: Author, block: str) -> bool:
    """Whether the block has ever been live; one that was retired is not brought back."""
    try:
        return any(version.status != "draft" for version in author.versions(block))
    except UnknownBlock:
        return False


if __name__ == "__main__":
    try:
        main()
    except ConfigBusError as error:
        sys.exit(f"first_values: {error}")
