"""A check that cannot fail is a defect: each claim passes a lawful log, and catches the log that breaks just it."""

from collections.abc import Callable

import msgspec
import pytest

from tests.guarantees.checker import CLAIMS, check
from tests.guarantees.lawful import CHAT, Lawful, heard, replace_answer, row, stamp
from tests.guarantees.records import (
    Acked,
    Closed,
    DeadLetter,
    DeadLetterRead,
    Gap,
    Left,
    MemorySample,
    OwnersRead,
    Revoked,
    Subscribed,
    TicketUse,
)

# ------------------------------------------------------------------------------------------------ one breaker a claim


def lost_without_a_number(lawful: Lawful) -> None:
    lawful.stays.events = [event for event in lawful.stays.events if getattr(event, "message_id", "") != "p"]
    del lawful.plain.events[0]
    lawful.without("p")
    lawful.stays.events.append(Gap(at=41, unnumbered=1))


def stored_twice(lawful: Lawful) -> None:
    lawful.reread(lawful.by_number, rows=())
    lawful.reread(lawful.by_number, first=9)
    lawful.reread(lawful.by_time, rows=(*lawful.log.reads[lawful.by_time].rows, row("p", None)))


def payload_altered(lawful: Lawful) -> None:
    rows = tuple(
        msgspec.structs.replace(each, digest="other bytes") if each.message_id == "p" else each
        for each in lawful.log.reads[lawful.by_time].rows
    )
    lawful.reread(lawful.by_time, rows=rows)


def numbered_not_heard(lawful: Lawful) -> None:
    lawful.stays.events.pop()


def unnumbered_not_heard(lawful: Lawful) -> None:
    lawful.stays.events = [event for event in lawful.stays.events if getattr(event, "message_id", "") != "p"]


def a_hole_in_history(lawful: Lawful) -> None:
    lawful.log.subscriptions.clear()
    lawful.log.publishes = [each for each in lawful.log.publishes if each.digest != "bytes of c"]
    lawful.without("c")


def history_ends_early(lawful: Lawful) -> None:
    lawful.log.subscriptions.clear()
    lawful.log.publishes = [each for each in lawful.log.publishes if each.digest != "bytes of d"]
    lawful.without("d")


def a_second_message_under_a_number(lawful: Lawful) -> None:
    lawful.log.reads.clear()
    other = msgspec.structs.replace(heard("x", 3, 53), timestamp=stamp("c"))
    lawful.again.events[0] = other


def a_new_number_on_retry(lawful: Lawful) -> None:
    lawful.drops.events[2] = heard("b", None, 21)


def a_hole_in_a_subscription(lawful: Lawful) -> None:
    lawful.stays.events = [event for event in lawful.stays.events if getattr(event, "message_id", "") != "b"]


def a_gap_one_short(lawful: Lawful) -> None:
    lawful.stays.events = [*lawful.stays.events[:1], Gap(at=21, first=1, last=1), *lawful.stays.events[3:]]


def a_number_before_subscribed(lawful: Lawful) -> None:
    lawful.stays.events.insert(0, heard("a", 1, 1.5))
    del lawful.stays.events[2]


def a_repeat_without_a_number(lawful: Lawful) -> None:
    lawful.stays.events.append(heard("p", None, 42))


def numbered_against_the_acks(lawful: Lawful) -> None:
    replace_answer(lawful, 0, sent_at=23, answered_at=23.5, connection=None)


def a_pipeline_out_of_order(lawful: Lawful) -> None:
    replace_answer(lawful, 1, sent_at=9.9, answered_at=10.6)
    replace_answer(lawful, 2, sent_at=21, answered_at=22)


def a_head_that_fell(lawful: Lawful) -> None:
    lawful.reread(
        lawful.by_number,
        head=7,
        rows=(
            *lawful.log.reads[lawful.by_number].rows,
            *(row(key, number) for key, number in (("q", 5), ("r", 6), ("s", 7))),
        ),
    )


def a_head_below_what_was_heard(lawful: Lawful) -> None:
    lawful.again.events[2] = Subscribed(at=54, head=2, oldest=1, epoch="E", recovered=True)


