"""What the documents say, against the program: commands, options, files, links, tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.cli.main import app
from launcher.recipe.parse import load_recipe
from tests.docs.pages import DOCS, PAGES, PROMPT, blocks, launcher_commands, lines_of, name_of, type_command
from tests.harness.runs import ROOT
from tests.test_layers import render_rooms

README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
TOP = "launcher|shards|tests|docs|recipes|slurm|benchmarks|\\.ci"
PROGRAM_FILE = re.compile(rf"(?<![\w/.-])((?:{TOP})/[\w./*-]+|[\w/-]+\.py)\b")
COMMANDS = [(name_of(page), " ".join(words), words) for page in PAGES for words in launcher_commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_project_that_a_page_names_are_there(page: Path) -> None:
    """From the top, or from `tests/`."""
    names = {name.rstrip("/.") for name in PROGRAM_FILE.findall(page.read_text())}
    missing = {name for name in names if not any(any(base.glob(name)) for base in (ROOT, ROOT / "tests", page.parent))}
    assert missing == set()


@pytest.mark.parametrize(("page", "text", "words"), COMMANDS, ids=[f"{page}:{text}" for page, text, _ in COMMANDS])
def test_commands_and_options_are_the_programs(page: str, text: str, words: list[str]) -> None:
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(("page", "text", "words"), COMMANDS, ids=[f"{page}:{text}" for page, text, _ in COMMANDS])
def test_keys_on_the_command_line_are_recipes(page: str, text: str, words: list[str]) -> None:
    files = [word for word in words if word.startswith("recipes/") and word.endswith(".yaml")]
    if not files or "--search" in words or text in SHOWN:
        return
    load_recipe(ROOT / files[0], [word for word in words if re.match(r"[a-z_.0-9]+=", word)])


SHOWN = {
    line.removeprefix(PROMPT).removeprefix("launcher "): block.splitlines()[1:]
    for page in PAGES
    for block in blocks(page)
    for line in lines_of(block)[:1]
    if line.startswith(PROMPT)
}
"""Command -> what the page says it prints."""


@pytest.mark.parametrize("arguments", SHOWN)
def test_a_command_prints_what_the_page_shows(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    ended = type_command(f"launcher {arguments}", tmp_path)
    assert (ended.out + ended.err).splitlines() == SHOWN[arguments]


def test_the_readme_is_short_and_lists_every_command() -> None:
    text = README.read_text()
    assert len(text) <= 12_000
    listed = set(re.findall(r"^\| `launcher ([a-z-]+)[ `]", text, re.MULTILINE))
    assert listed == {name for name in app if not name.startswith("-")}


def test_the_table_of_rooms_is_that_of_the_test() -> None:
    table = re.search(r"<!-- rooms -->\n(.*?)<!-- /rooms -->", CONTRIBUTING.read_text(), re.DOTALL)
    assert table is not None
    assert table[1] == render_rooms(), "python -m tests.test_layers prints it"


def test_the_glossary_is_one_screen() -> None:
    glossary = CONTRIBUTING.read_text().partition("## Glossary")[2]
    assert 20 < len(glossary.splitlines()) <= 40


def test_pictures_of_the_gallery_are_small() -> None:
    pictures = [DOCS / name for name in re.findall(r"!\[.*?\]\((.*?)\)", (DOCS / "gallery.md").read_text())]
    assert pictures
    assert [path.name for path in pictures if path.stat().st_size > 200_000 and path.name != "augmented.png"] == []
