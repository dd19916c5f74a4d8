"""The planted generator and the user-item text format."""

import pytest
import torch

from tests.helpers import unchecked
from touchstone.data.interactions import Interactions, planted_interactions, read_interactions, write_interactions


def test_splits_are_disjoint_and_seventy_ten_twenty():
    data = planted_interactions(3)
    tables = [data.mask(split) for split in ("train", "validation", "test")]
    assert int(sum(table.int() for table in tables).max()) == 1
    counts = sum(table.sum(1) for table in tables)
    assert int(counts.min()) >= 6 and 19 < counts.float().mean() < 21
    shares = torch.tensor([len(data.train), len(data.validation), len(data.test)]) / counts.sum()
    assert torch.allclose(shares, torch.tensor([0.7, 0.1, 0.2]), atol=0.02)
    for table in tables:
        assert int(table.sum(1).min()) >= 1


def test_equal_seeds_give_equal_data():
    first, again, other = (planted_interactions(seed, 50, 60, mean=8.0) for seed in (0, 0, 1))
    assert torch.equal(first.train, again.train) and torch.equal(first.test, again.test)
    assert not torch.equal(first.oracle, other.oracle)


def test_oracle_is_a_distribution_and_explains_the_draws():
    data = planted_interactions(0)
    assert torch.allclose(data.oracle.sum(1), torch.ones(300), atol=1e-5)
    met = data.mask("train", "validation", "test")
    # Met items are drawn from the oracle, so its mean over them is far above its mean over all items, 1 / items.
    assert data.oracle[met].mean() > 3 / 400


def test_noise_one_is_popularity_alone():
    data = planted_interactions(0, noise=1.0)
    assert torch.allclose(data.oracle[0], data.oracle[-1])
    assert data.oracle[0].max() / data.oracle[0].min() == pytest.approx(20.0, rel=1e-4)  # rank^-0.5, 400 ranks


@pytest.mark.parametrize(
    "bad", [{"noise": 1.5}, {"mean": float("nan")}, {"items": 10}, {"minimum": 2}, {"users": 0}], ids=str
)
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        unchecked(planted_interactions)(0, **bad)


def test_mask_names_an_unknown_split():
    with pytest.raises(ValueError, match="splits holds 'dev'"):
        planted_interactions(0, 20, 40, mean=6.0).mask("dev")


def test_round_trip(tmp_path):
    data = planted_interactions(1, 30, 50, mean=8.0)
    write_interactions(tmp_path, data)
    again = read_interactions(tmp_path)
    for split in ("train", "validation", "test"):
        assert torch.equal(again.mask(split), data.mask(split)[:, : again.items])


def test_genuine_files_are_read(tmp_path):
    (tmp_path / "train.txt").write_text("0 4 7 1 2 3 5 6 8 9 10\n1 0 2\n2 3\n")
    (tmp_path / "test.txt").write_text("0 11\n1 \n2 0 1\n")
    data = read_interactions(tmp_path)
    assert (data.users, data.items) == (3, 12)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 1, 3)
    assert int(data.validation[0, 0]) == 0  # a tenth of user 0's ten items; the others are too few to hold one back
    assert not bool((data.mask("train") & data.mask("validation")).any())


def test_repeated_test_items_are_dropped_aloud(tmp_path):
    (tmp_path / "train.txt").write_text("0 1 2\n")
    (tmp_path / "test.txt").write_text("0 2 3\n")
    with pytest.warns(UserWarning, match="dropped 1 test interaction"):
        assert read_interactions(tmp_path).test.tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("0 1 x\n", "line 1: expected whole numbers"),
        ("0 1\n1 -2\n", "line 2: identifiers must not be negative"),
        ("0 1\n0 2\n", "line 2: user 0 already"),
        ("", "holds no interaction"),
    ],
)
def test_broken_files_are_explained(tmp_path, train, message):
    (tmp_path / "train.txt").write_text(train)
    (tmp_path / "test.txt").write_text("0 3\n")
    with pytest.raises(ValueError, match=message):
        read_interactions(tmp_path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no train\.txt"):
        read_interactions(tmp_path)


def test_nothing_to_write(tmp_path):
    none = torch.empty(0, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="data has an empty training split"):
        write_interactions(tmp_path, Interactions(1, 1, none, none, none))
