"""Versions and aliases: what runs follows from the alias and the invocation's id alone."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.deployed.record import KEPT, LIVE, Alias, Record, Version

IDS = [f"{number:032x}" for number in range(1000)]


def version(number, code="c"):
    return Version(number=number, code=code, size=1, options={"handler": "h.py:handler"}, created="now")


def record(*numbers, **aliases):
    versions = {number: version(number) for number in numbers}
    return Record(name="f", last=max(numbers, default=0), versions=versions, aliases=aliases)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_share_gets_about_its_part_of_a_thousand_invocations(share):
    alias = Alias(version=1, weights={2: share})
    got = sum(alias.pick(id) == 2 for id in IDS)
    assert abs(got - 1000 * share) < 4 * (1000 * share * (1 - share)) ** 0.5 + 1


def test_an_invocation_stays_on_its_version_however_often_it_is_asked():
    alias = Alias(version=1, weights={2: 0.3, 3: 0.3})
    assert [alias.pick(id) for id in IDS] == [Alias(version=1, weights={3: 0.3, 2: 0.3}).pick(id) for id in IDS]


@given(st.floats(0, 1), st.floats(0, 1), st.text(min_size=1))
def test_a_share_that_grows_keeps_the_invocations_that_it_had(one, other, id):
    small, large = sorted((one, other))
    if Alias(version=1, weights={2: small}).pick(id) == 2:
        assert Alias(version=1, weights={2: large}).pick(id) == 2


def test_all_and_nothing_are_exact():
    assert {Alias(version=1, weights={2: 1.0}).pick(id) for id in IDS} == {2}
    assert {Alias(version=1, weights={2: 0.0}).pick(id) for id in IDS} == {1}


def test_a_new_version_is_live_or_gets_its_share():
    first = Record(name="f").with_version(version(1), 0.1, None)
    assert first.live == Alias(version=1)  # there is none before it that could have the rest
    canary = first.with_version(version(2), 0.1, None)
    assert canary.live == Alias(version=1, weights={2: 0.1})
    assert canary.with_version(version(3), 1, None).live == Alias(version=3)


def test_a_new_version_keeps_the_triggers_unless_it_brings_its_own():
    first = Record(name="f").with_version(version(1), 1, [{"source": "a"}])
    assert first.with_version(version(2), 1, None).triggers == [{"source": "a"}]
    assert first.with_version(version(2), 1, [{"source": "b"}]).triggers == [{"source": "b"}]


def test_pruning_leaves_what_an_alias_names_and_the_newest():
    many = record(*range(1, 21), live=Alias(version=3, weights={5: 0.1}), old=Alias(version=1))
    assert sorted(many.pruned(2).versions) == [1, 3, 5, 19, 20]
    assert sorted(many.pruned(0).versions) == [1, 3, 5]
    grown = Record(name="f")
    for number in range(1, 31):
        grown = grown.with_version(version(number), 1, None)
    assert sorted(grown.versions) == list(range(31 - KEPT, 31))


def test_a_qualifier_is_an_alias_or_a_number():
    one = record(1, 2, live=Alias(version=2), stage=Alias(version=1))
    assert [one.resolve(qualifier, "id") for qualifier in ("", LIVE, "stage", "1", "7", "x")] == [
        2,
        2,
        1,
        1,
        None,
        None,
    ]


def test_the_version_before_is_the_next_older_one_that_is_kept():
    assert record(1, 4, 7, live=Alias(version=7)).before_live() == 4
    assert record(3, 4, live=Alias(version=3)).before_live() is None
    assert record(1, 2, live=Alias(version=0)).before_live() is None


@pytest.mark.parametrize("code", ["", "../../etc", "/../../../../q", "a" * 63, "a" * 64 + "\n", "A" * 64])
def test_code_that_is_no_hash_is_not_taken_from_redis(code):
    row = msgspec.json.encode(record(1, live=Alias(version=1)))
    assert msgspec.json.decode(row.replace(b'"c"', f'"{"c" * 64}"'.encode()), type=Record, strict=False)
    with pytest.raises(msgspec.ValidationError, match="code"):
        msgspec.json.decode(row.replace(b'"c"', msgspec.json.encode(code)), type=Record, strict=False)
