"""Cursors: what a former secret has signed is good as long as that is known, and nothing else is."""

import pytest

from tocsin.errors import Refusal
from tocsin.gateways.cursors import Cursors


def test_a_place_that_a_former_secret_signed_is_still_good_and_a_new_one_is_signed_with_the_present() -> None:
    place = Cursors(b"old").seal("place", ("messages", "c1"))
    both = Cursors(b"new", b"old")
    assert both.open(place, ("messages", "c1")) == "place"
    assert Cursors(b"new").open(both.seal("next", ("messages", "c1")), ("messages", "c1")) == "next"
    with pytest.raises(Refusal, match="not one that was given"):
        Cursors(b"newer", b"new").open(place, ("messages", "c1"))
