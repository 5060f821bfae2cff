"""What the benchmarks share: documents, timing, and the table of figures beside their targets."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


def make_document(index: int) -> dict[str, Any]:
    """A guild's view: quotes, snowflakes, text; its members are in no order that jsonb keeps."""
    rng = random.Random(index)
    return {
        "event_mode": rng.choice(["normal", "doubleup"]),
        "message_id": 1_199_000_000_000_000_000 + rng.randrange(10**15),
        "channel_id": 1_199_000_000_000_000_000 + rng.randrange(10**15),
        "registered": [
            {
                "tag": f"player{rng.randrange(10**6)}",
                "ign": f"Name {rng.randrange(10**4)}",
                "alt_igns": ["one", "two"],
                "pronouns": "they/them",
                "checked_in": rng.random() < 0.5,
            }
            for _ in range(3)
        ],
        "open": True,
        "note": 'said "see you at 8" ' + "x" * rng.randrange(20),
    }


DOCUMENTS = [make_document(index) for index in range(200)]
TEXTS = [json.dumps(document) for document in DOCUMENTS]


class Measure(NamedTuple):
    """A figure, what it has to be at the most (or at the least), and how it was reached."""

    name: str
    figure: float
    target: float
    at_least: bool = False
    unit: str = "x"
    detail: str = ""

    @property
    def reached(self) -> bool:
        """Whether it is what it has to be."""
        return self.figure >= self.target if self.at_least else self.figure <= self.target


def show(measures: Sequence[Measure]) -> bool:
    """Print the table; returns whether every target is reached."""
    if not measures:
        return True
    width = max(len(one.name) for one in measures)
    print(f"\n{'':{width}}   figure   target")
    for one in measures:
        sign = ">=" if one.at_least else "<="
        verdict = "" if one.reached else "  MISSED"
        print(
            f"{one.name:{width}} {one.figure:7.2f}{one.unit:3}{sign} {one.target:g}{one.unit:3}"
            f" {one.detail}{verdict}"
        )
    return all(one.reached for one in measures)


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which this share of them is."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def timed(call: Callable[[], Any]) -> float:
    """The seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Beside:
    """Two calls in turn, so that the mood of machine and disk meets both; medians of rounds."""

    def __init__(self) -> None:
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.ratios: list[float] = []

    def round(
        self, ours: Callable[[int], Any], bare: Callable[[int], Any], keys: list[int]
    ) -> None:
        """One round: each key by both."""
        mine: list[float] = []
        theirs: list[float] = []
        for key in keys:
            mine.append(timed(lambda key=key: ours(key)))
            theirs.append(timed(lambda key=key: bare(key)))
        self.ours.append(statistics.median(mine))
        self.bare.append(statistics.median(theirs))
        self.ratios.append(self.ours[-1] / self.bare[-1])

    def measure(self, name: str, target: float) -> Measure:
        """The ratio of the medians, as the median of the rounds."""
        detail = (
            f"{statistics.median(self.ours) * 1e6:,.0f} us beside"
            f" {statistics.median(self.bare) * 1e6:,.0f} us"
        )
        return Measure(name, statistics.median(self.ratios), target, detail=detail)
