"""The text on the bus: what goes in comes out, within what SNS and SQS take, and the last two versions are read."""

import re

import msgspec
import pytest

from tests.manual_clock import START
from tocsin.engines.aws.bus_format import (
    READERS,
    VERSION,
    UnknownFormat,
    is_numbered,
    message_of,
    publication_of,
    read,
    with_number,
    write,
)
from tocsin.message import MAX_MESSAGE_BYTES, MessageIds, MessageType, Publication

#: https://www.w3.org/TR/REC-xml/#charsets, which is what SQS names.
SQS_TAKES = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*").fullmatch
SNS_BYTES = 262_144


def publication(
    content: str = "hello",
    kind: MessageType = "fifo",
    *,
    channel: str = "WebSocket",
    numbered: bool = True,
    id: str | None = None,
) -> Publication:
    message_id, timestamp = MessageIds(lambda bits: 1).draw(START)
    payload = b'{"chatId":"c1","eventType":"chat","content":"%b"}' % content.encode()
    return Publication(
        message_id=message_id,
        timestamp=timestamp,
        sender_id="alice",
        chat_id="c1",
        target_channel=channel,
        message_type=kind,
        payload=payload,
        deduplication_id=id,
        numbered=numbered,
    )


@pytest.mark.parametrize(
    "one",
    [
        publication(),
        publication(kind="standard", numbered=True),
        publication(kind="standard", numbered=False),
        publication(channel="email", numbered=False),
        publication('ü ✓ \\u0000 \\" 1e400 \U0001f514', id='an "id"'),
        publication("\ufffe\uffff"),
    ],
)
def test_what_goes_in_comes_out(one: Publication) -> None:
    message = message_of(one)
    carried = read(write(message))
    assert carried.message == message
    assert carried.replay is None
    assert publication_of(carried.message) == one
    assert is_numbered(carried.message) is one.numbered
    assert read(write(message, replay="again")).replay == "again"


def test_the_numbered_message_is_what_was_published_with_the_number() -> None:
    one = publication("ü", id="id-1")
    numbered = with_number(message_of(one), 7, 9)
    assert (numbered.sequence_number, numbered.position) == (7, 9)
    assert numbered.body == one.render(7)


@pytest.mark.parametrize("character", ["\ufffe", "\uffff"])
def test_what_sqs_does_not_take_travels_in_another_alphabet(character: str) -> None:
    text = write(message_of(publication(f"a {character} b")))
    assert SQS_TAKES(text)
    assert read(text).message.body == publication(f"a {character} b").render(None)


def test_the_largest_message_fits() -> None:
    for filler in ("x", '\\"', "\uffff"):
        one = publication(filler * ((MAX_MESSAGE_BYTES - 600) // len(filler.encode())), id='"' * 128)
        assert len(one.render(1)) <= MAX_MESSAGE_BYTES
        assert len(write(message_of(one)).encode()) + 1_000 < SNS_BYTES


def test_it_says_its_version_id_stamp_and_group() -> None:
    one = publication()
    text = msgspec.json.decode(write(message_of(one)))
    assert (text["v"], text["id"], text["at"], text["group"]) == (VERSION, one.message_id, one.timestamp, "c1")


def test_this_version_and_the_one_before_are_read() -> None:
    assert set(READERS) == {VERSION - age for age in (0, 1) if VERSION - age > 0}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a message of ours"),
        ("nonsense", "not a message of ours"),
        ("{}", "not a message of ours"),
        ('{"v":"1"}', "not a message of ours"),
        ('{"v":1}', "not a message of ours"),
        (f'{{"v":{VERSION + 1}}}', f"version {VERSION + 1}"),
        ('{"v":0}', "version 0"),
    ],
)
def test_any_other_text_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(UnknownFormat, match=reason):
        read(text)
