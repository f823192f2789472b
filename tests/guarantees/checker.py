"""The one checker: Log -> breaches of the twenty invariants (CONTRACTS: "Invariants").

Rules: pure, and a function for each claim, named after it, that yields a sentence for each breach. What a log cannot
show is not guessed: a claim is silent where a lawful service could have left the same log.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from tests.guarantees.claims import acceptance, access, order
from tests.guarantees.records import Log


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    invariant: int
    sentence: str


CLAIMS: Final[tuple[tuple[int, Callable[[Log], Iterable[str]]], ...]] = (
    (1, acceptance.acknowledged_is_in_history_once),
    (2, acceptance.acknowledged_is_heard),
    (3, order.every_read_has_all_numbers),
    (3, order.a_number_means_one_message),
    (4, order.a_subscription_leaves_no_hole),
    (5, order.no_message_comes_twice),
    (6, order.sent_after_the_answer_is_numbered_after),
    (6, order.one_connection_keeps_its_order),
    (7, order.heads_never_fall),
    (8, acceptance.heard_is_readable),
    (9, acceptance.an_id_means_one_message),
    (10, acceptance.refused_is_nowhere),
    (11, access.revoked_hears_nothing_more),
    (11, access.revoked_does_nothing_more),
    (11, access.nothing_follows_the_end),
    (12, order.recovered_means_everything),
    (13, acceptance.poison_becomes_a_dead_letter),
    (14, acceptance.expired_is_never_returned),
    (14, order.oldest_never_falls),
    (15, order.time_ascends_with_numbers),
    (16, access.memory_stays_bounded),
    (17, order.who_knows_more_is_told),
    (17, order.an_epoch_lives_until_a_restore),
    (18, access.an_owned_chat_keeps_an_owner),
    (19, access.a_ticket_works_once),
    (20, access.no_secret_is_in_the_output),
)


def check(log: Log) -> list[Breach]:
    return [Breach(invariant=number, sentence=sentence) for number, claim in CLAIMS for sentence in claim(log)]
