"""What travels: the rules of a publish, its JSON, times, and ids that ascend."""

import json
import re
import uuid
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.errors import Refusal
from tocsin.message import (
    MAX_MESSAGE_BYTES,
    MessageIds,
    Publication,
    PublishRequest,
    check_publish,
    erase,
    is_chat_id,
    is_user_id,
    parse_rfc3339,
    publication,
    read_back,
    rfc3339,
    timestamp_of,
)

PAYLOAD = {"chatId": "c1", "eventType": "chat", "content": "hello"}
MESSAGE_ID = "01a3185c-5000-7000-9b1e-69a7cbd92f26"


def request(payload: object = PAYLOAD, **fields: object) -> PublishRequest:
    return msgspec.convert(fields | {"payload": msgspec.Raw(json.dumps(payload).encode())}, PublishRequest)


def stamped(wanted: PublishRequest) -> Publication:
    return publication(
        wanted, check_publish(wanted, "alice"), sender_id="alice", message_id=MESSAGE_ID, timestamp=1_800_000_000_000
    )


def refusal(wanted: PublishRequest) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refused:
        check_publish(wanted, "alice")
    return refused.value.code, refused.value.field


# -- the rules of a publish ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({}, "payload.chatId"),
        ([], "payload"),
        ("text", "payload"),
        (PAYLOAD | {"chatId": 7}, "payload.chatId"),
        (PAYLOAD | {"chatId": ""}, "payload.chatId"),
        (PAYLOAD | {"chatId": "x" * 129}, "payload.chatId"),
        (PAYLOAD | {"chatId": "a b"}, "payload.chatId"),
        (PAYLOAD | {"chatId": "ü"}, "payload.chatId"),
        (PAYLOAD | {"chatId": "c1\n"}, "payload.chatId"),
        (PAYLOAD | {"eventType": ""}, "payload.eventType"),
        (PAYLOAD | {"eventType": "x" * 129}, "payload.eventType"),
        (PAYLOAD | {"eventType": None}, "payload.eventType"),
        ({"chatId": "c1", "eventType": "chat"}, "payload.content"),
        (PAYLOAD | {"requestSequence": "yes"}, "payload.requestSequence"),
        (PAYLOAD | {"requestSequence": 1}, "payload.requestSequence"),
    ],
)
def test_a_payload_that_is_wrong_is_refused_at_its_field(payload: object, field: str) -> None:
    assert refusal(request(payload)) == ("invalid_argument", field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"targetChannel": ""}, "targetChannel"),
        ({"targetChannel": "a b"}, "targetChannel"),
        ({"messageDeduplicationId": ""}, "messageDeduplicationId"),
        ({"messageDeduplicationId": "x" * 129}, "messageDeduplicationId"),
        ({"messageDeduplicationId": "ü"}, "messageDeduplicationId"),
        ({"messageDeduplicationId": "a\tb"}, "messageDeduplicationId"),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_name(fields: dict[str, str], field: str) -> None:
    assert refusal(request(**fields)) == ("invalid_argument", field)


def test_everything_else_in_a_payload_is_the_applications() -> None:
    contents: list[object] = [None, 0, [], {}, "", {"deep": [1, 2, {"er": None}]}]
    for content in contents:
        payload = check_publish(request(PAYLOAD | {"content": content, "more": 1, "sequenceNumber": 99}), "alice")
        assert payload.chat_id == "c1"


@pytest.mark.parametrize(
    ("channel", "kind", "asks", "numbered", "ordered"),
    [
        ("WebSocket", "fifo", False, True, True),
        ("WebSocket", "fifo", True, True, True),
        ("WebSocket", "standard", False, False, False),
        ("WebSocket", "standard", True, True, True),
        ("email", "fifo", False, False, True),
        ("email", "standard", False, False, False),
        ("websocket", "standard", False, False, False),
    ],
)
def test_a_number_means_the_fifo_path_and_fifo_to_websocket_a_number(
    channel: str, kind: str, asks: bool, numbered: bool, ordered: bool
) -> None:
    one = stamped(request(PAYLOAD | {"requestSequence": asks}, targetChannel=channel, messageType=kind))
    assert (one.numbered, one.ordered, one.message_type) == (numbered, ordered, kind)


