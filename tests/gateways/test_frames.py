"""The frame reader, without a socket: what it reads, what it refuses, what it costs."""

import gc
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gateways.peer import close, frame, text
from tocsin.gateways.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    PING,
    PONG,
    TEXT,
    Binary,
    Close,
    Event,
    FrameReader,
    Ping,
    Pong,
    Violation,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)


def codes(events: list[Event]) -> list[int]:
    return [event.code for event in events if isinstance(event, Violation)]


def kept(reader: FrameReader) -> int:
    """Bytes of memory that a reader holds, all that it refers to included."""
    total, seen, todo = 0, set(), [reader]
    while todo:
        found = todo.pop()
        if id(found) not in seen and not isinstance(found, type):
            seen.add(id(found))
            total += sys.getsizeof(found)
            todo += gc.get_referents(found)
    return total


# Streams of a client that keeps the rules, each with the events that it must give.

controls = st.one_of(
    st.binary(max_size=125).map(lambda payload: (frame(PING, payload), [Ping(payload)])),
    st.binary(max_size=125).map(lambda payload: (frame(PONG, payload), [Pong(payload)])),
)
sizes = st.sampled_from([0, 1, 125, 126, 127, 4_000, 65_535, 65_536, MAX_MESSAGE])


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """A text or binary message in any number of frames, control frames between them."""
    written = draw(st.one_of(st.text(max_size=200), st.binary(max_size=200), sizes.map(lambda size: "x" * size)))
    opcode, payload = (TEXT, written.encode()) if isinstance(written, str) else (BINARY, written)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    parts = [payload[start:stop] for start, stop in pairwise([0, *cuts, len(payload)])]
    stream, events = b"", list[Event]()
    for number, part in enumerate(parts):
        if number and draw(st.booleans()):
            between, event = draw(controls)
            stream, events = stream + between, [*events, *event]
        stream += frame(CONTINUATION if number else opcode, part, final=number == len(parts) - 1)
    return stream, [*events, payload if opcode == TEXT else Binary(payload)]


streams = st.lists(st.one_of(messages(), controls), max_size=6).map(
    lambda parts: (b"".join(part for part, _ in parts), [event for _, events in parts for event in events])
)
endings = st.one_of(
    st.just(b""), st.binary(max_size=40), st.sampled_from([close(), frame(CLOSE), b"\x81\x05hello", b"\xff"])
)


@given(streams, endings, st.data())
def test_any_split_of_a_stream_gives_the_same_events(
    stream: tuple[bytes, list[Event]], ending: bytes, data: st.DataObject
) -> None:
    sent, expected = stream
    whole = FrameReader().feed(sent + ending)
    assert whole[: len(expected)] == expected
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent + ending)), max_size=20)))
    reader, events = FrameReader(), list[Event]()
    for start, stop in pairwise([0, *cuts, len(sent + ending)]):
        events += reader.feed((sent + ending)[start:stop])
    assert events == whole


@given(st.lists(st.binary(max_size=300), max_size=30))
def test_no_bytes_raise_and_nothing_is_read_after_the_end(reads: list[bytes]) -> None:
    reader, events = FrameReader(limit=200), list[Event]()
    for read in reads:
        events += reader.feed(read)
        assert kept(reader) < 4_000
    assert not [event for event in events[:-1] if isinstance(event, (Close, Violation))]


@given(st.binary(max_size=40), st.integers(0, 255))
def test_a_stream_with_one_byte_changed_raises_nothing(payload: bytes, change: int) -> None:
    sent = frame(TEXT, payload[:20], final=False) + frame(PING) + frame(CONTINUATION, payload[20:])
    for position in range(len(sent)):
        reader = FrameReader()
        reader.feed(sent[:position] + bytes((sent[position] ^ change,)) + sent[position + 1 :])


def mask(header: bytes, payload: bytes = b"") -> bytes:
    """A frame with any header; the mask is 0, so that it is read as it stands."""
    return header + bytes(4) + payload


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (frame(CONTINUATION, b"x"), "There is no message that this frame continues."),
        (frame(TEXT, b"a", final=False) + text("b"), "A message must end before another begins."),
    ],
)
def test_who_mixes_up_his_frames_is_told_how(sent: bytes, words: str) -> None:
    (violation,) = FrameReader().feed(sent)
    assert isinstance(violation, Violation)
    assert violation.reason == words


