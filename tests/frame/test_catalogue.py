"""The catalogue: what is accepted, what is refused and how, and that registered claims cannot move."""

import json

import pytest
import yaml

from touchstone.catalogue import (
    KINDS,
    PARTS,
    CatalogueError,
    TouchstoneError,
    check_registration,
    load_catalogue,
    project_root,
    register,
    registered,
)


def test_all_305_rows_are_there_with_a_summary_of_one_sentence(monkeypatch):
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    catalogue = load_catalogue()
    assert len(catalogue) == 305
    assert {row.part for row in catalogue} == set(PARTS)
    assert {row.kind for row in catalogue} <= set(KINDS)
    short = [row.id for row in catalogue if len(row.summary.split()) < 8 or not row.summary.endswith(".")]
    assert short == []
    long = [row.id for row in catalogue if len(row.summary.split()) > 60]
    assert long == []


def test_only_built_rows_carry_claims(monkeypatch):
    monkeypatch.delenv("TOUCHSTONE_ROOT", raising=False)
    catalogue = load_catalogue()
    built = {row.id for row in catalogue.built()}
    assert {row.id for row in catalogue if row.claims} == built
    assert all(len(row.claims) >= 2 and row.authors for row in catalogue.built())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("- id: other-method", "- id: toy-method", ["row 'toy-method'", "key id", "already used"]),
        ("- id: other-method", "- id: Other_method", ["row 'Other_method'", "key id", "lower case"]),
        ("kind: theory", "kind: theorem", ["row 'other-method'", "key kind", "'theorem' is not one of"]),
        (
            "summary: Waits.",
            "sumary: Waits.",
            ["row 'other-method'", "key sumary", "unknown key", "did you mean summary"],
        ),
        ("year: 2021", "year: soon", ["row 'other-method'", "key year", "integer"]),
        ("  year: 2021\n", "", ["row 'other-method'", "key year", "is missing"]),
        ("year: 2021", "year: 2021\n  year: 2022", ["pinns.yml", "key 'year' is given twice"]),
        ("summary: Waits.", "summary: Waits.\n  part: pinns", ["key part", "file's name"]),
        ("at_least: 2, no_effect: 1", "no_effect: 1", ["key claims[bigger].bounds[0]", "has neither"]),
        ("at_least: 2,", "at_least: 2, at_most: 3,", ["key claims[bigger].bounds[0]", "has both"]),
        ("aggregate: max", "aggregate: maximum", ["claims[small].bounds[0].aggregate", "'maximum' is not one of"]),
        (
            "at_most: 1.0e-3",
            "atmost: 1.0e-3",
            ["claims[small].bounds[0].atmost", "unknown key", "did you mean at_most"],
        ),
        ("- id: small", "- id: bigger", ["claims[bigger].id", "given twice"]),
        (
            "      bounds:\n        - {measure: error, of: error, aggregate: max, at_most: 1.0e-3}\n",
            "      bounds: []\n",
            ["claims[small].bounds", "at least one bound"],
        ),
        (
            "needs: [other-method,",
            "needs: [other-metod,",
            ["row 'toy-method'", "key needs", "did you mean 'other-method'"],
        ),
    ],
)
def test_a_wrong_row_is_refused_with_file_row_and_key(edit, old, new, words):
    edit("catalogue/pinns.yml", old, new)
    with pytest.raises(CatalogueError) as error:
        load_catalogue()
    for word in ["catalogue/pinns.yml", *words]:
        assert word in str(error.value), str(error.value)


def test_two_bounds_on_one_measure_are_refused(edit):
    bound = "        - {measure: error, of: error, aggregate: max, at_most: 1.0e-3}\n"
    edit("catalogue/pinns.yml", bound, bound + bound)
    with pytest.raises(CatalogueError, match="measure 'error' is given twice"):
        load_catalogue()


