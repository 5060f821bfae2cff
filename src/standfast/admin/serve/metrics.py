"""What was seen last as Prometheus metrics, in the text format.

Counters are those of the processes that have the store open, one series each (label `pid`).  An
embedded store writes no reports: what `serve` itself sees of its file stands in their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from standfast.admin.evidence import DatabaseFile
from standfast.admin.serve.watcher import Snapshot
from standfast.admin.status import Status
from standfast.engine.activity import LATENCY_BOUNDS_S, Latencies, Report

STATES = ("direct", "draining", "journaling", "other_database", "went_back", "journal_old")


def render(snapshot: Snapshot) -> bytes:
    """The metrics of a snapshot."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(snapshot))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        status, evidence = self._snapshot.status, self._snapshot.evidence
        yield _gauge(
            "standfast_looked_at_seconds", "When the store was looked at.", self._snapshot.at
        )
        if status is not None:
            yield from _status(status)
        if evidence is not None and isinstance(evidence.database_file, DatabaseFile):
            yield from _file(evidence.database_file)
        elif evidence is not None and evidence.settings.target.kind != "sqlite":
            yield from _reports([one.report for one in evidence.alive])
        documents = GaugeMetricFamily(
            "standfast_documents", "Documents of a collection.", labels=["collection"]
        )
        for name, count in self._snapshot.documents.items():
            if count is not None:
                documents.add_metric([name], count)
        yield documents


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _status(status: Status) -> Iterator[Metric]:
    versions = status.versions
    yield InfoMetricFamily(
        "standfast",
        "Versions.",
        value={"version": versions.library, "server": versions.server or "", "kind": status.kind},
    )
    yield _gauge("standfast_safe", "1: nothing has to be done now.", status.safe)
    yield _gauge("standfast_primary_up", "1: the primary answers.", status.code is None)
    state = GaugeMetricFamily("standfast_state", "1 for the state it is in.", labels=["state"])
    for name in STATES:
        state.add_metric([name], status.state == name)
    yield state
    yield _gauge("standfast_pending_writes", "Writes that wait for the primary.", status.lag_ops)
    yield _gauge("standfast_pending_bytes", "JSON bytes of these writes.", status.lag_bytes)
    yield _gauge("standfast_pending_age_seconds", "Age of the oldest of them.", status.lag_s)
    yield _gauge("standfast_spooled_writes", "How many of them are in the spool.", status.spooled)
    if status.kind != "sqlite":  # not known of an embedded one
        yield _gauge("standfast_processes", "Processes that have it open.", len(status.processes))
    yield _gauge("standfast_backups", "Backups in the data directory.", status.backups)
    failed = status.failed_backups
    yield _gauge("standfast_failed_backups", "Scheduled backups that failed in a row.", failed)
    if status.backup_verified_at is not None:
        verified = datetime.fromisoformat(status.backup_verified_at).timestamp()
        text = "When the newest good backup was verified."
        yield _gauge("standfast_backup_verified_timestamp_seconds", text, verified)
    runs = len(status.runs)
    yield _gauge("standfast_unfinished_migrations", "Migrations that have not ended.", runs)
    if status.conflicts is not None:
        conflicts = GaugeMetricFamily("standfast_conflicts", "Conflicts.", labels=["state"])
        for name in sorted({"open", *status.conflicts}):
            conflicts.add_metric([name], status.conflicts.get(name, 0))
        yield conflicts
    if status.disk is not None:
        disk = status.disk
        yield _gauge("standfast_disk_free_bytes", "Free on the data directory's disk.", disk.free)
        yield _gauge("standfast_journal_file_bytes", "Size of the journal's files.", disk.journal)
        limit = disk.max_journal_ops
        yield _gauge("standfast_journal_limit_writes", "Writes the journal may hold.", limit)


def _file(found: DatabaseFile) -> Iterator[Metric]:
    """What is seen of an embedded database from outside the process that writes it."""
    text = "Size of the embedded database's file and its log."
    yield _gauge("standfast_database_file_bytes", text, found.bytes)
    if found.changed_at is not None:
        text = "When that file or its log last changed: by a write, or by clean-up."
        yield _gauge("standfast_database_file_changed_timestamp_seconds", text, found.changed_at)


def _reports(reports: list[Report]) -> Iterator[Metric]:
    writes = CounterMetricFamily(
        "standfast_writes", "Writes by where they became durable.", labels=["pid", "durable_on"]
    )
    reads = CounterMetricFamily(
        "standfast_reads", "Reads by what answered them.", labels=["pid", "source"]
    )
    refused = CounterMetricFamily(
        "standfast_refused_writes", "Writes that were refused.", labels=["pid", "code"]
    )
    rejected = CounterMetricFamily(
        "standfast_rejected_writes", "Replayed writes that became conflicts.", labels=["pid"]
    )
    outages = CounterMetricFamily("standfast_outages", "Outages of the primary.", labels=["pid"])
    write_s = HistogramMetricFamily(
        "standfast_write_duration_seconds", "How long writes took.", labels=["pid"]
    )
    read_s = HistogramMetricFamily(
        "standfast_read_duration_seconds", "How long reads of the primary took.", labels=["pid"]
    )
    for one in reports:
        pid = f"{one.pid}/{one.id[:8]}"
        for name, count in one.writes.items():
            writes.add_metric([pid, name], count)
        for name, count in one.reads.items():
            reads.add_metric([pid, name], count)
        for name, count in one.refused.items():
            refused.add_metric([pid, name], count)
        rejected.add_metric([pid], one.rejected)
        outages.add_metric([pid], len(one.outages))
        _add(write_s, pid, one.write_latency)
        _add(read_s, pid, one.read_latency)
    yield from (writes, reads, refused, rejected, outages, write_s, read_s)


def _add(family: HistogramMetricFamily, pid: str, latencies: Latencies) -> None:
    total = 0.0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*LATENCY_BOUNDS_S, float("inf")), latencies.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
    family.add_metric([pid], buckets, latencies.sum_s)
