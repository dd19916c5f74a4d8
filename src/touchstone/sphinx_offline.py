"""Sphinx extension of the book: leave out scripts that could only load code from a content network."""

from typing import Any


def drop_thebe(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Remove Thebe's scripts, which Jupyter Book adds to every page (twice on some) whether or not it is used."""
    scripts = context.get("script_files", [])
    scripts[:] = [
        script
        for script in scripts
        if "THEBE" not in getattr(script, "attributes", {}).get("body", "")
        and "thebe" not in str(getattr(script, "filename", ""))
    ]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
