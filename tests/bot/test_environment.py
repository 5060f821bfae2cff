"""Environments: what the variables of common hosts mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from standfast import ConfigError
from standfast.bot import BotStore, Environment
from support.bots import Home

PRODUCTION = Environment("production")
DEVELOPMENT = Environment("development")
LIMITED = Environment("development", "7")


@pytest.mark.parametrize(
    ("variables", "name", "dev_guild"),
    [
        ({}, None, None),
        ({"STANDFAST_ENVIRONMENT": " "}, None, None),
        ({"STANDFAST_ENVIRONMENT": "Staging"}, "staging", None),
        ({"STANDFAST_ENVIRONMENT": "prod"}, "production", None),
        ({"STANDFAST_ENVIRONMENT": '"main"'}, "production", None),
        ({"RAILWAY_ENVIRONMENT_NAME": "production"}, "production", None),
        ({"RAILWAY_ENVIRONMENT": "pr-12"}, "pr-12", None),
        ({"RAILWAY_ENVIRONMENT_NAME": "dev", "RAILWAY_ENVIRONMENT": "main"}, "dev", None),
        ({"VERCEL_ENV": "preview"}, "preview", None),
        ({"RENDER": "true"}, "production", None),
        ({"RENDER": "true", "IS_PULL_REQUEST": "true"}, "development", None),
        ({"RENDER": "true", "IS_PULL_REQUEST": "false"}, "production", None),
        ({"RENDER": "false"}, None, None),
        ({"DEV_GUILD_ID": "7"}, "development", "7"),
        ({"DEV_GUILD_ID": "7", "RENDER": "true"}, "production", "7"),
        ({"STANDFAST_ENVIRONMENT": "test", "RENDER": "true"}, "test", None),
    ],
)
def test_what_the_variables_mean(
    variables: dict[str, str], name: str | None, dev_guild: str | None
) -> None:
    """STANDFAST_ENVIRONMENT comes first, then the host's variable, then DEV_GUILD_ID."""
    assert Environment.detect(variables) == Environment(name, dev_guild)


def test_production_has_three_names() -> None:
    """`production`, `main` and `prod` are one environment, in any case; no other is."""
    for name in ("production", "Main", " PROD "):
        assert Environment(name) == PRODUCTION
        assert Environment(name).is_production
    assert not Environment("preview").is_production
    assert not Environment().is_production


def test_only_a_process_outside_production_is_limited() -> None:
    """A dev guild limits every process but that of production."""
    assert LIMITED.only_guild == "7"
    assert Environment(None, "7").only_guild == "7"
    assert Environment("production", "7").only_guild is None
    assert DEVELOPMENT.only_guild is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Environment(""),
        lambda: Environment("a\nb"),
        lambda: Environment("x" * 65),
        lambda: Environment("x", "none"),
        lambda: Environment.detect({"DEV_GUILD_ID": "my guild"}),
        lambda: Environment.detect({"RAILWAY_ENVIRONMENT_NAME": "x" * 65}),
    ],
)
def test_what_names_no_environment_is_refused(make: Callable[[], Environment]) -> None:
    """A name or a guild that is none is a ConfigError before anything is read or written."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.code == "bad_environment"
    assert caught.value.hint


def test_the_environment_of_the_process_is_the_default(
    embedded: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without environment=, the variables of the process tell it."""
    monkeypatch.setenv("RAILWAY_ENVIRONMENT_NAME", "main")
    bot = BotStore(embedded.store())
    assert bot.environment == PRODUCTION
    assert repr(bot).endswith(", 'production')")