def test_other_channels_have_no_numbers_to_ask_for() -> None:
    wanted = request(PAYLOAD | {"requestSequence": True}, targetChannel="email")
    assert refusal(wanted) == ("invalid_argument", "payload.requestSequence")


@pytest.mark.parametrize("extra", [{}, {"messageDeduplicationId": '"' * 128}, {"targetChannel": "x" * 128}])
def test_a_message_is_refused_when_it_would_be_too_large_as_it_is_delivered(extra: dict[str, str]) -> None:
    def of_size(size: int) -> PublishRequest:
        return request(PAYLOAD | {"content": "x" * size}, **extra)

    def fits(size: int) -> bool:
        try:
            check_publish(of_size(size), "alice")
        except Refusal:
            return False
        return True

    most = bisect_left(range(MAX_MESSAGE_BYTES), True, key=lambda size: not fits(size)) - 1
    delivered = stamped(of_size(most)).render(9_223_372_036_854_775_807)
    assert 0 <= MAX_MESSAGE_BYTES - (len(delivered) + len('"type":"message",')) < 8
    assert refusal(of_size(most + 1)) == ("message_too_large", None)


def test_identifiers_are_of_the_closed_set_and_length() -> None:
    good = "AZaz09._:@|+=~-"
    assert is_chat_id(good)
    assert is_chat_id("x" * 128)
    assert is_user_id("x" * 120)
    assert not is_user_id("x" * 121)
    for bad in ("", " ", "a b", "a/b", "a#b", "ü", "a\n", "\n", "x" * 129, "a\x00"):
        assert not is_chat_id(bad)


# -- its JSON --------------------------------------------------------------------------------------------------------


def test_a_message_is_one_json_object_with_the_payload_as_it_was_sent() -> None:
    raw = b'{ "chatId":"c1",\n "eventType":"chat", "content": {"n": 1.10e+3, "z": 1, "a": "\\u00fc"} }'
    wanted = msgspec.convert(
        {"messageType": "fifo", "payload": msgspec.Raw(raw), "messageDeduplicationId": 'a "b" \\'}, PublishRequest
    )
    body = stamped(wanted).render(7)
    assert body.endswith(b'"payload":' + raw + b"}")
    assert json.loads(body) == {
        "messageId": MESSAGE_ID,
        "messageType": "fifo",
        "targetChannel": "WebSocket",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "senderId": "alice",
        "sequenceNumber": 7,
        "messageDeduplicationId": 'a "b" \\',
        "payload": json.loads(raw),
    }


def test_without_number_and_id_neither_stands_in_it() -> None:
    body = json.loads(stamped(request()).render(None))
    assert not {"sequenceNumber", "messageDeduplicationId"} & set(body)


@pytest.mark.parametrize("number", [None, 1, 10**15])
@pytest.mark.parametrize("kind", ["fifo", "standard"])
def test_what_was_rendered_is_read_back(kind: str, number: int | None) -> None:
    body = stamped(request(messageType=kind)).render(number)
    message = read_back(body, position=5)
    assert (message.message_id, message.chat_id, message.target_channel) == (MESSAGE_ID, "c1", "WebSocket")
    assert (message.sequence_number, message.body, message.position) == (number, body, 5)
    assert message.ordered is (kind == "fifo" or number is not None)
    assert message.timestamp == timestamp_of(MESSAGE_ID)
    assert json.loads(message.frame()) == {"type": "message"} | json.loads(body)


def test_an_erased_message_keeps_all_but_what_was_published() -> None:
    body = stamped(request(PAYLOAD | {"content": "secret", "more": "secret"}, messageType="fifo")).render(7)
    erased = erase(body)
    assert b"secret" not in erased
    before, after = json.loads(body), json.loads(erased)
    assert after == before | {"payload": {"chatId": "c1", "eventType": "erased", "content": None}}
    assert read_back(erased).sequence_number == 7


