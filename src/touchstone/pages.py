"""What the book shows: badges, tables and pictures made from the catalogue and the records, and every source file."""

import html
import json
import re
from collections import Counter
from pathlib import Path

from touchstone import provenance
from touchstone.catalogue import PARTS, Catalogue, Row, TouchstoneError
from touchstone.notebooks import quick_path
from touchstone.plotting import VERDICT_COLOURS, VERDICT_GLYPHS
from touchstone.record import BoundRecord, Record, RecordError, read_record, write_atomic
from touchstone.verdict import NOT_RUN, VERDICTS

REPOSITORY = "https://github.com/touchstone-compendium/touchstone"
LONG_CELL, LONG_FIGURE_CELL = (
    14,
    5,
)  # longer code cells are folded in the book (a click opens them); shorter ones if they draw
MEANING = {
    "reproduced": "every registered bound was met",
    "partly": "the numbers point the claimed way, or some of several bounds were met",
    "not reproduced": "the registered bounds were missed",
    "not run": "no full run yet",
}


# ---------------------------------------------------------------- what the records say


def records(catalogue: Catalogue) -> dict[str, Record]:
    """The readable records, by id."""
    found = {}
    for row in catalogue.built():
        path = row.faces(catalogue.root)["record"]
        if path.exists():
            found[row.id] = read_record(path)
    return found


def verdicts(row: Row, record: Record | None) -> dict[str, str]:
    """The verdict on each registered claim of a row."""
    known = {claim.id: claim.verdict for claim in record.claims} if record else {}
    return {claim.id: known.get(claim.id, NOT_RUN) for claim in row.claims}


def overall(row: Row, record: Record | None) -> str:
    """One word for a row: the common verdict of its claims, ``mixed``, or ``no method yet``."""
    each = set(verdicts(row, record).values())
    if not each:
        return "no method yet"
    return each.pop() if len(each) == 1 else "mixed"


def badge(verdict: str, text: str = "", title: str = "") -> str:
    """A verdict as a coloured word with its own mark, so that colour is never the only sign."""
    label = html.escape(f"{text}: {verdict}" if text else verdict)
    tip = html.escape(title or MEANING[verdict], quote=True)
    name = verdict.replace(" ", "-")
    return f'<span class="verdict verdict-{name}" title="{tip}">{VERDICT_GLYPHS[verdict]} {label}</span>'


def _badges(row: Row, record: Record | None, stale: bool) -> str:
    found = verdicts(row, record)
    line = " ".join(badge(found[claim.id], claim.id, claim.says) for claim in row.claims)
    where = (
        f"seeds {record.seeds[0]} to {record.seeds[-1]}, {record.wall_s / 60:.1f} min on {record.environment.cpu}"
        if record
        else ""
    )
    note = (
        f'<span class="run-note">full run: {html.escape(where)}</span>'
        if record
        else ('<span class="run-note">quick run: the numbers on this page are no evidence</span>')
    )
    if stale:
        note += ' <span class="run-note stale">the code has changed since this run</span>'
    return f'<p class="badges">{line} {note}</p>'


# ---------------------------------------------------------------- generated files that are committed


def toc(catalogue: Catalogue) -> str:
    """``_toc.yml``: prose, the sixteen parts with the methods that are built, reference pages."""
    lines = [
        "# Generated from the catalogue by `touchstone generate`; do not edit.",
        "format: jb-book",
        "root: book/intro",
        "parts:",
        "- caption: Read this first",
        "  chapters:",
        "  - file: book/how-to-read-a-verdict",
        "  - file: book/how-the-studies-are-done",
        "  - file: book/run-it-yourself",
        "- caption: The parts",
        "  chapters:",
    ]
    for part in PARTS:
        lines.append(f"  - file: book/parts/{part}")
        pages = [
            f"notebooks/{part}/{row.id}"
            for row in catalogue.part(part)
            if row.faces(catalogue.root)["notebook"].exists()
        ]
        if (catalogue.root / "notebooks" / part / "arena.md").exists():
            pages.append(f"notebooks/{part}/arena")
        if pages:
            lines += ["    sections:", *(f"    - file: {page}" for page in pages)]
    lines += [
        "- caption: Look up",
        "  chapters:",
        "  - file: book/all-methods",
        "  - file: book/all-claims",
        "  - file: book/api/index",
        "    sections:",
    ]
    lines += [f"    - file: book/api/{name}" for name in _api_pages(catalogue)]
    lines.append("  - file: book/references")
    return "\n".join(lines) + "\n"


