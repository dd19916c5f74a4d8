"""The book: generated pages, staging, the build's errors, and three pages in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from touchstone import book, cli, pages
from touchstone.catalogue import TouchstoneError, load_catalogue
from touchstone.notebooks import quick_path
from touchstone.study import Study

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def measured(root):
    """The small checkout with a record (one claim holds, one does not) and an executed notebook."""
    study = Study("toy-method", profile="full", seeds={"full": 3})
    study.settle("bigger", ratio=[3.0, 4.0, 5.0])
    study.settle("small", error=[1.0, 1.0, 1.0])
    study.report()
    code = {"cell_type": "code", "source": "a\n" * 20, "metadata": {}, "outputs": [], "execution_count": None}
    short = {**code, "source": "a\n", "metadata": {}}
    head = {"cell_type": "markdown", "source": ["# Toy\n", "\n", "<!-- badges -->"], "metadata": {}}
    notebook = {"cells": [head, code, short], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (root / "notebooks/pinns/toy-method.ipynb").write_text(json.dumps(notebook))
    return root


def test_toc_lists_parts_and_built_methods(toy):
    text = pages.toc(toy)
    assert (
        text.index("book/parts/pinns") < text.index("notebooks/pinns/toy-method") < text.index("book/parts/operators")
    )
    assert "other-method" not in text and text.count("book/parts/") == 16


def test_readme_table_counts_verdicts(measured):
    table = pages.readme_table(load_catalogue())
    assert "| Physics-informed networks (`pinns`) | 1 of 2 | 2 | 1 | 0 | 1 | 0 |" in table
    assert "| **all** | **1 of 2** | **2** | **1** | **0** | **1** | **0** |" in table


def test_the_picture_has_one_mark_a_claim(measured):
    catalogue = load_catalogue()
    picture = pages.state_svg(catalogue, "../")
    assert picture.count("<title>") == 2 and picture.count('href="../notebooks/pinns/toy-method.html"') == 2
    assert "toy-method: bigger: reproduced" in picture and "toy-method: small: not reproduced" in picture
    assert "<a " not in pages.state_svg(catalogue)


def test_a_row_has_one_overall_word(measured):
    catalogue = load_catalogue()
    found = pages.records(catalogue)
    assert pages.overall(catalogue["toy-method"], found["toy-method"]) == "mixed"
    assert pages.overall(catalogue["toy-method"], None) == "not run"
    assert pages.overall(catalogue["other-method"], None) == "no method yet"


def test_pages_carry_badges_and_fold_long_cells(measured):
    staged = pages.sources(load_catalogue())
    notebook = json.loads(staged["notebooks/pinns/toy-method.ipynb"])
    head, long, short = notebook["cells"]
    assert "● bigger: reproduced" in head["source"] and "○ small: not reproduced" in head["source"]
    assert "seeds 0 to 2" in head["source"] and "has changed since this run" not in head["source"]
    assert long["metadata"]["tags"] == ["hide-input"] and short["metadata"] == {}
    assert "@article{toy-method,\n  author = {A. Author and B. Writer}" in staged["book/catalogue.bib"].decode()
    part = staged["book/parts/pinns.md"].decode()
    assert (
        "[toy-method](../../notebooks/pinns/toy-method)" in part
        and "`other-method`" in part
        and "1 rows of this part have no method yet" in part
    )


def test_stale_records_say_so_on_the_page(measured, edit):
    edit("notebooks/pinns/toy-method.md", "scale = 3.0", "scale = 5.0")
    notebook = json.loads(pages.sources(load_catalogue())["notebooks/pinns/toy-method.ipynb"])
    assert "the code has changed since this run" in notebook["cells"][0]["source"]


def test_only_methods_without_a_full_run_need_a_quick_one(root, toy):
    assert [row.id for row in book.needs_quick_run(toy)] == ["toy-method"]
    from touchstone.notebooks import about

    quick = quick_path(root, "pinns", "toy-method")
    quick.parent.mkdir(parents=True)
    quick.write_text(json.dumps({"metadata": {"touchstone": about(toy["toy-method"], root, "quick")}, "cells": []}))
    assert book.needs_quick_run(toy) == []
    (root / "notebooks/pinns/toy-method.ipynb").write_text("{}")
    quick.unlink()
    assert book.needs_quick_run(toy) == []


def test_staging_touches_only_what_changed_and_removes_what_is_gone(measured):
    catalogue = load_catalogue()
    folder = book.stage(catalogue)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    (folder / "book" / "old.md").write_text("gone")
    (measured / "book" / "parts" / "graphs.md").write_text("# New\n\n<!-- generated: counts -->\n")
    book.stage(catalogue)
    changed = [path.name for path, then in times.items() if path.stat().st_mtime_ns != then]
    assert changed == ["graphs.md"] and not (folder / "book" / "old.md").exists()
    assert "1 of 2 methods are built" in (folder / "book/parts/graphs.md").read_text()


def test_an_arena_page_that_was_not_executed_is_named(measured):
    (measured / "notebooks/pinns/arena.md").write_text("# Arena\n")
    with pytest.raises(TouchstoneError, match="`touchstone arena pinns` does it"):
        pages.sources(load_catalogue())


def test_a_build_that_fails_shows_why_and_keeps_its_log(measured, monkeypatch):
    def fail(command, stdout, **options):
        stdout.write("\x1b[31mWARNING: something is off\x1b[39;49;00m\n")
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(book.subprocess, "run", fail)
    with pytest.raises(
        TouchstoneError, match=r"the book did not build:\nWARNING: something is off\nwhole log: .*build.log"
    ):
        book.build(load_catalogue(), strict=True)


def test_nothing_is_built_when_nothing_changed(measured, monkeypatch):
    calls = []

    def succeed(command, **options):
        calls.append(command)
        (measured / "_build/html").mkdir(parents=True, exist_ok=True)
        (measured / "_build/html/index.html").write_text("")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(book.subprocess, "run", succeed)
    for _ in range(2):
        assert cli.main(["book"]) == 0
    assert len(calls) == 1
    assert cli.main(["book", "--strict"]) == 0 and "--warningiserror" in calls[1]


# ---------------------------------------------------------------- the real book


@pytest.fixture(scope="module")
def html() -> Path:
    """The book of this checkout; `make book` or, here, the same call."""
    environment_root = ROOT / "_build" / "html"
    monkey = pytest.MonkeyPatch()
    monkey.delenv("TOUCHSTONE_ROOT", raising=False)
    try:
        assert cli.main(["book"]) == 0
    finally:
        monkey.undo()
    return environment_root


def test_no_link_in_the_book_is_broken(html):
    broken = set()
    anchors: dict[Path, set[str]] = {}
    for page in html.rglob("*.html"):
        if "_static" in page.parts:
            continue  # templates of the theme
        text = page.read_text(encoding="utf-8", errors="replace")
        anchors[page] = set(re.findall(r"""\bid=["']([^"']+)""", text))
    for page in anchors:
        text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8", errors="replace"), flags=re.S)
        for target in re.findall(r"""(?:href|src)=["']([^"']+)["']""", text):
            if re.match(r"(https?:|mailto:|data:|javascript:)", target) or target == "#":
                continue
            path, fragment = urldefrag(target)
            file = (page.parent / unquote(path).split("?")[0]).resolve() if path else page
            if not file.exists():
                broken.add(f"{page.relative_to(html)} -> {target}")
            elif fragment and file in anchors and unquote(fragment) not in anchors[file]:
                broken.add(f"{page.relative_to(html)} -> {target} (no such anchor)")
    assert sorted(broken) == []


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)")
@pytest.mark.parametrize("page", ["book/intro.html", "book/all-methods.html", "notebooks/pinns/causal-pinn.html"])
def test_pages_need_no_network_and_show_no_fault(html, page):
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    outside, faults = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_page()
        tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else outside.append(r.url))
        tab.on("requestfailed", lambda r: faults.append(f"failed: {r.url}"))
        tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda e: faults.append(str(e)))
        tab.goto((html / page).as_uri())
        tab.wait_for_timeout(1500)
        formulas = tab.locator(".math.notranslate").count()
        rendered = tab.locator(".math.notranslate mjx-container").count()
        merror = tab.locator("mjx-merror, [data-mjx-error]").count()
        raw = [t for t in tab.locator("article .math.notranslate").all_inner_texts() if "\\(" in t or "\\[" in t]
        rows = tab.locator("#table-of-methods tbody tr").count()
        if page.endswith("all-methods.html"):
            tab.fill("article input[type=search]", "causal-pinn")
            tab.wait_for_timeout(300)
            found = tab.locator("#table-of-methods tbody tr").all_inner_texts()
            assert rows == 25 and 1 <= len(found) < 25 and "causal-pinn" in found[0]
        if page.endswith("causal-pinn.html"):
            assert formulas > 5 and rendered >= formulas
        browser.close()
    assert outside == [] and faults == [] and merror == 0 and raw == []