@pytest.mark.parametrize(
    ("text", "word"),
    [("a: [", "not valid YAML"), ("a: 1", "expected a list"), ("- just text", "row 1"), ("- title: x", "key id")],
)
def test_a_file_that_is_no_list_of_rows_is_refused(root, text, word):
    (root / "catalogue" / "graphs.yml").write_text(text)
    with pytest.raises(CatalogueError, match="catalogue/graphs.yml") as error:
        load_catalogue()
    assert word in str(error.value)


def test_a_file_of_an_unknown_part_is_refused(root):
    (root / "catalogue" / "grafs.yml").write_text("[]")
    with pytest.raises(CatalogueError, match="'grafs' is no part of the compendium: did you mean graphs"):
        load_catalogue()


def test_unknown_names_suggest_the_nearest(toy):
    with pytest.raises(TouchstoneError, match="unknown id 'toy-methd': did you mean toy-method"):
        toy["toy-methd"]
    with pytest.raises(TouchstoneError, match="unknown part 'pins': did you mean pinns"):
        toy.part("pins")
    with pytest.raises(TouchstoneError, match="no registered claim 'large' .it has: bigger, small"):
        toy["toy-method"].claim("large")


def test_no_checkout_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TOUCHSTONE_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(TouchstoneError, match="set TOUCHSTONE_ROOT"):
        project_root()


def test_registration_is_once_and_for_all(root, toy, edit):
    row = toy["toy-method"]
    assert all("is not registered" in p for p in check_registration(row, registered(root)))
    assert register(row, root) == ["pinns/toy-method/bigger", "pinns/toy-method/small"]
    assert register(row, root) == []
    assert check_registration(row, registered(root)) == []
    edit("catalogue/pinns.yml", "at_least: 2", "at_least: 1.5")
    moved = load_catalogue()["toy-method"]
    assert ["differs from what was registered" in p for p in check_registration(moved, registered(root))] == [True]
    with pytest.raises(CatalogueError, match="toy-method/bigger: differs"):
        register(moved, root)
    # with the old claim kept and a reason given, the change is an amendment
    claim = next(
        c for c in yaml.safe_load((root / "catalogue/pinns.yml").read_text())[0]["claims"] if c["id"] == "bigger"
    )
    claim["bounds"][0]["at_least"] = 2
    amendment = json.dumps([{"why": "the registered ratio was meant the other way round", "was": claim}])
    edit("catalogue/pinns.yml", "      says: it is bigger", f"      says: it is bigger\n      amended: {amendment}")
    amended = load_catalogue()["toy-method"]
    assert check_registration(amended, registered(root)) == []
    assert amended.claim("bigger").bounds[0].at_least == 1.5


def test_a_dropped_claim_is_noticed(root, toy, edit):
    register(toy["toy-method"], root)
    edit("catalogue/pinns.yml", "- id: small", "- id: tiny")
    problems = check_registration(load_catalogue()["toy-method"], registered(root))
    assert any("toy-method/small: was registered and is gone" in p for p in problems)


def test_an_amendment_must_keep_the_whole_old_claim(root, toy, edit):
    register(toy["toy-method"], root)
    edit(
        "catalogue/pinns.yml",
        "      says: it is bigger",
        "      says: it is bigger\n      amended: [{why: because it was wrong, was: {id: bigger}}]",
    )
    problems = check_registration(load_catalogue()["toy-method"], registered(root))
    assert problems == ["pinns/toy-method/bigger: amended.was is not a whole claim (id, says, source, bounds)"]


def test_a_damaged_register_is_named(root):
    (root / "catalogue" / "registered.json").write_text("{")
    with pytest.raises(CatalogueError, match=r"catalogue/registered.json: not valid JSON"):
        registered(root)


def test_faces_and_module_names(toy, root):
    row = toy["toy-method"]
    assert row.module == "touchstone.pinns.toy_method"
    assert row.faces(root)["tests"] == root / "tests/pinns/test_toy_method.py"
    assert [r.id for r in toy.built()] == ["toy-method"]
