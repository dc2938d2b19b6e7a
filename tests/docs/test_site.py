"""The documentation as web pages: it builds without a warning, and each page opens in a browser as it should."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.browser import Browser, browser, find_chromium

ROOT = Path(__file__).resolve().parents[2]
markdown = pytest.importorskip("markdown", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")

# In a page: what it links to and what can be linked to; pictures that are not there; code without colours
LINKS = "[...document.querySelectorAll('a[href]')].map((a) => a.href)"
TARGETS = "[...document.querySelectorAll('[id], a[name]')].map((e) => e.id || e.name)"
BROKEN = "[...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)"
PLAIN = (
    "[...document.querySelectorAll('.language-python code, .language-yaml code')]"
    ".filter((c) => c.textContent.trim() && !c.querySelector('span[class]')).map((c) => c.textContent)"
)
# Markdown that was not understood: its marks in the text
RAW = """(() => {
    const walker = document.createTreeWalker(document.querySelector('article'), NodeFilter.SHOW_TEXT), found = [];
    while (walker.nextNode()) {
        const node = walker.currentNode;
        if (!node.parentElement.closest('code, pre, script, style') && /<!--|`|\\]\\(|\\*\\*/.test(node.textContent))
            found.push(node.textContent);
    }
    return found;
})()"""
LANGUAGES = "document.querySelectorAll('.language-python code, .language-yaml code').length"
SIDEWAYS = "document.documentElement.scrollWidth - window.innerWidth"

pytestmark = pytest.mark.slow


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that writes no log."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(http.server.ThreadingHTTPServer):
    """With room for all that a page asks for at once."""

    request_queue_size = 128


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on a port of this machine."""
    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    alone = ["unshare", "--map-root-user", "--net"]  # without any network, where the system lets us
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        alone = []
    command = [*alone, sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING -" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with browser(tmp_path_factory.mktemp("profile"), offline=False) as found:
        yield found


def pages(site: Path) -> list[str]:
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def loads(text: str) -> list[str]:
    """The other machines' addresses that a page or a stylesheet would load something from."""
    tags = r"<(?:script|link(?! rel=.canonical)|img|iframe|source|video|audio|object|embed)\b[^>]*>"
    places = r"\b(?:src|srcset|href|data)=[\"']?((?:https?:)?//[^\"' >]+)"
    loaded = [place for tag in re.findall(tags, text) for place in re.findall(places, tag)]
    return loaded + re.findall(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"') ]+)", text)


def test_what_a_page_would_load_is_seen():
    assert loads('<script defer src="https://a.org/b.js"></script>') == ["https://a.org/b.js"]
    assert loads("<link rel=stylesheet href=//a.org/b.css>") == ["//a.org/b.css"]
    assert loads("@import url(https://a.org/b.css)") and loads("src: url('https://a.org/f.woff')")
    assert loads('<a href="https://a.org">') == loads('<img src="images/a.jpg">') == loads("url(data:image/svg)") == []
    assert loads('<link rel="canonical" href="https://a.org/index.html">') == []


def test_lists_are_those_of_commonmark():
    """Also for Python-Markdown, which the site is made with."""
    from tests.docs.site_tool import SITE

    text = """What is there:
- one
  of two lines:

      code: 1

  and a paragraph
- two
  - below two
    1. below that

       | a | b |
       |---|---|
       | 1 | 2 |
    2. goes on
- three:

  ```yaml
  key: 1
  ```

1. first
2. second
after it, of the same paragraph

    of the second item as well

what is of no item
"""
    shown = markdown.markdown(
        SITE.with_lists(text, str.upper), extensions=["sane_lists", "tables", "pymdownx.superfences"]
    )
    flat = re.sub(r"\s+", " ", re.sub(r"<(div|span)[^>]*>|</(div|span)>", "", shown))
    first, *_ = re.findall(r"<li>.*?</li>", flat)
    assert re.search(r"<p>ONE OF TWO LINES:</p> <pre><code>code: 1 </code></pre> <p>AND A PARAGRAPH</p>", first, re.I)
    assert re.search(r"<li> <p>BELOW THAT</p> <table>.*</table> </li> <li> <p>GOES ON</p> </li> </ol>", flat)
    assert re.search(r"<p>THREE:</p> <pre>.*key: 1.*</pre> </li> </ul>", flat)
    assert flat.count("<ol>") == 2 and flat.count("<ul>") == 2
    assert "<p>OF THE SECOND ITEM AS WELL</p> </li> </ol> <p>WHAT IS OF NO ITEM</p>" in flat


def test_nothing_is_loaded_from_elsewhere(site: Path):
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    wrong = {path.name: found for path in files if (found := loads(path.read_text(encoding="utf-8")))}
    assert not wrong
    assert len(files) > 100


def test_pages_say_what_they_are(site: Path):
    """For search engines, and where somebody links to a page: a title and a description of its own."""
    said: dict[str, str] = {}
    for page in sorted(site.glob("*.html")):
        text = page.read_text(encoding="utf-8")
        (title,) = re.findall(r"<title>([^<]+)</title>", text)
        (words,) = re.findall(r'<meta name="description" content="([^"]+)">', text)
        assert f'<meta property="og:description" content="{words}">' in text
        assert page.name == "404.html" or (title not in said and words not in said.values()), page.name
        assert not re.search(r"[`\[\]]|\*\*", words) and 20 < len(words) < 300, (page.name, words)
        said[title] = words
    assert len(said) > 40


def test_the_reference_shows_every_public_name(site: Path):
    from tests.docs.site_tool import SITE

    for path in SITE.modules():
        page = (site / SITE.page_of(path)).with_suffix(".html").read_text(encoding="utf-8")
        assert not [
            name for name in SITE.public_names(path) if not re.search(rf"{SITE.dotted(path)}\.{name}\s*<", page)
        ]


def test_every_page_opens_and_every_link_leads_somewhere(chromium: Browser, site: Path):
    links: dict[str, str] = {}
    targets: dict[str, set[str]] = {}
    wrong = []
    colours = 0
    with served(site) as address:
        for page in pages(site):
            chromium.open(address + page)
            links |= dict.fromkeys(chromium.ask(LINKS), page)
            targets[address + page] = set(chromium.ask(TARGETS))
            found = {"errors": chromium.errors, "pictures": chromium.ask(BROKEN), "code": chromium.ask(PLAIN)}
            found["Markdown"] = chromium.ask(RAW)
            colours += chromium.ask(LANGUAGES)
            found["others"] = [url for url in chromium.requests if not url.startswith(address)]
            wrong += [(page, what, values[:]) for what, values in found.items() if values]
        for link, page in links.items():
            place, _, anchor = link.partition("#")
            if not place.startswith(address):
                continue
            if not (site / place.removeprefix(address)).is_file():
                wrong.append((page, "dead link", link))
            elif anchor and anchor not in targets.get(place, {anchor}):
                wrong.append((page, "dead anchor", link))
    assert not wrong
    assert len(targets) > 100
    assert colours > 100


@pytest.mark.parametrize(
    "page", ["index.html", "benchmarks.html", "MODEL_ZOO.html", "config_reference.html", "api/detframe.data.html"]
)
def test_a_telephone_needs_no_scrolling_sideways(chromium: Browser, site: Path, page: str):
    with served(site) as address:
        chromium.open(address + page, width=390)
        assert chromium.ask(SIDEWAYS) <= 0


def test_search_finds_a_page(chromium: Browser, site: Path):
    with served(site) as address:
        chromium.open(address + "index.html")
        chromium.ask("document.querySelector('[data-md-component=search-query]').focus()")
        chromium.call("Input.insertText", text="SOLVER.BASE_LR")
        chromium.wait("document.querySelectorAll('.md-search-result__link').length > 0")
        assert "config_reference.html" in str(
            chromium.ask("[...document.querySelectorAll('.md-search-result__link')].map((a) => a.href)")
        )
        assert chromium.errors == []


def run_workflow(clone: Path, ref: str) -> None:
    """What .github/workflows/site.yml runs for a ref, in a clone; without its installation."""
    (job,) = yaml.safe_load((ROOT / ".github/workflows/site.yml").read_text(encoding="utf-8"))["jobs"].values()
    of_ref = {"github.ref == 'refs/heads/main'": ref == "refs/heads/main"}
    of_ref["startsWith(github.ref, 'refs/tags/v')"] = ref.startswith("refs/tags/v")
    environment = {**os.environ, "SITE_URL": "https://example.org/detframe/", "GITHUB_REF_NAME": ref.split("/")[-1]}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for step in job["steps"]:
        if "run" in step and "pip install" not in step["run"] and ("if" not in step or of_ref[step["if"]]):
            command = ["bash", "-e", "-c", step["run"]]
            ended = subprocess.run(command, cwd=clone, capture_output=True, text=True, env=environment)
            assert ended.returncode == 0, ended.stderr


def test_versions_can_be_chosen(chromium: Browser, tmp_path: Path):
    """As .github/workflows/site.yml deploys them: first of main, then of a release."""
    remote, pages = tmp_path / "remote.git", tmp_path / "pages"
    git = ["git", "-c", "advice.detachedHead=false"]
    subprocess.run([*git, "clone", "-q", "--bare", "--shared", str(ROOT), str(remote)], check=True)
    for ref in ("refs/heads/main", "refs/tags/v1.0"):
        clone = tmp_path / ref.replace("/", "_") / "clone"
        subprocess.run([*git, "clone", "-q", str(remote), str(clone)], check=True)
        run_workflow(clone, ref)
        shutil.rmtree(pages, ignore_errors=True)
        subprocess.run([*git, "clone", "-q", "--branch", "gh-pages", str(remote), str(pages)], check=True)
        newest = "main" if ref == "refs/heads/main" else "latest"
        assert f"{newest}/" in (pages / "index.html").read_text(encoding="utf-8"), "where the root leads"
        assert (pages / "404.html").read_bytes() == (pages / newest / "404.html").read_bytes()
    missing = (pages / "main" / "404.html").read_text(encoding="utf-8")  # it is shown at any address
    addresses = re.findall(r'(?:href|src)="([^"#]+)"', missing)
    assert "/detframe/main/index.html" in addresses
    assert all(re.match(r"/detframe/main/|https?://|data:", address) for address in addresses)
    with served(pages) as address:
        chromium.open(address + "latest/index.html")
        chromium.wait("document.querySelectorAll('.md-version__link').length === 2")
        assert chromium.errors == []
