"""The one rule, held against cases worked by hand."""

import math

import pytest

from tests.helpers import unchecked
from touchstone.catalogue import Bound, Claim, TouchstoneError
from touchstone.verdict import NOT_REPRODUCED, PARTLY, REPRODUCED, judge, judge_bound

NAN, INF = math.nan, math.inf


def bound(aggregate="median", no_effect=None, measure="m", **side) -> Bound:
    return Bound(measure=measure, of="what", aggregate=aggregate, no_effect=no_effect, **side)


def claim(*bounds: Bound) -> Claim:
    return Claim(id="c", says="it holds", source="paper", bounds=bounds)


@pytest.mark.parametrize(
    ("rule", "values", "aggregate", "met", "leans"),
    [
        # the design's example: three seeds, interval = their range, excludes 1
        (bound(at_least=10, no_effect=1), [31.2, 24.8, 40.1], 31.2, True, True),
        # right side of no effect, threshold missed
        (bound(at_least=3, no_effect=1), [2.2, 1.8, 2.6], 2.2, False, True),
        # threshold satisfied, but one seed shows the opposite: the interval includes no effect
        (bound(at_least=3, no_effect=1), [4.1, 0.7, 5.0], 4.1, False, False),
        # at_most mirrors at_least
        (bound(at_most=-0.7, no_effect=0, aggregate="mean"), [-0.8, -0.9, -0.75], -0.8166666666666668, True, True),
        (bound(at_most=-0.7, no_effect=0, aggregate="mean"), [-0.3, -0.2, -0.4], -0.3, False, True),
        # a NaN is the worst value on either side
        (bound(at_least=3, no_effect=1), [4.1, NAN, 5.0], 4.1, False, False),
        (bound(at_most=1), [0.5, NAN, 0.4], 0.5, True, True),
        (bound(at_most=1, aggregate="max"), [0.5, NAN, 0.4], INF, False, False),
        (bound(at_least=1, aggregate="min"), [5.0, NAN], -INF, False, False),
        (bound(at_least=1, aggregate="mean"), [5.0, NAN, 7.0], -INF, False, False),
        # a share counts what is true; NaN never does
        (bound(at_least=0.8, aggregate="share"), [1, 1, 1, 1, 0], 0.8, True, True),
        (bound(at_least=0.8, aggregate="share"), [1, 1, 1, NAN, 0], 0.6, False, False),
        # thresholds and no effect of zero are numbers like any other
        (bound(at_most=0, aggregate="max"), [0.0, 0.0], 0.0, True, True),
        (bound(at_least=0, no_effect=0), [0.1, 0.2, 0.3], 0.2, True, True),
        (bound(at_least=0.005, no_effect=0), [0.0, 0.01, 0.02], 0.01, False, False),
        # ties: all values equal to no effect show nothing
        (bound(at_least=1, no_effect=1), [1.0, 1.0, 1.0], 1.0, False, False),
        (bound(at_least=1), [1.0, 1.0, 1.0], 1.0, True, True),
        # infinities stay infinities
        (bound(at_most=0.95, no_effect=1), [INF, 0.5, INF], INF, False, False),
    ],
)
def test_bounds_by_hand(rule, values, aggregate, met, leans):
    result = judge_bound(rule, values)
    assert result.aggregate == aggregate or result.aggregate == pytest.approx(aggregate)
    assert (result.met, result.leans) == (met, leans)
    assert result.interval is not None and not any(math.isnan(end) for end in result.interval)


def test_interval_of_three_values_is_their_range():
    assert judge_bound(bound(at_least=0), [3.0, 1.0, 2.0]).interval == [1.0, 3.0]


def test_interval_of_a_mean_by_hand():
    # two values: the resampled mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4
    assert judge_bound(bound(at_least=0, aggregate="mean"), [0.0, 1.0]).interval == [0.0, 1.0]
    # twenty equal values and one other: the mean's interval reaches at most four times the other's weight
    low, high = judge_bound(bound(at_least=0, aggregate="mean"), [0.0] * 20 + [1.0]).interval
    assert low == 0.0 and high in (pytest.approx(3 / 21), pytest.approx(4 / 21))


def test_one_value_has_no_interval():
    met = judge_bound(bound(at_most=1e-12), [3e-14])
    assert met.interval is None and met.met
    # one value cannot exclude "nothing to see": it leans at most
    single = judge_bound(bound(at_least=3, no_effect=1), [30.0])
    assert single.interval is None and not single.met and single.leans
    assert not judge_bound(bound(at_least=3, no_effect=1), [0.5]).leans
    assert not judge_bound(bound(at_least=3), [NAN]).met


def test_the_same_values_give_the_same_interval():
    values = [0.3, 1.7, 2.2, 5.0, 0.9]
    assert judge_bound(bound(at_least=1), values) == judge_bound(bound(at_least=1), values)


MET, LEANS, MISSED = [5.0, 6.0, 7.0], [1.5, 1.6, 1.7], [0.5, 0.6, 0.7]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([MET], REPRODUCED),
        ([LEANS], PARTLY),
        ([MISSED], NOT_REPRODUCED),
        ([MET, MET], REPRODUCED),
        ([MET, LEANS], PARTLY),
        ([LEANS, LEANS], PARTLY),
        ([MET, MISSED], PARTLY),
        ([LEANS, MISSED], NOT_REPRODUCED),
        ([MISSED, MISSED], NOT_REPRODUCED),
    ],
)
def test_verdicts_follow_from_bounds(values, verdict):
    names = [f"m{i}" for i in range(len(values))]
    rule = claim(*(bound(at_least=2, no_effect=1, measure=name) for name in names))
    assert judge(rule, dict(zip(names, values, strict=True))).verdict == verdict


def test_measures_must_be_those_registered():
    rule = claim(bound(at_least=1))
    with pytest.raises(TouchstoneError, match="missing: m"):
        judge(rule, {})
    with pytest.raises(TouchstoneError, match="not registered: n"):
        judge(rule, {"m": [1.0], "n": [1.0]})
    with pytest.raises(TouchstoneError, match="'m': no values"):
        judge(rule, {"m": []})
    with pytest.raises(TouchstoneError, match="'m': values are not numbers"):
        unchecked(judge_bound)(rule.bounds[0], ["many"])