def heard_and_not_readable(lawful: Lawful) -> None:
    lawful.log.publishes = [each for each in lawful.log.publishes if each.digest != "bytes of p"]
    lawful.without("p")


def an_id_with_two_messages(lawful: Lawful) -> None:
    replace_answer(lawful, 2, answer=Acked(message_id="b", timestamp=stamp("c"), duplicate=True))


def two_first_answers(lawful: Lawful) -> None:
    replace_answer(lawful, 2, answer=Acked(message_id="b", timestamp=stamp("b"), duplicate=False))


def a_refused_one_is_stored(lawful: Lawful) -> None:
    lawful.reread(lawful.by_time, rows=(row("e", None), *lawful.log.reads[lawful.by_time].rows))


def a_refused_one_is_heard(lawful: Lawful) -> None:
    lawful.drops.events.insert(3, heard("e", None, 21.5))


def heard_beyond_the_fence(lawful: Lawful) -> None:
    lawful.log.revocations = [msgspec.structs.replace(lawful.log.revocations[0], fence=1)]


def heard_what_came_after(lawful: Lawful) -> None:
    lawful.eve.events.insert(3, heard("p", None, 26))


def never_told_revoked(lawful: Lawful) -> None:
    lawful.log.publishes = [each for each in lawful.log.publishes if each.digest in {"bytes of a", "bytes of b"}]
    lawful.eve.events.pop()


def subscribed_after_the_revocation(lawful: Lawful) -> None:
    lawful.late_eve.events = [Subscribed(at=34, head=3, oldest=1, epoch="E", recovered=True), Revoked(at=35)]


def published_after_the_revocation(lawful: Lawful) -> None:
    replace_answer(lawful, 8, digest="bytes of p", answer=Acked(message_id="p", timestamp=stamp("p"), duplicate=True))


def read_after_the_revocation(lawful: Lawful) -> None:
    lawful.reread(lawful.by_time, reader="eve")


def something_after_revoked(lawful: Lawful) -> None:
    lawful.eve.events.append(Gap(at=25, unnumbered=1))


def something_after_unsubscribed(lawful: Lawful) -> None:
    lawful.stays.events.insert(4, Left(at=27))


def recovered_one_early(lawful: Lawful) -> None:
    del lawful.again.events[1]


def not_recovered_for_nothing(lawful: Lawful) -> None:
    lawful.again.events[2] = Subscribed(at=54, head=4, oldest=1, epoch="E", recovered=False)


def four_attempts(lawful: Lawful) -> None:
    lawful.log.dead_letters[0] = DeadLetterRead(asked_at=50, letters=(DeadLetter(message_id="d", attempts=4),))


def poison_that_vanished(lawful: Lawful) -> None:
    lawful.log.dead_letters.clear()


def a_dead_letter_without_poison(lawful: Lawful) -> None:
    lawful.log.poison.clear()


def expired_and_returned(lawful: Lawful) -> None:
    lawful.log.retention = 1000.0
    for place in range(len(lawful.log.reads)):
        lawful.reread(place, wall_at=1767225600.0 + 1000.0 + 0.102)  # p, with stamp .112, is just not expired; b is


def an_oldest_that_fell(lawful: Lawful) -> None:
    lawful.stays.events[0] = Subscribed(at=2, head=0, oldest=1, epoch="E", recovered=True)
    lawful.reread(lawful.by_number, oldest=2, oldest_after=2)


def an_oldest_beyond_the_head(lawful: Lawful) -> None:
    lawful.log.publishes.clear()
    lawful.log.subscriptions.clear()
    for place in range(len(lawful.log.reads)):
        lawful.reread(place, head=4, oldest=6, oldest_after=6)


def time_against_numbers(lawful: Lawful) -> None:
    lawful.log.publishes = [each for each in lawful.log.publishes if each.digest != "bytes of c"]
    early = msgspec.structs.replace(row("c", 3), timestamp=stamp("a"))
    for place, read in enumerate(lawful.log.reads):
        lawful.reread(place, rows=tuple(early if each.message_id == "c" else each for each in read.rows))
    for subscription in lawful.log.subscriptions:
        subscription.events = [
            msgspec.structs.replace(event, timestamp=stamp("a")) if getattr(event, "message_id", "") == "c" else event
            for event in subscription.events
        ]


