"""What Discord refuses in a message: a bot that sends too much is to fail in a test, not live.

Source: Discord's developer documentation, "Message", "Embed Limits", "Component Reference".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from support.fakediscord.protocol import (
    ACTION_ROW,
    BUTTON,
    COMPONENTS_V2,
    SELECTS,
    ApiError,
    Json,
    invalid_form,
)

MAX_CONTENT = 2000
MAX_EMBEDS = 10
MAX_EMBED_TEXT = 6000
MAX_ROWS = 5
MAX_BUTTONS_IN_ROW = 5
MAX_CUSTOM_ID = 100
MAX_BUTTON_LABEL = 80
MAX_OPTIONS = 25
_EMBED_LIMITS = {"title": 256, "description": 4096}


def check_message(body: Json, flags: int, *, files: bool) -> None:
    """Raise the ApiError that Discord has for such a message, if any."""
    v2 = bool(flags & COMPONENTS_V2)
    holding = ["components", "attachments"] if v2 else ["content", "embeds", "attachments"]
    holding += ["sticker_ids", "poll"] + ([] if v2 else ["components"])
    if not files and not any(body.get(name) for name in holding):
        raise ApiError(400, 50006, "Cannot send an empty message")
    if v2 and (body.get("content") or body.get("embeds")):
        raise invalid_form("content", "not together with components of the second kind")
    if len(body.get("content") or "") > MAX_CONTENT:
        raise invalid_form("content", f"Must be {MAX_CONTENT} or fewer in length.")
    _check_embeds(body.get("embeds") or [])
    _check_components(body.get("components") or [], v2=v2)


def _check_embeds(embeds: Sequence[Json]) -> None:
    if len(embeds) > MAX_EMBEDS:
        raise invalid_form("embeds", f"Must be {MAX_EMBEDS} or fewer in length.")
    total = 0
    for embed in embeds:
        for name, limit in _EMBED_LIMITS.items():
            _check_length(f"embeds.{name}", embed.get(name) or "", limit)
        fields = embed.get("fields") or []
        _check_length("embeds.fields", fields, MAX_OPTIONS)
        for each in fields:
            for name, limit in (("name", 256), ("value", 1024)):
                if not each.get(name):
                    raise invalid_form(f"embeds.fields.{name}", "This field is required")
                _check_length(f"embeds.fields.{name}", each[name], limit)
                total += len(each[name])
        footer = (embed.get("footer") or {}).get("text") or ""
        author = (embed.get("author") or {}).get("name") or ""
        _check_length("embeds.footer.text", footer, 2048)
        _check_length("embeds.author.name", author, 256)
        total += len(footer) + len(author)
        total += sum(len(embed.get(name) or "") for name in _EMBED_LIMITS)
    if total > MAX_EMBED_TEXT:
        raise invalid_form("embeds", f"Embed size exceeds maximum size of {MAX_EMBED_TEXT}")


def _check_components(components: Sequence[Json], *, v2: bool) -> None:
    if not v2:
        _check_length("components", components, MAX_ROWS)
        if any(each["type"] != ACTION_ROW for each in components):
            raise invalid_form("components", "only action rows are allowed here")
    custom_ids: set[str] = set()
    for component in _every(components):
        if component["type"] == ACTION_ROW:
            width = len(component["components"])
            if not 1 <= width <= MAX_BUTTONS_IN_ROW:
                raise invalid_form("components", f"Must be between 1 and {MAX_BUTTONS_IN_ROW}")
        if component["type"] == BUTTON:
            _check_length("components.label", component.get("label") or "", MAX_BUTTON_LABEL)
        if component["type"] in SELECTS:
            _check_length("components.options", component.get("options") or [], MAX_OPTIONS)
        custom_id = component.get("custom_id")
        if custom_id is not None:
            _check_length("components.custom_id", custom_id, MAX_CUSTOM_ID)
            if custom_id in custom_ids:
                raise invalid_form("components", "Component custom id cannot be duplicated")
            custom_ids.add(custom_id)


def _every(components: Sequence[Json]) -> Iterator[Json]:
    for component in components:
        yield component
        yield from _every(component.get("components", ()))
        if "accessory" in component:
            yield component["accessory"]


def _check_length(field: str, value: Sequence[object], limit: int) -> None:
    if len(value) > limit:
        raise invalid_form(field, f"Must be {limit} or fewer in length.")
