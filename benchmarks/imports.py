"""What importing a worker costs over the libraries that it needs anyway.

    .venv/bin/python benchmarks/imports.py [ROUNDS]

Fresh processes in turns, with bytecode as an installed package has it; medians in milliseconds, the
interpreter's own start taken off, and their ratios. `import pydantic` alone loads next to nothing of it:
the second base is what any program pays that defines one model.
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
    "the same with one model": (
        "import redis, pydantic, structlog\nclass Model(pydantic.BaseModel):\n    value: int = pydantic.Field(1, ge=1)"
    ),
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
    start = medians.pop("nothing")
    libraries, model, *_ = (median - start for median in medians.values())
    for name, median in medians.items():
        taken_ms = median - start
        print(f"{name:28} {taken_ms:7.0f} ms  {taken_ms / libraries:5.2f}  {taken_ms / model:5.2f}")


if __name__ == "__main__":
    main()