def test_every_mark_of_a_prose_page_is_filled(measured):
    marks = ["counts", "state", "all-methods", "all-claims", "verdicts"]
    (measured / "book" / "everything.md").write_text("\n\n".join(f"<!-- generated: {mark} -->" for mark in marks))
    text = pages.sources(load_catalogue())["book/everything.md"].decode()
    assert "<!-- generated" not in text
    assert "Of their 2 registered claims: 1 reproduced, 0 partly, 1 not reproduced." in text
    assert "../notebooks/pinns/toy-method.html" in text and "A toy." in text and "no method yet" in text
    assert "→ <b>4</b> [3, 5], n = 3, met" in text and "→ <b>1</b> [1, 1], n = 3, missed" in text
    assert "every registered bound was met" in text and 'id="table-of-claims"' in text


def test_the_api_page_of_a_part_names_its_modules(measured):
    page = pages.sources(load_catalogue())["book/api/pinns.md"].decode()
    assert (
        page.startswith("# Physics-informed networks (`touchstone.pinns`)")
        and ".. automodule:: touchstone.pinns.toy_method" in page
    )


def test_damaged_records_stop_the_book_with_a_message(measured):
    (measured / "results/pinns/toy-method.json").write_text("{")
    assert any("toy-method.json: truncated" in problem for problem in pages.check_generated(load_catalogue()))


def test_the_readme_table_is_kept_current(measured):
    (measured / "README.md").write_text("# T\n\n<!-- table of parts -->\nold\n<!-- end -->\nrest\n")
    catalogue = load_catalogue()
    assert "README.md: is stale; `touchstone generate` rewrites it" in pages.check_generated(catalogue)
    pages.write_generated(catalogue)
    text = (measured / "README.md").read_text()
    assert "| 1 of 2 | 2 | 1 | 0 | 1 | 0 |" in text and text.endswith("<!-- end -->\nrest\n") and "old" not in text
    assert pages.check_generated(catalogue) == [] and pages.write_generated(catalogue) == []
