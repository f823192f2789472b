"""What is wrong with an action is named: the field, and the chat."""

import json

import pytest

from tocsin.errors import Refusal
from tocsin.gateways.actions import MAX_SYNC, Sync, decode, readable_ids


@pytest.mark.parametrize(
    "chats",
    [{}, {f"c{number}": None for number in range(MAX_SYNC + 1)}, [], None],
    ids=["none", "too many", "an array", "null"],
)
def test_a_sync_that_no_chat_is_to_blame_for_is_refused_whole(chats: object) -> None:
    with pytest.raises(Refusal) as refused:
        decode(json.dumps({"action": "sync", "chats": chats}).encode())
    assert (refused.value.code, refused.value.field) == ("invalid_argument", "chats")


@pytest.mark.parametrize(
    "wrong", ["-1", "1.5", '"1"', "true", "[]", "{}", "1e30", "1e999", "9" * 400, "1000000000000000000"]
)
def test_of_a_sync_the_chat_at_fault_is_refused_and_the_others_are_not(wrong: str) -> None:
    action = decode(f'{{"action":"sync","chats":{{"q1":null,"c1":{wrong},"not good":1,"q2":7}}}}'.encode())
    assert isinstance(action, Sync)
    wanted = action.wanted()
    assert (wanted["q1"], wanted["q2"]) == (None, 7)
    refused = [one for one in wanted.values() if isinstance(one, Refusal)]
    assert [(one.code, one.field, one.chat_id) for one in refused] == [
        ("invalid_argument", "chats.c1", "c1"),
        ("invalid_argument", "chats.not good", None),
    ]


@pytest.mark.parametrize(
    ("text", "chat_id"),
    [
        (b'{"action":"subscribe","requestId":"r","chatId":"c1","colour":1}', "c1"),
        (b'{"action":"sendMessage","requestId":"r","messageType":"lifo","payload":{"chatId":"c1"}}', "c1"),
        (b'{"action":"sendMessage","requestId":"r","payload":{"chatId":"not good"}}', None),
        (b'{"action":"sendMessage","requestId":"r","payload":[]}', None),
    ],
)
def test_of_what_is_refused_the_chat_is_found_where_the_action_has_it(text: bytes, chat_id: str | None) -> None:
    assert readable_ids(text) == ("r", chat_id)


def test_a_text_so_deep_that_nothing_of_it_can_be_read_is_refused_like_any_other() -> None:
    text = b'{"action":"ping","requestId":"r","colour":' + b"[" * 60_000 + b"]" * 60_000 + b"}"
    with pytest.raises(Refusal) as refused:
        decode(text)
    assert (refused.value.code, readable_ids(text)) == ("invalid_json", (None, None))
