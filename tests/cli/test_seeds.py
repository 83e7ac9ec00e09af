"""Seed ranges: disjoint, bounded, and read from the command line as documented."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failwise.errors import SetupError
from failwise.seeds import (
    COLLECT,
    DEMOS,
    RANGES,
    TEST,
    VALIDATION,
    WIDTH,
    home_of,
    parse_seeds,
    refuse_overlap,
)


def test_the_ranges_are_where_the_documentation_says() -> None:
    assert [(r.name, r.start) for r in RANGES] == [
        ("demos", 0),
        ("collect", 100_000),
        ("validation", 200_000),
        ("test", 300_000),
        ("generate", 400_000),
    ]


@settings(deadline=None)
@given(st.data())
def test_claims_of_two_ranges_never_meet(data: st.DataObject) -> None:
    one, other = data.draw(st.sampled_from(list(combinations(RANGES, 2))))
    claims = []
    for home in (one, other):
        n = data.draw(st.integers(1, WIDTH))
        claims.append(home.claim(n, data.draw(st.integers(0, WIDTH - n))))
        assert all(seed in home for seed in (claims[-1][0], claims[-1][-1])) and len(claims[-1]) == n
    assert claims[0][-1] < claims[1][0] or claims[1][-1] < claims[0][0]


def test_rounds_follow_one_another_without_a_shared_seed() -> None:
    first, second = COLLECT.claim(120), COLLECT.claim(120, offset=120)
    assert first.stop == second.start


@pytest.mark.parametrize(("n", "offset"), [(0, 0), (-1, 0), (1, -1), (WIDTH + 1, 0), (1, WIDTH)])
def test_a_claim_that_would_leave_its_range_is_refused(n: int, offset: int) -> None:
    with pytest.raises(SetupError, match="validation"):
        VALIDATION.claim(n, offset)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("100", range(300_000, 300_100)),
        (" 1 ", range(300_000, 300_001)),
        ("1000:1100", range(1000, 1100)),
        ("0:1", range(0, 1)),
    ],
)
def test_seeds_as_a_user_writes_them(text: str, seeds: range) -> None:
    assert parse_seeds(text) == seeds


def test_a_count_is_taken_from_the_range_that_is_asked_for() -> None:
    assert parse_seeds("3", home=DEMOS) == range(0, 3)


@pytest.mark.parametrize(
    "text",
    ["", "ten", "1.5", "0", "-5", "5:5", "9:3", "-3:4", "1:", ":4", "1:2:3", "100001", f"0:{2**31 + 1}"],
)
def test_seeds_that_cannot_be_meant_are_refused(text: str) -> None:
    with pytest.raises(SetupError, match="seeds"):
        parse_seeds(text)


def test_overlap_names_both_purposes_and_a_seed() -> None:
    refuse_overlap({"demos": range(0, 50), "test": range(50, 60)})
    with pytest.raises(SetupError, match=r"demos and test seeds overlap: 1 shared, the first 49"):
        refuse_overlap({"demos": range(0, 50), "collect": range(100, 110), "test": range(49, 60)})


def test_home_of_names_every_range_that_is_touched() -> None:
    assert home_of([5, 300_001]) == [DEMOS, TEST]
    assert home_of([999_999]) == []
