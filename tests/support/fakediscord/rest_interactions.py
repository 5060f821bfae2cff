"""REST routes of interactions: first answers, and what follows with their tokens."""

from __future__ import annotations

from typing import Any

from support.fakediscord import payloads
from support.fakediscord.interactions import KINDS, Interaction
from support.fakediscord.messages import FakeMessage, numbered
from support.fakediscord.protocol import (
    AUTOCOMPLETE,
    CHOICES,
    DEFERRED,
    DEFERRED_UPDATE,
    EPHEMERAL,
    LOADING,
    MESSAGE,
    MODAL,
    MODAL_SUBMIT,
    TOKEN_LIFE_S,
    UPDATE,
    ApiError,
    Json,
    invalid_form,
    unknown,
)
from support.fakediscord.rest import Call, Routes

routes = Routes()

_WEBHOOK = "/webhooks/{app}/{token}"


@routes("POST /interactions/{interaction}/{token}/callback", token=False)
def answer(call: Call, interaction_id: str, token: str) -> Json | None:
    """The first answer, which Discord takes for a short time only, and once."""
    world = call.world
    interaction = world.interactions.get(token)
    if interaction is None or str(interaction.id) != interaction_id:
        raise unknown("interaction")
    if interaction.first is not None:
        raise ApiError(400, 40060, "Interaction has already been acknowledged.")
    after_s = world.now() - interaction.sent_at
    if after_s > world.answer_limit_s:
        interaction.late_s = after_s
        raise unknown("interaction")
    kind, data = call.body["type"], call.body.get("data") or {}
    _check_kind(interaction, kind)
    message = _first_message(call, interaction, kind, data)
    if kind == MODAL:
        data = {**data, "components": numbered(data["components"])}
    interaction.take(kind, message, data if kind == MODAL else None)
    if call.query.get("with_response", "").lower() not in ("1", "true"):
        return None
    return _callback_response(interaction, kind, message)


def _check_kind(interaction: Interaction, kind: int) -> None:
    """Refuse answers that Discord does not know for such an interaction."""
    allowed = kind in KINDS
    if kind in (DEFERRED_UPDATE, UPDATE):
        allowed = interaction.source is not None
    elif kind == MODAL:
        allowed = interaction.type != MODAL_SUBMIT
    if (kind == CHOICES) != (interaction.type == AUTOCOMPLETE):
        allowed = False
    if not allowed:
        raise invalid_form("type", "not an answer to this interaction")


def _first_message(
    call: Call, interaction: Interaction, kind: int, data: Json
) -> FakeMessage | None:
    """Make or edit the message that the answer is about."""
    if kind in (MESSAGE, DEFERRED):
        flags = LOADING if kind == DEFERRED else 0
        body = {"flags": data.get("flags")} if kind == DEFERRED else data
        return _create(call, interaction, body, flags=flags)
    if kind == UPDATE:
        source = interaction.source
        if source is None or source.deleted:
            raise unknown("message")
        call.world.messages.edit(source, data, files=call.files)
    return interaction.source if kind in (UPDATE, DEFERRED_UPDATE) else None


def _create(call: Call, interaction: Interaction, body: Json, *, flags: int = 0) -> FakeMessage:
    return call.world.messages.create(
        interaction.channel,
        call.world.bot,
        body,
        files=call.files,
        flags=flags,
        metadata=interaction.metadata(),
        reader=interaction.user,
    )


def _callback_response(interaction: Interaction, kind: int, message: FakeMessage | None) -> Json:
    about: Json = {"id": str(interaction.id), "type": interaction.type}
    resource: Json = {"type": kind}
    if message is not None:
        about |= {
            "response_message_id": str(message.id),
            "response_message_loading": message.loading,
            "response_message_ephemeral": message.ephemeral,
        }
        if kind in (MESSAGE, UPDATE):
            resource["message"] = payloads.message(message)
    return {"interaction": about, "resource": resource}


def _answered(call: Call, token: str) -> Interaction:
    """The interaction of a token that may be used for more."""
    interaction = call.world.interactions.get(token)
    if interaction is None or interaction.first is None:
        raise unknown("webhook")
    if call.world.now() - interaction.sent_at > TOKEN_LIFE_S:
        raise ApiError(401, 50027, "Invalid Webhook Token")
    return interaction


@routes(f"POST {_WEBHOOK}", token=False)
def follow_up(call: Call, app: str, token: str) -> Any:
    interaction = _answered(call, token)
    original = interaction.original
    if original is not None and original.loading and not original.deleted:
        # Discord takes the first follow-up to a deferred answer for the answer itself.
        flags = (call.body.get("flags") or 0) & ~EPHEMERAL
        call.world.messages.edit(original, {**call.body, "flags": flags}, files=call.files)
        message = original
    else:
        message = _create(call, interaction, call.body)
    interaction.results.append(message)
    return payloads.message(message)


def _token_message(call: Call, token: str, message_id: str) -> tuple[Interaction, FakeMessage]:
    """A message that may be handled with a token: @original, or one that was made with it."""
    interaction = _answered(call, token)
    if message_id == "@original":
        found = interaction.original
    else:
        known = [*interaction.results, interaction.original, interaction.source]
        found = next((m for m in known if m is not None and str(m.id) == message_id), None)
    if found is None or found.deleted:
        raise unknown("message")
    return interaction, found


@routes(f"GET {_WEBHOOK}/messages/{{message}}", token=False)
def get_message(call: Call, app: str, token: str, message_id: str) -> Json:
    return payloads.message(_token_message(call, token, message_id)[1])


@routes(f"PATCH {_WEBHOOK}/messages/{{message}}", token=False)
def edit_message(call: Call, app: str, token: str, message_id: str) -> Json:
    interaction, message = _token_message(call, token, message_id)
    call.world.messages.edit(message, call.body, files=call.files)
    interaction.results.append(message)
    return payloads.message(message)


@routes(f"DELETE {_WEBHOOK}/messages/{{message}}", token=False)
def delete_message(call: Call, app: str, token: str, message_id: str) -> None:
    call.world.messages.delete(_token_message(call, token, message_id)[1])
