"""Tags: equal for equal people, different for any difference, found again after a key rotation."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from chassis.sealing import Keyring
from verification.checks import Identity
from verification.tags import Tagger

OLD, NEW = b"\x01" * 32, b"\x02" * 32
BORN = date(1990, 1, 1)
ADA = Identity("Ada Test", BORN, "1234", "CA")
tagger = Tagger(Keyring({1: OLD}, current=1))


def test_spelling_does_not_matter_and_everything_else_does() -> None:
    tag = tagger.identity("t", ADA)
    assert tag == tagger.identity("t", Identity("  ada TEST", BORN, "1234", "CA"))
    others = [
        tagger.identity("u", ADA),
        tagger.identity("t", Identity("Ada Tess", BORN, "1234", "CA")),
        tagger.identity("t", Identity("Ada Test", date(1990, 1, 2), "1234", "CA")),
        tagger.identity("t", Identity("Ada Test", BORN, "1235", "CA")),
        tagger.identity("t", Identity("Ada Test", BORN, "1234", "NY")),
    ]
    assert len({tag.current, *(other.current for other in others)}) == 6


@given(st.text(), st.text(), st.text(), st.text())
def test_no_two_customers_share_a_tag(tenant: str, customer: str, other_tenant: str, other: str) -> None:
    same = (tenant, customer) == (other_tenant, other)
    assert (tagger.customer(tenant, customer) == tagger.customer(other_tenant, other)) is same


def test_a_rotated_keyring_still_finds_old_tags_and_stores_new_ones() -> None:
    rotated = Tagger(Keyring({1: OLD, 2: NEW}, current=2)).customer("t", "c")
    before = tagger.customer("t", "c")
    assert before.current in rotated.all
    assert rotated.current != before.current


def test_an_identity_does_not_show_in_its_repr() -> None:
    assert repr(ADA) == "Identity()"