def test_a_fingerprint_is_of_what_was_published_and_where() -> None:
    one = stamped(request())
    assert one.fingerprint() == msgspec.structs.replace(one, message_id="other", timestamp=1).fingerprint()
    others = [
        request(PAYLOAD | {"content": "other"}),
        request(messageType="fifo"),
        request(targetChannel="email"),
        request(PAYLOAD | {"requestSequence": True}),
        request(dict(reversed(PAYLOAD.items()))),
    ]
    assert len({one.fingerprint(), *(stamped(other).fingerprint() for other in others)}) == 6


# -- times -----------------------------------------------------------------------------------------------------------


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_a_time_with_any_offset_is_the_same_moment(moment: datetime, offset: int) -> None:
    exact = moment.replace(tzinfo=UTC)
    milliseconds = (exact - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    sign, (hours, minutes) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
    local = (moment + timedelta(minutes=offset)).isoformat(timespec="microseconds")
    assert parse_rfc3339(f"{local}{sign}{hours:02}:{minutes:02}") == milliseconds
    assert parse_rfc3339(f"{moment.isoformat(timespec='microseconds')}Z") == milliseconds


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_that_was_written_is_read_back(milliseconds: int) -> None:
    text = rfc3339(milliseconds).decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert parse_rfc3339(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["2027-01-15T08:00:00Z", "2027-01-15t08:00:00z", "2027-01-15 08:00:00.000000001+00:00"]
)
def test_other_spellings_of_rfc_3339_are_taken(text: str) -> None:
    assert parse_rfc3339(text) == 1_800_000_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2027-01-15",
        "2027-01-15T08:00:00",
        "2027-01-15T08:00Z",
        "2027-13-15T08:00:00Z",
        "2027-02-30T08:00:00Z",
        "2027-01-15T25:00:00Z",
        "2027-01-15T08:00:60Z",
        "2027-01-15T08:00:00+25:00",
        "2027-01-15T08:00:00.Z",
        "2027-01-15T08:00:00.0000000000000000001Z",
        "0000-01-01T00:00:00Z",
        "20270115T080000Z",
        "\uff12027-01-15T08:00:00Z",
        "2027-01-15T08:00:00Z\n",
        "1800000000",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever of its parts is wrong
        parse_rfc3339(text)


# -- ids -------------------------------------------------------------------------------------------------------------


def test_an_id_is_a_uuid_of_version_seven_with_its_own_time() -> None:
    drawn, at = MessageIds(Random(1).getrandbits).draw(1_800_000_000_123)
    parsed = uuid.UUID(drawn)
    assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, drawn)
    assert timestamp_of(drawn) == at == 1_800_000_000_123


@given(st.lists(st.integers(-5_000, 5_000), min_size=1, max_size=50), st.integers(1, 200))
def test_ids_ascend_whatever_the_clock_does(steps: list[int], burst: int) -> None:
    ids = MessageIds(Random(1).getrandbits, after=1_800_000_000_000)
    now, drawn = 1_800_000_000_000, []
    for step in steps:
        now += step
        drawn += [ids.draw(now) for _ in range(burst)]
    assert drawn == sorted(drawn)
    assert len({one for one, _ in drawn}) == len(drawn)
    assert all(timestamp_of(one) == at for one, at in drawn)
    assert all(uuid.UUID(one).version == 7 for one, _ in drawn)


def test_more_ids_than_a_millisecond_can_count_borrow_from_the_next() -> None:
    ids = MessageIds(Random(1).getrandbits)
    drawn = [ids.draw(1_000) for _ in range(10_000)]
    assert drawn == sorted(drawn)
    assert drawn[-1][1] == 1_002


def test_after_a_restart_ids_go_on_behind_the_last_one() -> None:
    last, at = MessageIds(Random(1).getrandbits).draw(5_000)
    after, later = MessageIds(Random(1).getrandbits, after=at).draw(4_000)
    assert (after > last, later) == (True, 5_001)
