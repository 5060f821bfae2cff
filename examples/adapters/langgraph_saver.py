"""A LangGraph checkpointer on standfast, for `graph.ainvoke`: it keeps working in an outage.

    async with standfast.open_async() as store:
        graph = builder.compile(checkpointer=StandfastSaver(store))

A checkpoint is one document, `<thread>/<namespace>/<id>`; pending writes are members of it.  Under
`<thread>/<namespace>/` is the id of the latest one, so that a thread goes on from what this machine
knows while PostgreSQL is away.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any
from urllib.parse import quote, unquote

from langgraph.checkpoint import base

import standfast


class StandfastSaver(base.BaseCheckpointSaver[int]):
    """Checkpoints in one collection of a store."""

    def __init__(self, store: standfast.AsyncStore, name: str = "checkpoints") -> None:
        super().__init__()
        self._store, self._rows = store, store[name]

    async def aget_tuple(self, config: Any) -> base.CheckpointTuple | None:
        """One checkpoint, the latest without an id."""
        line, number = _line(config), config["configurable"].get("checkpoint_id")
        key = f"{line}/{number or await self._rows.get(f'{line}/', '')}"
        row = await self._rows.get(key)
        if not number and row is None and (last := await self._rows.last(prefix=f"{line}/")):
            key, row = last.key, last.value  # the latest was deleted
        return self._tuple(key, row) if isinstance(row, dict) and "checkpoint" in row else None

    async def alist(
        self, config: Any, *, filter: Any = None, before: Any = None, limit: int | None = None
    ) -> Any:
        """Checkpoints of a thread, the latest first."""
        end = before["configurable"]["checkpoint_id"] if before else None
        wanted = config["configurable"].get("checkpoint_id") if config else None
        async for key, row in self._rows.items(prefix=_prefix(config), reverse=True):
            number = key.rpartition("/")[2]
            if not number or "checkpoint" not in row or wanted not in (None, number):
                continue
            found = self._tuple(key, row)
            if (end and number >= end) or not (filter or {}).items() <= found.metadata.items():
                continue
            if limit is not None and (limit := limit - 1) < 0:
                return
            yield found

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        """Store a checkpoint, without asking whether there is one: that works in an outage too."""
        line, metadata = _line(config), base.get_checkpoint_metadata(config, metadata)
        row = {"checkpoint": self._pack(checkpoint), "metadata": self._pack(metadata)}
        row["parent"] = config["configurable"].get("checkpoint_id")
        async with self._store.batch() as batch:
            batch.put(self._rows.name, f"{line}/{checkpoint['id']}", row)
            batch.put(self._rows.name, f"{line}/", checkpoint["id"])
        return _config(f"{line}/{checkpoint['id']}")

    async def aput_writes(
        self, config: Any, writes: Any, task_id: str, task_path: str = ""
    ) -> None:
        """Store pending writes of a task, each in a place of its own."""
        key = f"{_line(config)}/{config['configurable']['checkpoint_id']}"
        async with self._store.batch() as batch:
            for index, (channel, value) in enumerate(writes):
                number = base.WRITES_IDX_MAP.get(channel, index)
                entry = [task_path, task_id, number, channel, *self._pack(value)]
                place = f"/writes/{quote(task_id, safe='')}:{number:+05}"
                batch.set(self._rows.name, key, place, entry)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete a thread."""
        await self._rows.delete(prefix=f"{quote(thread_id, safe='')}/")

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread."""
        source, target = (quote(each, safe="") for each in (source_thread_id, target_thread_id))
        found = [pair async for pair in self._rows.items(prefix=f"{source}/")]
        await self._rows.put_many({target + key.removeprefix(source): row for key, row in found})

    async def adelete_for_runs(self, run_ids: Any) -> None:
        """Delete the checkpoints of runs."""
        found = [each async for each in self.alist(None) if each.metadata.get("run_id") in run_ids]
        await self._rows.delete_many(map(_key, found))

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        """Delete threads, or all but the latest checkpoint of each of their namespaces."""
        for thread in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread)
            keys = [_key(e) async for e in self.alist({"configurable": {"thread_id": thread}})]
            kept = {key.rpartition("/")[0]: key for key in sorted(keys)}
            await self._rows.delete_many(set(keys) - set(kept.values()))

    def _pack(self, value: Any) -> list[str]:
        kind, data = self.serde.dumps_typed(value)
        return [kind, b64encode(data).decode()]

    def _load(self, packed: list[str]) -> Any:
        return self.serde.loads_typed((packed[0], b64decode(packed[1])))

    def _tuple(self, key: str, row: dict[str, Any]) -> base.CheckpointTuple:
        writes = sorted(row.get("writes", {}).values(), key=lambda entry: entry[:3])
        return base.CheckpointTuple(
            config=_config(key),
            checkpoint=self._load(row["checkpoint"]),
            metadata=self._load(row["metadata"]),
            parent_config=_config(f"{key.rpartition('/')[0]}/{row['parent']}")
            if row.get("parent")
            else None,
            pending_writes=[(entry[1], entry[3], self._load(entry[4:])) for entry in writes],
        )


def _prefix(config: Any) -> str:
    """What the keys of a thread begin with, or those of one of its namespaces."""
    place = config["configurable"] if config else {}
    names = [place[name] for name in ("thread_id", "checkpoint_ns") if name in place]
    return "".join(f"{quote(str(name), safe='')}/" for name in names)


def _line(config: Any) -> str:
    return _prefix({"configurable": {"checkpoint_ns": "", **config["configurable"]}})[:-1]


def _config(key: str) -> Any:
    names = ("thread_id", "checkpoint_ns", "checkpoint_id")
    return {"configurable": dict(zip(names, map(unquote, key.split("/")), strict=True))}


def _key(found: base.CheckpointTuple) -> str:
    return f"{_line(found.config)}/{found.checkpoint['id']}"