def too_much_memory(lawful: Lawful) -> None:
    lawful.log.memory.append(MemorySample(at=51, resident=101 << 20, limit=100 << 20))


def who_knows_more_is_not_told(lawful: Lawful) -> None:
    lawful.log.restores = 1
    lawful.again.epoch = "another"


def an_epoch_for_no_reason(lawful: Lawful) -> None:
    lawful.drops.events = [Subscribed(at=2, head=0, oldest=1, epoch="F", recovered=True), Closed(at=3, code=1006)]


def ownerless(lawful: Lawful) -> None:
    lawful.log.owners[1] = OwnersRead(chat=CHAT, asked_at=50, owners=())


def a_ticket_twice(lawful: Lawful) -> None:
    lawful.log.tickets[1] = TicketUse(ticket="t", at=2, accepted=True)


def a_token_in_the_log(lawful: Lawful) -> None:
    lawful.log.output = "listening\nGET /dvl?token=eyJhbGciOi\n"


#: What a breaker breaks: one invariant, or those that cannot be told apart (stored twice is also two rows for an id).
BREAKERS: list[tuple[set[int], Callable[[Lawful], None]]] = [
    ({1}, lost_without_a_number),
    ({1, 9}, stored_twice),
    ({1, 8}, payload_altered),
    ({2}, numbered_not_heard),
    ({2}, unnumbered_not_heard),
    ({3}, a_hole_in_history),
    ({3}, history_ends_early),
    ({3}, a_second_message_under_a_number),
    ({3}, a_new_number_on_retry),
    ({4}, a_hole_in_a_subscription),
    ({4}, a_gap_one_short),
    ({4}, a_number_before_subscribed),
    ({5}, a_repeat_without_a_number),
    ({6}, numbered_against_the_acks),
    ({6}, a_pipeline_out_of_order),
    ({7}, a_head_that_fell),
    ({7}, a_head_below_what_was_heard),
    ({8}, heard_and_not_readable),
    ({9}, an_id_with_two_messages),
    ({9}, two_first_answers),
    ({10}, a_refused_one_is_stored),
    ({8, 10}, a_refused_one_is_heard),
    ({11}, heard_beyond_the_fence),
    ({11}, heard_what_came_after),
    ({11}, never_told_revoked),
    ({11}, subscribed_after_the_revocation),
    ({11}, published_after_the_revocation),
    ({11}, read_after_the_revocation),
    ({11}, something_after_revoked),
    ({11}, something_after_unsubscribed),
    ({12}, recovered_one_early),
    ({12}, not_recovered_for_nothing),
    ({13}, four_attempts),
    ({13}, poison_that_vanished),
    ({13}, a_dead_letter_without_poison),
    ({14}, expired_and_returned),
    ({14}, an_oldest_that_fell),
    ({14}, an_oldest_beyond_the_head),
    ({15}, time_against_numbers),
    ({16}, too_much_memory),
    ({17}, who_knows_more_is_not_told),
    ({17}, an_epoch_for_no_reason),
    ({18}, ownerless),
    ({19}, a_ticket_twice),
    ({20}, a_token_in_the_log),
]


def test_a_lawful_log_passes() -> None:
    assert check(Lawful().log) == []


@pytest.mark.parametrize(("invariants", "breaker"), BREAKERS, ids=[breaker.__name__ for _, breaker in BREAKERS])
def test_a_broken_log_is_caught_and_only_that(invariants: set[int], breaker: Callable[[Lawful], None]) -> None:
    lawful = Lawful()
    breaker(lawful)
    assert {breach.invariant for breach in check(lawful.log)} == invariants


def test_every_claim_has_caught_something() -> None:
    silent = set(CLAIMS)
    for _, breaker in BREAKERS:
        lawful = Lawful()
        breaker(lawful)
        silent -= {(number, claim) for number, claim in silent if list(claim(lawful.log))}
    assert silent == set()
