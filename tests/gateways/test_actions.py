"""What is wrong with an action is named: the field, and of a `sync` the chat."""

import json

import pytest

from tocsin.errors import Refusal
from tocsin.gateways.actions import MAX_SYNC, decode


@pytest.mark.parametrize(
    ("chats", "field"),
    [
        ({"good": 0, "not good": 1}, "chats.not good"),
        ({"good": -1}, "chats.good"),
        ({}, "chats"),
        ({f"c{number}": None for number in range(MAX_SYNC + 1)}, "chats"),
    ],
    ids=["a chat", "a number", "none", "too many"],
)
def test_of_a_sync_that_is_refused_the_chat_at_fault_is_named(chats: dict[str, int | None], field: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode(json.dumps({"action": "sync", "chats": chats}).encode())
    assert (refused.value.code, refused.value.field) == ("invalid_argument", field)
