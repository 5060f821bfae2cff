"""The metrics of a store as the SDK of OpenTelemetry collects them."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import standfast
from standfast import ConfigError
from standfast.admin.telemetry import INSTRUMENTS, observe
from standfast.engine.state_machine import Mode
from support.faulty import Link, Open, Server, wait_direct, wait_mode

Collected = dict[str, dict[tuple[tuple[str, Any], ...], float]]


class Collector:
    """An SDK without a network."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def collect(self) -> Collected:
        data = self.reader.get_metrics_data()
        found: Collected = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "standfast"
                for metric in scope.metrics:
                    found[metric.name.removeprefix("standfast.")] = {
                        tuple(sorted((point.attributes or {}).items())): point.value  # type: ignore[union-attr]
                        for point in metric.data.data_points
                    }
        return found


@pytest.fixture
def sdk() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.provider.shutdown()


def test_an_outage_as_it_is_collected(memory: Server, open_it: Open, sdk: Collector) -> None:
    """State, pending writes, writes and reads by source, refused writes, durations: before an
    outage, within it and after it, all of it without the primary."""
    link = Link(memory)
    store, engine = open_it(link)
    observe(store, meter_provider=sdk.provider, attributes={"store": "bot"})
    wait_direct(engine)
    store["c"].put("a", 1)
    store["c"].get("a")
    bot = ("store", "bot")
    found = sdk.collect()
    assert found["state"][("state", "direct"), bot] == 1
    assert found["state"][("state", "journaling"), bot] == 0
    assert found["healthy"] == {(bot,): 1}
    assert found["writes"] == {(("durable_on", "primary"), bot): 1}
    assert found["reads"] == {(("source", "primary"), bot): 1}
    link.down = True
    for number in range(3):
        store["c"].put(str(number), number)
    wait_mode(engine, Mode.JOURNALING)
    found = sdk.collect()
    assert found["state"][("state", "journaling"), bot] == 1
    assert found["healthy"] == {(bot,): 0}
    assert found["pending.writes"] == {(bot,): 3}
    assert found["pending.bytes"][(bot,)] > 0
    assert found["pending.age"][(bot,)] > 0
    assert found["pending.limit"][(bot,)] >= 3
    assert found["writes"][("durable_on", "journal"), bot] == 3
    link.down = False
    wait_direct(engine)
    store.flush()
    found = sdk.collect()
    assert found["pending.writes"] == {(bot,): 0}
    assert found["calls"][("operation", "write"), bot] == 4
    assert found["calls.duration"][("operation", "write"), bot] > 0


def test_every_instrument_is_collected_from_an_embedded_store(
    sdk: Collector, tmp_path: Any
) -> None:
    """None of the callbacks fails, which the SDK would only log; a store without a journal has no
    limit of it, and one that refused nothing has no refused writes."""
    with standfast.open(None, data_dir=tmp_path) as store:
        observe(store, meter_provider=sdk.provider)
        store["c"].put("a", 1)
        found = sdk.collect()
    names = {each.name for each in INSTRUMENTS}
    assert names - set(found) <= {"pending.limit", "refused_writes", "reads"}
    assert found["writes"] == {(("durable_on", "primary"),): 1}


def test_a_closed_store_has_no_numbers_and_an_unused_one_is_freed(
    sdk: Collector, tmp_path: Any
) -> None:
    """Collecting neither fails after the end of a store nor keeps it alive."""
    store = standfast.open(None, data_dir=tmp_path)
    observe(store, meter_provider=sdk.provider)
    assert sdk.collect()
    store.close()
    assert not any(sdk.collect().values())
    alive = weakref.ref(store.calls.handle)
    del store
    gc.collect()
    assert alive() is None
    assert not any(sdk.collect().values())


async def observed(sdk: Collector, tmp_path: Any) -> Collected:
    async with await standfast.open_async(None, data_dir=tmp_path) as store:
        observe(store, meter_provider=sdk.provider)
        await store["c"].put("a", 1)
        return sdk.collect()


def test_an_asynchronous_store(sdk: Collector, tmp_path: Any) -> None:
    """The same of a store for tasks."""
    import asyncio

    found = asyncio.run(observed(sdk, tmp_path))
    assert found["writes"] == {(("durable_on", "primary"),): 1}


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with standfast.open(None, data_dir=tmp_path) as store, pytest.raises(ConfigError) as found:
        observe(store)
    assert found.value.code == "missing_extra"
    assert "standfast[otel]" in found.value.hint
