"""Which files of a directory are taken, and which are left out: listed, never silently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from standfast.errors import ConfigError
from standfast.migrate.find_files import Found, find_files
from support.moving import Place


def find(root: Path, *names: str, recursive: bool = False) -> Found:
    paths = [root / name for name in names] or [root]
    return find_files(paths, recursive=recursive, data_dir=root / "storage")


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def taken(found: Found, root: Path) -> list[str]:
    return [str(path.relative_to(root.resolve())) for path in found.files]


def reasons(found: Found, root: Path) -> dict[str, str]:
    return {str(each.path.relative_to(root)): each.reason for each in found.left_out}


def test_a_directory_is_taken_flat(tmp_path: Path) -> None:
    """The JSON files that lie in a directory itself are taken, in the order of their names."""
    touch(tmp_path, "b.json", "a.jsonl", "C.JSON", "d.ndjson", "deep/e.json", "f.json.bak", "g.txt")
    found = find(tmp_path)
    assert taken(found, tmp_path) == ["C.JSON", "a.jsonl", "b.json", "d.ndjson"]
    assert found.from_directory
    assert {
        path: reason.partition(";")[0] for path, reason in reasons(found, tmp_path).items()
    } == {"deep": "a folder"}


def test_recursive_descends(tmp_path: Path) -> None:
    """--recursive takes the files of the folders below too."""
    touch(tmp_path, "b.json", "x/a.json", "x/y/c.json")
    found = find(tmp_path, recursive=True)
    assert taken(found, tmp_path) == ["b.json", "x/a.json", "x/y/c.json"]


CONFIGURATION = [
    *("package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json", "config.json"),
    *("jest.config.json", "guild.schema.json", "Config.JSON", "appsettings.json", "vercel.json"),
]
CREDENTIALS = [
    *("credentials.json", "secrets.json", "token.json", "bot_token.json", "api_keys.json"),
    *("client-secret.json", "google_service_account.json", "auth.json", "PASSWORDS.json"),
    *("private-key.json", "apikey.json"),
]
STATE = ["tokenizer.json", "authors.json", "secretary.json", "configs.json", "packages.json"]


def test_configuration_and_credentials_are_left_out_and_listed(tmp_path: Path) -> None:
    """What is no state of a program is not swept up with it; every such file is told."""
    touch(tmp_path, ".hidden.json", "views.json", *CONFIGURATION, *CREDENTIALS, *STATE)
    found = find(tmp_path)
    assert taken(found, tmp_path) == sorted(["views.json", *STATE])
    expected = {".hidden.json": "a dot-file"}
    expected |= dict.fromkeys(CONFIGURATION, "a well-known configuration file")
    expected |= dict.fromkeys(CREDENTIALS, "its name looks like credentials")
    assert reasons(found, tmp_path) == expected


def test_folders_that_hold_no_state_are_left_out_and_listed(tmp_path: Path) -> None:
    """The data directory, dot-folders, dependencies and links to directories are not searched."""
    touch(tmp_path, "a.json", "elsewhere/z.json")
    for folder in ("storage", ".git", "node_modules", "venv", "dist", "__pycache__"):
        touch(tmp_path, f"{folder}/b.json")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = find(tmp_path, recursive=True)
    assert taken(found, tmp_path) == ["a.json", "elsewhere/z.json"]
    assert reasons(found, tmp_path) == {
        ".git": "a dot-folder",
        "__pycache__": "a folder of dependencies or builds",
        "dist": "a folder of dependencies or builds",
        "link": "a link to a directory",
        "loop": "a link to a directory",
        "node_modules": "a folder of dependencies or builds",
        "storage": "the data directory; in it is what standfast did not write: name it to move it:"
        f" {tmp_path / 'storage' / 'b.json'}",
        "venv": "a folder of dependencies or builds",
    }


def test_naming_a_file_takes_it(tmp_path: Path) -> None:
    """A file that is named itself is taken, whatever its name looks like."""
    touch(tmp_path, "config.json", ".git/token.json", "state.txt")
    found = find(tmp_path, "config.json", ".git/token.json", "state.txt")
    assert taken(found, tmp_path) == ["config.json", ".git/token.json", "state.txt"]
    assert not found.from_directory


def test_the_data_directory_may_be_migrated_but_never_its_backups(tmp_path: Path) -> None:
    """JSON files may lie in the data directory; the backups of earlier runs are never sources."""
    touch(tmp_path, "storage/a.json", "storage/migration_backups/20260101-000000-abcd/a.json")
    found = find(tmp_path, "storage", recursive=True)
    assert taken(found, tmp_path) == ["storage/a.json"]
    assert reasons(found, tmp_path) == {"storage/migration_backups": "the backups of earlier runs"}
    with pytest.raises(ConfigError, match="the backups of earlier runs") as caught:
        find(tmp_path, "storage/migration_backups/20260101-000000-abcd")
    assert caught.value.code == "no_json"


def test_a_path_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    """A missing path and a link to one are errors that name them."""
    with pytest.raises(ConfigError, match=r"(?m)no such file or directory: .*gone\.json$"):
        find(tmp_path, "gone.json")
    (tmp_path / "link.json").symlink_to("gone.json")
    with pytest.raises(ConfigError, match=r"(?m)link\.json \(a link to gone\.json\)$") as caught:
        find(tmp_path, "link.json")
    assert caught.value.code == "no_such_file"


def test_a_directory_without_json_is_an_error_that_tells_what_it_left_out(tmp_path: Path) -> None:
    """An empty plan is no success: the error lists what was left out and why."""
    with pytest.raises(ConfigError, match="no JSON files in") as caught:
        find(tmp_path)
    assert "--recursive" in caught.value.hint
    touch(tmp_path, "config.json", *[f"token_{number}.json" for number in range(9)])
    with pytest.raises(ConfigError) as caught:
        find(tmp_path)
    assert "config.json (a well-known configuration file), " in caught.value.message
    assert caught.value.message.endswith("and 5 more")


def test_a_broken_link_among_others_is_listed(tmp_path: Path) -> None:
    """A link whose file is gone is told, not skipped."""
    touch(tmp_path, "a.json")
    (tmp_path / "b.json").symlink_to("gone.json")
    found = find(tmp_path)
    assert taken(found, tmp_path) == ["a.json"]
    assert reasons(found, tmp_path) == {"b.json": "a link to a file that does not exist"}


def test_a_link_to_itself_among_others_is_listed(tmp_path: Path) -> None:
    """It stopped the migration of the whole folder, with the advice to free space."""
    touch(tmp_path, "a.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "folder").symlink_to("folder")
    for recursive in (False, True):
        found = find(tmp_path, recursive=recursive)
        assert taken(found, tmp_path) == ["a.json"]
        assert reasons(found, tmp_path) == {"loop.json": "a link to a file that does not exist"}


def test_an_unreadable_directory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that cannot be listed is an error, not an empty one."""

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    touch(tmp_path, "a.json")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"cannot read directory .*: Permission denied"):
        find(tmp_path)


def test_what_was_left_out_is_part_of_the_plan(embedded: Place) -> None:
    """The plan carries the list, so that every caller can show it."""
    touch(embedded.root, "views.json", "config.json")
    plan = embedded.plan(embedded.root)
    assert [each.path.name for each in plan.found.left_out] == ["config.json"]
    assert [source.collection for source in plan.sources] == ["views"]
