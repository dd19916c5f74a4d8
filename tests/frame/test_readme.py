"""What the README promises runs."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    code = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.S)[1]
    assert len(code.strip().splitlines()) <= 10
    exec(code, {})
    kappa = float(re.search(r"kappa = ([\d.]+)", capsys.readouterr().out)[1])
    # true mean length 0.1 / sqrt(1.01), lengthened by the noise of 500 samples; kappa is close to p R / (1 - R^2)
    length = (0.0099 + (1 - 0.0099) / 500) ** 0.5
    assert abs(kappa / (2048 * length / (1 - length**2)) - 1) < 0.02


def test_commands_named_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make (\w+)", README, re.M)) <= targets
    assert {"book", "test", "validate", "rerun", "full", "serve", "clean", "help"} <= targets


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_citation_is_valid():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation) and citation["license"] == "MIT"


def test_the_project_speaks_of_itself_alone():
    """No registry host and no path of a machine in any text file."""
    hosts = [
        "pypi" + ".org",
        "files.python" + "hosted",
        "registry.npm" + "js",
        "download.pytorch" + ".org",
        "deb.deb" + "ian.org",
    ]
    paths = ["/wo" + "rk/main", "/ro" + "ot/", "/opt/" + "pypi"]
    found = []
    for path in ROOT.rglob("*"):
        folders = path.relative_to(ROOT).parts[:-1]
        if (
            path.is_file()
            and not path.name.startswith(".")
            and "_build" not in folders
            and not any(f.startswith(".") and f != ".ci" for f in folders)
        ):
            if path.suffix in {".py", ".md", ".yml", ".yaml", ".toml", ".lock", ".ipynb", ".json", ".cff", ""}:
                text = path.read_text(encoding="utf-8", errors="replace")
                found += [f"{path.relative_to(ROOT)}: {word}" for word in hosts + paths if word in text]
    assert found == []
