"""A process with a planted bug that makes one write: `python -m support.plant_app DATA_DIR`.

    PLANT=no-expiry PLANT_URL=postgresql://... PLANT_FAILPOINT=... python -m support.plant_app D

It opens the store, says `ready`, waits for a line, puts `old` under the key `k`, says where that is
durable, and waits to be killed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

import standfast
from chaos.calls import REGISTERS
from chaos.plants import PLANTS
from support.outage_app import arm


def main() -> None:
    name = os.environ["PLANT"]
    with PLANTS[name].planted() if name else contextlib.nullcontext():
        store = standfast.open(
            os.environ["PLANT_URL"],
            data_dir=sys.argv[1],
            deadline_s=float(os.environ["PLANT_DEADLINE_S"]),
        )
        store[REGISTERS].put("k", "before")
        while store.health().state != "direct" or store.health().lag_ops:
            time.sleep(0.01)  # its table is being made; the test waits, and has a limit
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        arm(os.environ["PLANT_FAILPOINT"])  # a slow machine must not pass it before
        print(store[REGISTERS].put("k", "old").durable_on, flush=True)  # noqa: T201
        sys.stdin.readline()


if __name__ == "__main__":
    main()