VIOLATIONS = {
    "a frame without a mask": (b"\x81\x00", 1002),
    "a reserved bit": (mask(b"\xc1\x80"), 1002),
    "a reserved data opcode": (mask(b"\x83\x80"), 1002),
    "a reserved control opcode": (mask(b"\x8b\x80"), 1002),
    "a ping in fragments": (mask(b"\x09\x80"), 1002),
    "a ping over 125 bytes": (mask(b"\x89\xfe\x00\x7e", bytes(126)), 1002),
    "a long form of a short length": (mask(b"\x81\xfe\x00\x7d", bytes(125)), 1002),
    "a longest form of a middle length": (mask(b"\x81\xff" + (65_535).to_bytes(8, "big")), 1002),
    "a length with its highest bit": (mask(b"\x81\xff\x80" + bytes(7)), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"a", final=False) + text("b"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close code that is reserved": (close(1005), 1002),
    "a close code below all": (close(999), 1002),
    "a close code that is not assigned": (close(2999), 1002),
    "a close code above all": (close(5000), 1002),
    "a close reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a text that is not UTF-8": (text(b"\xff"), 1007),
    "a surrogate": (text(b"\xed\xa0\x80"), 1007),
    "a text that ends within a character": (text(b"\xc3"), 1007),
    "a message in fragments that ends within a character": (
        frame(TEXT, b"a", final=False) + frame(CONTINUATION, b"\xc3"),
        1007,
    ),
    "2^40 bytes": (b"\x82\xff" + (2**40).to_bytes(8, "big"), 1009),
    "one byte too many": (b"\x81\xff" + (MAX_MESSAGE + 1).to_bytes(8, "big"), 1009),
    "one byte too many, in fragments": (
        frame(TEXT, bytes(MAX_MESSAGE), final=False) + b"\x80\x81",
        1009,
    ),
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_a_violation_is_told_by_its_code_before_its_payload_is_there(what: str) -> None:
    sent, code = VIOLATIONS[what]
    reader = FrameReader()
    assert codes(reader.feed(sent)) == [code]
    assert reader.feed(text("more")) == []
    assert kept(reader) < 400


def test_what_came_before_a_violation_is_still_read() -> None:
    events = FrameReader().feed(text("first") + b"\x81\x00")
    assert events[0] == b"first"
    assert codes(events) == [1002]


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1014, 3000, 4999])
def test_a_close_frame_tells_its_code_and_reason(code: int) -> None:
    assert FrameReader().feed(frame(CLOSE, code.to_bytes(2, "big") + "é".encode())) == [Close(code, "é")]
    assert FrameReader().feed(frame(CLOSE)) == [Close(1005, "")]


def test_text_in_fragments_fails_at_the_fragment_that_breaks_it() -> None:
    reader = FrameReader()
    assert reader.feed(frame(TEXT, "κό".encode()[:3], final=False)) == []
    assert codes(reader.feed(frame(CONTINUATION, b"\xff", final=False))) == [1007]


def test_a_character_may_be_cut_by_a_fragment() -> None:
    reader = FrameReader()
    assert reader.feed(frame(TEXT, b"\xc3", final=False) + frame(CONTINUATION, b"\xa9")) == ["é".encode()]


def test_a_message_has_so_many_fragments_and_no_more() -> None:
    reader = FrameReader()
    reader.feed(frame(TEXT, final=False) + frame(CONTINUATION, final=False) * (MAX_FRAGMENTS - 1))
    assert kept(reader) < 1_500
    assert codes(reader.feed(frame(CONTINUATION, final=False))) == [1009]


def test_a_message_that_comes_byte_by_byte_costs_no_more_than_its_bytes() -> None:
    size = 2**20
    sent = text("x" * size) + frame(TEXT, final=False) + frame(CONTINUATION, b"y")
    reader, events = FrameReader(limit=size), list[Event]()
    began = time.process_time()
    for position in range(len(sent)):
        events += reader.feed(sent[position : position + 1])
    assert time.process_time() - began < 5  # 0.3 s here; a copy for each byte takes over 30 s
    assert events == [b"x" * size, b"y"]


def test_an_idle_reader_is_small() -> None:
    reader = FrameReader()
    reader.feed(text("hello") + frame(TEXT, b"a", final=False) + frame(CONTINUATION, b"b"))
    assert sys.getsizeof(reader) <= 96
    assert kept(reader) < 250


def test_what_is_read_is_not_held_by_a_cycle() -> None:
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            FrameReader().feed(text("x" * 1_000) + b"\xff\xff")
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_text_frame_takes_the_shortest_length(size: int) -> None:
    header = text_frame(b"x" * size).removesuffix(b"x" * size)
    assert header[0] == 0x81
    assert len(header) == (2 if size < 126 else 4 if size < 65_536 else 10)
    assert int.from_bytes(header[1:] if size < 126 else header[2:], "big") == size


def test_control_frames_carry_what_they_say() -> None:
    assert ping_frame(b"a") == b"\x89\x01a"
    assert pong_frame(b"b") == b"\x8a\x01b"
    assert close_frame(1000, "bye") == b"\x88\x05\x03\xe8bye"
    assert close_frame(1005) == b"\x88\x00"
    with pytest.raises(ValueError, match="125"):
        ping_frame(bytes(126))


def test_a_long_reason_is_cut_between_characters() -> None:
    cut = close_frame(1000, "é" * 100)
    assert cut[1] == 124
    assert cut[4:].decode() == "é" * 61
