"""What importing a worker costs over the libraries that it needs anyway.

    .venv/bin/python benchmarks/imports.py [ROUNDS]

Fresh processes in turns, with bytecode as an installed package has it; medians in milliseconds, the
interpreter's own start taken off, and their ratio.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

PROGRAMS = {
    "nothing": "pass",
    "redis, pydantic, structlog": "import redis, pydantic, structlog",
    "configbus.ConfigBus": "from configbus import ConfigBus",
    "configbus.AsyncConfigBus": "from configbus import AsyncConfigBus",
    "and the built-in catalogue": "from configbus import ConfigBus; import configbus.domains",
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as bytecode:
        environ["PYTHONPYCACHEPREFIX"] = bytecode
        for number in range(rounds + 1):
            for name, program in PROGRAMS.items():
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", program], env=environ, check=True)
                if number:
                    taken[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    start, base = medians.pop("nothing"), medians["redis, pydantic, structlog"]
    for name, median in medians.items():
        print(f"{name:28} {median - start:7.0f} ms  {(median - start) / (base - start):5.2f}")


if __name__ == "__main__":
    main()
