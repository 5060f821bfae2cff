"""How the documentation site is built: `make docs`."""

from __future__ import annotations

import re
from os.path import relpath
from pathlib import Path
from typing import Any

import standfast

HERE = Path(__file__).parent

project = "standfast"
author = "The standfast authors"
copyright = "The standfast authors"
version = release = standfast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"standfast {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

# Headings get anchors, so that pages can link to each other's sections as they do on a code host.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# Docstrings write code between single backticks.
default_role = "code"
nitpicky = False
# `--yes` stays two hyphens, and quotes are those that can be copied.
smartquotes = False

# Prompts and output are not copied.
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

#: Pages of the site whose text stands elsewhere in the project.
ELSEWHERE = {
    "architecture": "ARCHITECTURE.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "vulnerabilities": "SECURITY.md",
    "examples/drop_in": "examples/drop_in/README.md",
    "examples/tournament_bot": "examples/tournament_bot/README.md",
}
_PAGE_OF = {(HERE.parent / path).resolve(): HERE / page for page, path in ELSEWHERE.items()}
_PAGE_OF[HERE.parent / "README.md"] = HERE / "index"
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")


def inside(app: Any, page: str, source: list[str]) -> None:
    """Links are right where the text is read as a file; on the site, they lead to its pages."""
    if page not in ELSEWHERE and "](../" not in source[0]:
        return
    file = HERE.parent / ELSEWHERE[page] if page in ELSEWHERE else HERE / f"{page}.md"

    def target(found: re.Match[str]) -> str:
        named = (file.parent / found[1]).resolve()
        there = _PAGE_OF.get(named, named)
        if there.suffix != ".md":
            there = there.with_name(there.name + ".md")
        return f"]({relpath(there, (HERE / page).parent)}{found[2] or ''})"

    source[0] = _LINK.sub(target, file.read_text(encoding="utf-8"))


def plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A docstring's prose has no markup but backticks: nothing else in it is taken for markup."""
    for index, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*|_\\])", r"\\\1", part) for part in parts[::2]]
        lines[index] = "`".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", inside)
    app.connect("autodoc-process-docstring", plain)
