"""Metrics of an open store for OpenTelemetry: observable instruments over what the store says of
itself anyway.  Nothing is exported here: that is the app's own SDK, or nobody's."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from standfast.admin import library_version
from standfast.api.aio import AsyncStore
from standfast.api.store import StoreHandle
from standfast.api.sync import Store
from standfast.engine.activity import Latencies, Report
from standfast.engine.health import Health
from standfast.engine.state_machine import Mode
from standfast.errors import ConfigError, StandfastError

_Values = Iterator[tuple[float, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class _Instrument:
    """A number of a store, or several that differ in an attribute."""

    kind: Literal["counter", "gauge"]
    name: str
    unit: str
    text: str
    values: Callable[[Health, Report], _Values]


def _one(value: float | None) -> _Values:
    if value is not None:
        yield value, {}


def _by(attribute: str, counts: Mapping[str, float]) -> _Values:
    for name, count in counts.items():
        yield count, {attribute: name}


def _state(health: Health, report: Report) -> _Values:
    for mode in Mode:
        yield int(health.state == str(mode)), {"state": str(mode)}


def _measured(report: Report, of: Callable[[Latencies], float]) -> dict[str, float]:
    return {"write": of(report.write_latency), "read": of(report.read_latency)}


INSTRUMENTS = (
    _Instrument("gauge", "state", "1", "1 for the state the store is in", _state),
    _Instrument(
        *("gauge", "healthy", "1", "1: writes go straight to the primary and nothing is wrong"),
        lambda health, report: _one(int(health.healthy)),
    ),
    _Instrument(
        *("gauge", "pending.writes", "{write}", "Acknowledged writes that wait for the primary"),
        lambda health, report: _one(health.lag_ops),
    ),
    _Instrument(
        *("gauge", "pending.bytes", "By", "JSON bytes of these writes"),
        lambda health, report: _one(health.lag_bytes),
    ),
    _Instrument(
        *("gauge", "pending.age", "s", "Age of the oldest of them"),
        lambda health, report: _one(health.lag_s),
    ),
    _Instrument(
        *("gauge", "pending.limit", "{write}", "Writes that the journal may hold"),
        lambda health, report: _one(health.journal_max_ops),
    ),
    _Instrument(
        *("counter", "writes", "{write}", "Writes by where they became durable"),
        lambda health, report: _by("durable_on", report.writes),
    ),
    _Instrument(
        *("counter", "reads", "{read}", "Reads by what answered them"),
        lambda health, report: _by("source", report.reads),
    ),
    _Instrument(
        *("counter", "refused_writes", "{write}", "Writes that were refused, by error code"),
        lambda health, report: _by("code", report.refused),
    ),
    _Instrument(
        *("counter", "rejected_writes", "{write}", "Replayed writes that became conflicts"),
        lambda health, report: _one(report.rejected),
    ),
    _Instrument(
        *("counter", "calls", "{call}", "Calls whose duration was measured"),
        lambda health, report: _by("operation", _measured(report, lambda one: sum(one.counts))),
    ),
    _Instrument(
        *("counter", "calls.duration", "s", "Seconds that these calls took in all"),
        lambda health, report: _by("operation", _measured(report, lambda one: one.sum_s)),
    ),
)
"""The instruments, without the prefix `standfast.` of their names."""


def observe(
    store: Store | AsyncStore,
    *,
    meter_provider: Any = None,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Make the metrics of an open store known to OpenTelemetry: once for each store.

    `meter_provider`: the provider, else the process's own; `attributes` stand on every number, and
    tell several stores apart.  What is collected is local knowledge: no collection waits for the
    database, and none changes anything.  A store that was closed, or is in use no more, has no
    numbers; it is not kept alive.

    Raises ConfigError("missing_extra") without the package opentelemetry-api.
    """
    try:
        # An extra, which is looked for when it is asked for.
        api: Any = import_module("opentelemetry.metrics")
    except ImportError:
        raise ConfigError(
            "the package `opentelemetry-api` is not installed",
            code="missing_extra",
            hint="pip install 'standfast[otel]'",
        ) from None
    calls = store.calls if isinstance(store, Store) else store
    handle = weakref.ref(calls.handle)
    meter = api.get_meter("standfast", library_version(), meter_provider=meter_provider)
    makers = {
        "gauge": meter.create_observable_gauge,
        "counter": meter.create_observable_counter,
    }
    for each in INSTRUMENTS:
        makers[each.kind](
            f"standfast.{each.name}",
            callbacks=[_callback(each, handle, dict(attributes or {}), api.Observation)],
            unit=each.unit,
            description=each.text,
        )


def _callback(
    instrument: _Instrument,
    handle: weakref.ref[StoreHandle],
    attributes: dict[str, str],
    observation: Callable[[float, dict[str, str]], Any],
) -> Callable[[Any], list[Any]]:
    def observed(_: Any) -> list[Any]:
        there = handle()
        if there is None:
            return []
        try:
            engine = there.engine
            engine.require_open()
            values = instrument.values(engine.health(), engine.report())
        except StandfastError:  # it was closed
            return []
        return [observation(value, {**attributes, **more}) for value, more in values]

    return observed
