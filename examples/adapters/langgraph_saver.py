"""A LangGraph checkpointer on standfast, for `graph.ainvoke`: it keeps working in an outage.

    async with standfast.open_async() as store:
        graph = builder.compile(checkpointer=StandfastSaver(store))

A checkpoint is one document, `<thread>/<namespace>/<checkpoint id>`; pending writes are members of
it.  Which checkpoint of a thread is the latest is a document of its own, so that a thread can go on
from what this machine knows while PostgreSQL is away.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any
from urllib.parse import quote, unquote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)

import standfast


class StandfastSaver(BaseCheckpointSaver[int]):
    """Checkpoints in the collections `<name>` and `<name>_latest` of a store."""

    def __init__(self, store: standfast.AsyncStore, name: str = "checkpoints") -> None:
        super().__init__()
        self._store, self._rows, self._latest = store, store[name], store[f"{name}_latest"]

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """One checkpoint, the latest without an id."""
        line, wanted = _line(config), config["configurable"].get("checkpoint_id")
        wanted = wanted or await self._latest.get(line)
        row = await self._rows.get(f"{line}/{wanted}") if wanted else None
        return self._tuple(f"{line}/{wanted}", row) if row and "checkpoint" in row else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints of a thread, the latest first."""
        end = before["configurable"]["checkpoint_id"] if before else None
        wanted = config["configurable"].get("checkpoint_id") if config else None
        async for key, row in self._rows.items(prefix=_prefix(config), reverse=True):
            number = key.rpartition("/")[2]
            if "checkpoint" not in row or (end and number >= end) or wanted not in (None, number):
                continue
            found = self._tuple(key, row)
            if any(found.metadata.get(name) != value for name, value in (filter or {}).items()):
                continue
            if limit is not None and limit <= 0:
                return
            limit = None if limit is None else limit - 1
            yield found

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, without asking whether there is one: that works in an outage too."""
        line, rows = _line(config), self._rows.name
        key = f"{line}/{checkpoint['id']}"
        async with self._store.batch() as batch:
            row = {
                "checkpoint": self._pack(checkpoint),
                "metadata": self._pack(get_checkpoint_metadata(config, metadata)),
                "parent": config["configurable"].get("checkpoint_id"),
            }
            batch.put(rows, key, row)
            batch.put(self._latest.name, line, checkpoint["id"])
        return _config(key)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store pending writes of a task, each in a place of its own."""
        key = f"{_line(config)}/{config['configurable']['checkpoint_id']}"
        async with self._store.batch() as batch:
            for index, (channel, value) in enumerate(writes):
                number = WRITES_IDX_MAP.get(channel, index)
                place = f"/writes/{quote(task_id, safe='')}:{number:+05}"
                entry = [task_path, task_id, number, channel, *self._pack(value)]
                batch.set(self._rows.name, key, place, entry)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread."""
        for rows in (self._rows, self._latest):
            await rows.delete(prefix=f"{quote(thread_id, safe='')}/")

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread."""
        source, target = (quote(each, safe="") for each in (source_thread_id, target_thread_id))
        for rows in (self._rows, self._latest):
            found = [pair async for pair in rows.items(prefix=f"{source}/")]
            await rows.put_many({target + key.removeprefix(source): row for key, row in found})

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs."""
        await self._delete(
            [found async for found in self.alist(None) if found.metadata.get("run_id") in run_ids]
        )

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete threads, or all but the latest checkpoint of each of their namespaces."""
        for thread in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread)
                continue
            config: RunnableConfig = {"configurable": {"thread_id": thread}}
            found = [each async for each in self.alist(config)]
            kept = {_line(each.config): each for each in reversed(found)}
            await self._delete([each for each in found if kept[_line(each.config)] is not each])

    async def _delete(self, found: Iterable[CheckpointTuple]) -> None:
        ids = [f"{_line(e.config)}/{e.checkpoint['id']}" for e in found]
        await self._rows.delete_many(ids)
        for line in {key.rpartition("/")[0] for key in ids}:
            last = await self._rows.last(prefix=f"{line}/")
            if last is None:
                await self._latest.delete(line)
            else:
                await self._latest.put(line, last.key.rpartition("/")[2])

    def _pack(self, value: Any) -> list[str]:
        kind, data = self.serde.dumps_typed(value)
        return [kind, b64encode(data).decode()]

    def _load(self, packed: Sequence[str]) -> Any:
        return self.serde.loads_typed((packed[0], b64decode(packed[1])))

    def _tuple(self, key: str, row: dict[str, Any]) -> CheckpointTuple:
        writes = sorted(row.get("writes", {}).values(), key=lambda entry: entry[:3])
        parent = f"{key.rpartition('/')[0]}/{row['parent']}" if row.get("parent") else None
        return CheckpointTuple(
            config=_config(key),
            checkpoint=self._load(row["checkpoint"]),
            metadata=self._load(row["metadata"]),
            parent_config=_config(parent) if parent else None,
            pending_writes=[(entry[1], entry[3], self._load(entry[4:])) for entry in writes],
        )


def _line(config: RunnableConfig) -> str:
    """Where the checkpoints of a thread and a namespace are."""
    place = config["configurable"]
    names = (place["thread_id"], place.get("checkpoint_ns", ""))
    return "/".join(quote(str(name), safe="") for name in names)


def _prefix(config: RunnableConfig | None) -> str:
    if config is None:
        return ""
    if "checkpoint_ns" in config["configurable"]:
        return _line(config) + "/"
    return quote(str(config["configurable"]["thread_id"]), safe="") + "/"


def _config(key: str) -> RunnableConfig:
    thread, space, number = (unquote(part) for part in key.split("/"))
    place = {"thread_id": thread, "checkpoint_ns": space, "checkpoint_id": number}
    return {"configurable": place}