def readme_table(catalogue: Catalogue) -> str:
    """The README's table of parts with counts of verdicts."""
    found = records(catalogue)
    lines = [
        "| part | methods built | claims | reproduced | partly | not reproduced | not run |",
        "|---|---|---|---|---|---|---|",
    ]
    total: Counter = Counter()
    for part, title in PARTS.items():
        rows = catalogue.part(part)
        count = Counter(v for row in rows for v in verdicts(row, found.get(row.id)).values())
        built = sum(row.faces(catalogue.root)["method"].exists() for row in rows)
        total.update({**count, "built": built, "rows": len(rows)})
        numbers = " | ".join(str(count[v]) for v in VERDICTS)
        lines.append(f"| {title} (`{part}`) | {built} of {len(rows)} | {sum(count.values())} | {numbers} |")
    numbers = " | ".join(f"**{total[v]}**" for v in VERDICTS)
    lines.append(
        f"| **all** | **{total['built']} of {total['rows']}** | **{sum(total[v] for v in VERDICTS)}** | {numbers} |"
    )
    return "\n".join(lines)


def state_svg(catalogue: Catalogue, link_prefix: str | None = None) -> str:
    """The state of the field as a picture: one mark a claim, coloured and shaped by verdict, grouped by part.

    Args:
        catalogue: the rows.
        link_prefix: path from the page to the book's root, to link every mark to its method; None for no links.
    """
    found = records(catalogue)
    left, step, height, columns = 270, 15, 25, 34
    body, y = [], 16
    for part, title in PARTS.items():
        rows = catalogue.part(part)
        built = sum(row.faces(catalogue.root)["method"].exists() for row in rows)
        body.append(f'<text x="{left - 58}" y="{y + 4}" text-anchor="end" class="part">{html.escape(title)}</text>')
        body.append(f'<text x="{left - 14}" y="{y + 4}" text-anchor="end" class="count">{built}/{len(rows)}</text>')
        n = 0
        for row in rows:
            record = found.get(row.id)
            for claim, verdict in verdicts(row, record).items():
                x, line = left + step * (n % columns), y + 16 * (n // columns)
                mark = f"<g><title>{html.escape(f'{row.id}: {claim}: {verdict}')}</title>{_mark(verdict, x, line)}</g>"
                if link_prefix is not None:
                    mark = f'<a href="{link_prefix}notebooks/{part}/{row.id}.html">{mark}</a>'
                body.append(mark)
                n += 1
        if not n:
            body.append(
                f'<line x1="{left - 4}" y1="{y}" x2="{left + 20}" y2="{y}" stroke="#b0b0b0" stroke-dasharray="2 3"/>'
            )
        y += height + 16 * (max(0, n - 1) // columns)
    y += 8
    x = 22
    for verdict in VERDICTS:
        body.append(_mark(verdict, x, y))
        body.append(f'<text x="{x + 10}" y="{y + 4}" class="part">{verdict}</text>')
        x += 130
    body.append(f'<text x="{x}" y="{y + 4}" class="count">a/b: methods built of rows</text>')
    width, total = left + step * columns, y + 20
    style = ".part{font:13px sans-serif;fill:#222}.count{font:12px sans-serif;fill:#555}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" role="img" '
        f'aria-label="One mark for each registered claim, by part and verdict"><style>{style}</style>'
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _mark(verdict: str, x: float | int, y: float | int) -> str:
    """Filled disc, half disc, ring or short dash: told apart without colour."""
    colour = VERDICT_COLOURS[verdict]
    ring = f'<circle cx="{x}" cy="{y}" r="5" fill="none" stroke="{colour}" stroke-width="2"/>'
    if verdict == "reproduced":
        return f'<circle cx="{x}" cy="{y}" r="6" fill="{colour}"/>'
    if verdict == "partly":
        return ring + f'<path d="M {x} {y - 5} A 5 5 0 0 0 {x} {y + 5} Z" fill="{colour}"/>'
    if verdict == "not reproduced":
        return ring
    return f'<line x1="{x - 4}" y1="{y}" x2="{x + 4}" y2="{y}" stroke="{colour}" stroke-width="3"/>'


def _readme(catalogue: Catalogue) -> str | None:
    path = catalogue.root / "README.md"
    if not path.exists():
        return None
    return re.sub(
        r"(<!-- table of parts -->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{readme_table(catalogue)}\n{m[2]}",
        path.read_text(encoding="utf-8"),
        flags=re.S,
    )


def generated(catalogue: Catalogue) -> dict[Path, str]:
    """The committed files that follow from the catalogue and the records, with what they should hold."""
    files = {
        catalogue.root / "_toc.yml": toc(catalogue),
        catalogue.root / "book" / "images" / "state.svg": state_svg(catalogue),
    }
    readme = _readme(catalogue)
    return files if readme is None else {**files, catalogue.root / "README.md": readme}


def check_generated(catalogue: Catalogue) -> list[str]:
    """Generated files that are stale."""
    try:
        wanted = generated(catalogue)
    except RecordError as error:
        return [str(error)]
    return [
        f"{path.relative_to(catalogue.root)}: is stale; `touchstone generate` rewrites it"
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def write_generated(catalogue: Catalogue) -> list[Path]:
    """Rewrite the generated files that are stale; return them."""
    changed = []
    for path, text in generated(catalogue).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomic(path, text)
            changed.append(path)
    return changed


# ---------------------------------------------------------------- pages


def _api_pages(catalogue: Catalogue) -> list[str]:
    """``frame``, the shared packages, and every part with code."""
    source = catalogue.root / "src" / "touchstone"
    packages = ["nn", "data", "metrics", *PARTS]
    return ["frame", *(p for p in packages if any(f.stem != "__init__" for f in (source / p).glob("*.py")))]


def _api_page(catalogue: Catalogue, name: str) -> str:
    folder = catalogue.root / "src" / "touchstone"
    prefix = "touchstone." if name == "frame" else f"touchstone.{name}."
    files = sorted(folder.glob("*.py") if name == "frame" else (folder / name).glob("*.py"))
    titles = {"frame": "The frame", "nn": "Network building blocks", "data": "Data", "metrics": "Metrics", **PARTS}
    lines = [f"# {titles[name]} (`touchstone{'' if name == 'frame' else '.' + name}`)", ""]
    for file in files:
        if file.stem != "__init__":
            module = prefix + file.stem
            lines += [f"## `{module}`", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
    return "\n".join(lines)


def _bib(catalogue: Catalogue) -> str:
    """BibTeX of the rows that are built: the id is the key."""
    entries = []
    for row in catalogue.built():
        authors = " and ".join((row.authors or row.title.split(":")[0]).split(", "))
        link = f"  url = {{{row.link}}},\n" if row.link else ""
        venue = "arXiv:" + row.link.rsplit("/", 1)[1] if row.link and "arxiv.org" in row.link else ""
        entries.append(
            f"@article{{{row.id},\n  author = {{{authors}}},\n  title = {{{{{row.title}}}}},\n  year = {{{row.year}}},\n"
            f"  journal = {{{venue}}},\n{link}}}\n"
        )
    return "\n".join(entries)


def _rows_table(catalogue: Catalogue, part: str, found: dict[str, Record]) -> str:
    """A part's methods with their verdicts, cost and a line of advice, then its rows that wait for a method."""
    rows = catalogue.part(part)
    built = [row for row in rows if row.faces(catalogue.root)["notebook"].exists()]
    lines = []
    if built:
        lines += ["| method | verdicts | full run | advice |", "|---|---|---|---|"]
        for row in built:
            record = found.get(row.id)
            marks = " ".join(badge(v, c) for c, v in verdicts(row, record).items())
            cost = f"{record.wall_s / 60:.1f} min" if record else "none yet"
            advice = _cell(row.advice or row.summary)
            lines.append(f"| [{row.id}](../../notebooks/{part}/{row.id}) | {marks} | {cost} | {advice} |")
        lines.append("")
    waiting = [row for row in rows if row not in built]
    if waiting:
        lines += [
            f"{len(waiting)} rows of this part have no method yet.",
            "",
            "| row | what it is | paper |",
            "|---|---|---|",
        ]
        for row in waiting:
            paper = f"[{_cell(row.title)}]({row.link})" if row.link else _cell(row.title)
            lines.append(f"| `{row.id}` | {_cell(row.summary)} | {paper} ({row.year}) |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("$", "\\$")


def _datatable(frame, table_id: str, filters: list[int], **options) -> str:
    """A table that sorts, searches and filters in the reader's browser, without a network."""
    from itables import to_html_datatable

    definitions = [{"targets": filters, "columnControl": ["order", ["searchList"]]}]
    table = to_html_datatable(
        frame,
        connected=False,
        allow_html=True,
        maxBytes=0,
        maxRows=0,
        showIndex=False,
        table_id=table_id,
        classes="display compact",
        columnControl=["order"],
        ordering={"indicators": False},
        order=[],
        columnDefs=definitions,
        pageLength=25,
        lengthMenu=[25, 100, len(frame)],
        autoWidth=False,
        style="width:100%",
        **options,
    )
    return f'<script src="../_static/itables.js"></script>\n<div class="table-scroll">\n{table}\n</div>'


def _all_methods(catalogue: Catalogue, found: dict[str, Record]) -> str:
    import pandas as pd

    lines = []
    for row in catalogue:
        record = found.get(row.id)
        title = html.escape(row.title)
        paper = f'<a href="{row.link}">{title}</a>' if row.link else title
        about = f'{_name(catalogue, row)}<br>{html.escape(row.summary)}<br><span class="paper">{paper}</span>'
        marks = " ".join(badge(v, c) for c, v in verdicts(row, record).items())
        lines.append(
            {
                "method": about,
                "part": row.part,
                "kind": row.kind,
                "year": row.year,
                "verdict": overall(row, record),
                "claims": marks,
            }
        )
    # built rows first; within them the catalogue's order
    frame = pd.DataFrame(lines)
    built = [row.faces(catalogue.root)["method"].exists() for row in catalogue]
    frame = frame.iloc[sorted(range(len(frame)), key=lambda i: not built[i])]
    return _raw(_datatable(frame, "table-of-methods", [1, 2, 3, 4]))


def _name(catalogue: Catalogue, row: Row) -> str:
    """The row's id, linked to its page when it has one."""
    if row.faces(catalogue.root)["notebook"].exists():
        return f'<a href="../notebooks/{row.part}/{row.id}.html"><b>{row.id}</b></a>'
    return f"<b>{row.id}</b>"


def _all_claims(catalogue: Catalogue, found: dict[str, Record]) -> str:
    import pandas as pd

    lines = []
    for row in catalogue:
        record = found.get(row.id)
        known = {claim.id: claim for claim in record.claims} if record else {}
        for claim in row.claims:
            verdict = known[claim.id].verdict if claim.id in known else NOT_RUN
            bounds = [
                f"{html.escape(bound.of)}: {bound.text}"
                + (_measured(known[claim.id].bounds[i]) if claim.id in known else "")
                for i, bound in enumerate(claim.bounds)
            ]
            amended = " (amended)" if claim.amended else ""
            lines.append(
                {
                    "claim": f"{_name(catalogue, row)}: <b>{claim.id}</b>{amended}<br>{html.escape(claim.says)}",
                    "part": row.part,
                    "verdict": verdict,
                    "bound → measured [95 % interval]": "<br>".join(bounds),
                }
            )
    return _raw(_datatable(pd.DataFrame(lines), "table-of-claims", [1, 2]))


def _measured(bound: BoundRecord) -> str:
    """A bound's aggregate and interval for the table of claims."""
    value = "NaN" if bound.aggregate is None else f"{bound.aggregate:.3g}"
    known = bound.interval and None not in bound.interval
    interval = f" [{bound.interval[0]:.3g}, {bound.interval[1]:.3g}]" if known else ""
    return f" → <b>{value}</b>{interval}, n = {len(bound.values)}, {'met' if bound.met else 'leans' if bound.leans else 'missed'}"


def _raw(text: str) -> str:
    return f"```{{raw}} html\n{text}\n```"


def _counts(catalogue: Catalogue, found: dict[str, Record]) -> str:
    count = Counter(v for row in catalogue for v in verdicts(row, found.get(row.id)).values())
    words = ", ".join(f"{count[v]} {v}" for v in VERDICTS if count[v] or v != NOT_RUN)
    return (
        f"Today {len(catalogue.built())} of {len(catalogue)} methods are built. "
        f"Of their {sum(count.values())} registered claims: {words}."
    )


def _fill(text: str, catalogue: Catalogue, found: dict[str, Record], part: str | None = None) -> str:
    """Replace the generated-content marks of a prose page."""
    marks = {
        "counts": lambda: _counts(catalogue, found),
        "state": lambda: _raw(f'<div class="state">{state_svg(catalogue, "../")}</div>'),
        "all-methods": lambda: _all_methods(catalogue, found),
        "all-claims": lambda: _all_claims(catalogue, found),
        "rows": lambda: _rows_table(catalogue, part, found),
        "verdicts": lambda: "\n".join(f"- {badge(v)}: {MEANING[v]}." for v in VERDICTS),
    }
    return re.sub(r"<!-- generated: ([\w-]+) -->", lambda m: marks[m[1]](), text)


# ---------------------------------------------------------------- the sources of the book


def sources(catalogue: Catalogue) -> dict[str, bytes]:
    """Every source file of the book, by its path in the staged tree."""
    root, found = catalogue.root, records(catalogue)
    staged: dict[str, bytes] = {"_config.yml": (root / "_config.yml").read_bytes(), "_toc.yml": toc(catalogue).encode()}
    for path in sorted((root / "book").rglob("*")):
        if path.is_file():
            name = str(path.relative_to(root))
            content = path.read_bytes()
            if path.suffix == ".md":
                content = _fill(content.decode(), catalogue, found, path.stem).encode()
            staged[name] = content
    staged["book/images/state.svg"] = state_svg(catalogue).encode()
    staged["book/catalogue.bib"] = _bib(catalogue).encode()
    staged["book/_static/itables.js"] = _itables_script().encode()
    for name in _api_pages(catalogue):
        staged[f"book/api/{name}.md"] = _api_page(catalogue, name).encode()
    for row in catalogue.built():
        faces = row.faces(root)
        if not faces["notebook"].exists():
            continue
        record = found.get(row.id)
        source = faces["pair"] if faces["pair"].exists() else quick_path(root, row.part, row.id)
        stale = record is not None and record.code_hash != provenance.method_hash(row.module, faces["notebook"])
        notebook = json.loads(source.read_text(encoding="utf-8"))
        _fold(notebook, _badges(row, record, stale))
        staged[f"notebooks/{row.part}/{row.id}.ipynb"] = json.dumps(notebook, ensure_ascii=False, indent=1).encode()
    for part in PARTS:
        arena = root / "notebooks" / part / "arena.ipynb"
        if arena.exists():
            notebook = json.loads(arena.read_text(encoding="utf-8"))
            _fold(notebook, "")
            staged[f"notebooks/{part}/arena.ipynb"] = json.dumps(notebook, ensure_ascii=False, indent=1).encode()
        elif arena.with_suffix(".md").exists():
            raise TouchstoneError(f"notebooks/{part}/arena.md has not been executed; `touchstone arena {part}` does it")
    return staged


def _fold(notebook: dict, badges: str) -> None:
    """Put the badges in their place and fold long code, so that the page reads as prose, figures and tables."""
    measuring = False
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = text.replace("<!-- badges -->", badges)
            measuring |= "## Does it hold?" in text or "## Results" in text
        else:
            draws = measuring and any("image/png" in output.get("data", {}) for output in cell["outputs"])
            if text.count("\n") >= (LONG_FIGURE_CELL if draws else LONG_CELL):
                cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]


def _itables_script() -> str:
    """DataTables as one classic script: it also works when the book is opened as a file, where modules are refused."""
    from itables import options
    from itables.javascript import generate_init_offline_itables_html

    text = generate_init_offline_itables_html(options.dt_bundle)
    return "\n".join(re.findall(r"<script>(.*?)</script>", text, re.S))
