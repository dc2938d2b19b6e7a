"""What MkDocs is told about this repository (mkdocs.yml names this file as a hook); `make site` builds the pages.

docs/*.md stay plain Markdown that reads well where it lies. Of them the site makes:

- the navigation, from the headings and lists of docs/index.md, so that the order of pages stands in one place;
- a page for every file outside docs/ that a page links to: Markdown as Markdown, all else as highlighted text;
- the API reference: a page for every module that docs/api.md links to, with all that is public in it;
- for each page a description, its first paragraph, which search engines and links to the page show.
"""

from __future__ import annotations

import ast
import html
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"
LANGUAGES = {".yaml": "yaml", ".py": "python", ".json": "json", ".toml": "toml", ".sh": "bash", ".sbatch": "bash"}
_FENCE = re.compile(r"^ *(```|~~~)")
_FENCE_WORDS = re.compile(r"^( *```\w+) .*$", re.MULTILINE)  # beside the language: words for a test that runs the code
_NAMED = re.compile(r"^<!-- file: (\S+) -->\n( *```\w+)[^\n]*$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?![a-z+]+:|#)([^)\s#]+)(?=[)#\s])")
_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)#]+)\)")
_ITEM = re.compile(r"^(?:[-*+]|\d+\.) ")
_MARK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[`*]")
_DESCRIBED = 200  # characters of a description, about what is shown of one


def prose(text: str) -> Iterator[tuple[bool, str]]:
    """(whether it is prose and not code in a fence, line) of each line of Markdown."""
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if fence:
            yield False, line
            fence = "" if mark and mark[1] == fence else fence
        else:
            fence = mark[1] if mark else ""
            yield not mark, line


def links(path: str) -> Iterator[str]:
    """What a Markdown file links to in the repository: paths from its root."""
    for is_prose, line in prose((ROOT / path).read_text(encoding="utf-8")):
        for target in _LINK.findall(line) if is_prose else ():
            yield posixpath.normpath(posixpath.join(posixpath.dirname(path), target))


def linked_files() -> list[str]:
    """All files outside docs/ that pages link to, and those that these link to."""
    found: dict[str, None] = {}
    waiting = [f"{DOCS}{page.relative_to(ROOT / 'docs').as_posix()}" for page in sorted((ROOT / "docs").rglob("*.md"))]
    while waiting:
        for target in links(waiting.pop()):
            if target.startswith(DOCS) or target in found:
                continue
            if not (ROOT / target).is_file():
                raise PluginError(f"a page links to {target}, which is not a file of the repository")
            found[target] = None
            waiting += [target] if target.endswith(".md") else []
    return list(found)


def modules() -> list[str]:
    """The modules of the API reference, in the order of docs/api.md: paths from the root."""
    return [path for path in dict.fromkeys(links("docs/api.md")) if path.startswith("detframe/")]


def dotted(path: str) -> str:
    """The name of a module by its path."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def page_of(path: str) -> str:
    """Where the site has a file of the repository, as the path of the Markdown of its page."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if path in modules():
        return f"api/{dotted(path)}.md"
    if path in links("docs/index.md"):
        return path
    shown = "/".join(part.removeprefix(".") for part in path.split("/"))  # MkDocs leaves out what begins with a dot
    return f"files/{shown.removesuffix('.md')}.md"


def public_names(path: str) -> dict[str, str]:
    """Of a module, its public names and where each is described: {"train": "detframe.engine.run.train"}."""
    module = dotted(path)
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    values = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if "_LAZY" in values:
        places = ast.literal_eval(values["_LAZY"])
        return {name: _described(place, name) for name, place in places.items()}
    if "__all__" in values:
        names = ast.literal_eval(values["__all__"])
    else:
        defined = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        constants = [name for name in values if len(name) > 1 and name != "logger"]
        names = [name for name in [*constants, *defined] if not name.startswith("_")]
    folders = {item.name for item in (ROOT / path).parent.iterdir() if item.is_dir()}
    in_order = sorted(names, key=str.isupper)  # constants at the end
    return {name: f"{module}.{name}" for name in in_order if name not in folders}


def _described(module: str, name: str) -> str:
    """Through packages that load their parts when they are asked for them, to the module that has the name."""
    package = f"{module.replace('.', '/')}/__init__.py"
    return public_names(package).get(name, f"{module}.{name}") if (ROOT / package).is_file() else f"{module}.{name}"


def reference(path: str) -> str:
    """The page of a module in the API reference."""
    module = dotted(path)
    text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    lines = [
        *("---", f"description: {json.dumps(description(text))}", "---"),
        f"# {module}",
        "",
        f"::: {module}",
        "    options: {members: false, show_root_heading: false, show_root_toc_entry: false}",
        "",
    ]
    elsewhere = {place for other in modules() if other != path for place in public_names(other).values()}
    for name, place in public_names(path).items():
        if module == "detframe" and place in elsewhere:
            lines += [f"- [`{module}.{name}`][{place}]"]
    lines += [""]
    for name, place in public_names(path).items():
        if module != "detframe" or place not in elsewhere:
            lines += [f"::: {place}", f'    options: {{heading: "{module}.{name}", toc_label: "{name}"}}', ""]
    return "\n".join(lines)


def shown_file(path: str) -> str:
    """The page of a file: Markdown as it is, anything else as a block of code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", text))])
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def navigation() -> list[Any]:
    """The `nav` of MkDocs: the sections of docs/index.md with the pages that their lists name."""
    nav: list[Any] = [{"Home": "index.md"}]
    section: list[Any] = []
    for is_prose, line in prose((ROOT / "docs" / "index.md").read_text(encoding="utf-8")):
        if is_prose and line.startswith("## "):
            section = []
            nav.append({line[3:].strip(): section})
        elif is_prose and (entry := _ENTRY.match(line)):
            page = page_of(posixpath.normpath(f"{DOCS}{entry[2]}"))
            section.append({entry[1].replace("`", ""): page if page != "api.md" else _api_navigation()})
    return [part for part in nav if all(part.values())]


def _api_navigation() -> list[dict[str, str]]:
    return [{"Overview": "api.md"}, *({dotted(path): page_of(path)} for path in modules())]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation; and the choice of versions where `mike` builds one of several."""
    config.nav = navigation()
    if "MIKE_DOCS_VERSION" in os.environ:
        config.extra["version"] = {"provider": "mike"}
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for path in linked_files():
        if path not in modules():
            files.append(File.generated(config, page_of(path), content=shown_file(path)))
    for path in modules():
        files.append(File.generated(config, page_of(path), content=reference(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead links to where the site has their files, and begin lists as CommonMark reads them."""
    source = repository_path(page.file.src_uri)
    if source is None:
        return markdown
    if source == "docs/config_reference.md":
        page.meta["search"] = {"boost": 4}  # who looks for a key wants to read of it first
    if words := description(markdown):
        page.meta["description"] = words

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return posixpath.relpath(page_of(target), posixpath.dirname(page.file.src_uri) or ".")

    shown = _NAMED.sub(r'\2 title="\1"', _FENCE_WORDS.sub(r"\1", markdown))  # code of a file under the file's name
    return with_lists(shown, lambda line: _LINK.sub(moved, line))


def description(text: str) -> str:
    """The first paragraph of a page without marks, for an attribute of HTML; whole sentences where they are short."""
    lines = [line if is_prose else "" for is_prose, line in prose(text)]
    paragraphs = " ".join(line or "\n" for line in lines).split("\n")
    first = next((part for part in map(str.strip, paragraphs) if part and part[0] not in "#|-<!>"), "")
    words = " ".join(_MARK.sub(r"\1", first).split())
    if len(words) > _DESCRIBED:
        end = words.rfind(". ", 0, _DESCRIBED)
        words = words[: end + 1] if end > 0 else words[: words.rfind(" ", 0, _DESCRIBED)] + " …"
    return html.escape(words)


def repository_path(src_uri: str) -> str | None:
    """The Markdown file that a page is made of; None for pages that are made of no Markdown."""
    for path in (f"{DOCS}{src_uri}", src_uri, src_uri.removeprefix("files/")):
        if (ROOT / path).is_file():
            return path
    return None


def with_lists(text: str, change: Callable[[str], str]) -> str:
    """Markdown with a change of each line of prose, and lists as Python-Markdown reads them.

    CommonMark, as on GitHub, has what belongs to an item below its first letter; Python-Markdown wants four spaces for
    each level, and an empty line between a paragraph, a table or code and an item that follows.
    """
    lines: list[str] = []
    columns: list[int] = []  # of the items that are open: where their text begins
    of_item = loose = False  # whether the block that goes on began with an item; whether its list has empty lines
    for is_prose, line in prose(text):
        words = line.lstrip(" ")
        indent, item = len(line) - len(words), _ITEM.match(words) if is_prose else None
        after_blank = not lines or not lines[-1].strip()
        outer = columns
        if words and not (is_prose and not item and not after_blank):  # else a paragraph goes on, indented or not
            outer = [column for column in columns if column <= indent]
        if item and not after_blank and (not of_item or (loose and len(outer) < len(columns) - 1)):
            lines.append("")
        of_item = bool(item) or (of_item and not after_blank)
        loose = bool(outer) and (loose or after_blank)
        deep = 4 * len(outer) + max(indent - outer[-1], 0) if outer else indent
        lines.append(" " * deep * bool(words) + (change(words) if is_prose else words))
        columns = [*outer, indent + len(item[0])] if item else outer
    return "\n".join(lines) + "\n"
