"""The mutants of the AWS engine: each breaks a form that answers an interleaving of its contract."""

from typing import Final

from tests.guarantees.mutants import Mutant

AWS: Final = "src/tocsin/engines/aws"
PUBLISHING: Final = "tests/engines/aws/test_publishing.py"
NUMBERING: Final = "tests/engines/aws/test_numbering.py"
READING: Final = "tests/engines/aws/test_reading.py"
TRIES: Final = "tests/engines/aws/test_tries.py"

AWS_MUTANTS: Final = [
    Mutant(
        name="aws: a repeated publish is stamped anew",
        file=f"{AWS}/sns_bus.py",
        edits=(("message_id=offer.claim.message_id, timestamp=offer.claim.timestamp", ""),),
        test=f"{PUBLISHING}::test_who_dies_after_sns_is_repeated_and_past_its_memory_too_there_is_one_message",
    ),
    Mutant(
        name="aws: what a peer has claimed is refused as if it were not there",
        file=f"{AWS}/sns_bus.py",
        edits=(("is_known = definite and index not in shared", "is_known = definite"),),
        test=f"{PUBLISHING}::test_a_repeat_of_what_somebody_else_claimed_is_never_refused_as_if_it_were_not_there",
    ),
    Mutant(
        name="aws: what follows a failed entry overtakes it",
        file=f"{AWS}/sns_bus.py",
        edits=(("if chained and isinstance", "if False and isinstance"),),
        test=f"{PUBLISHING}::test_after_an_entry_that_failed_its_chat_takes_no_further_part",
    ),
    Mutant(
        name="aws: a retry draws a new number",
        file=f"{AWS}/dynamodb_numbers.py",
        edits=(('"ConditionExpression": "attribute_not_exists(#sequenceNumber)",', ""),),
        test=f"{NUMBERING}::test_who_dies_after_the_transaction_finds_the_number_when_he_comes_again",
    ),
    Mutant(
        name="aws: the counter moves from wherever it is",
        file=f"{AWS}/dynamodb_numbers.py",
        edits=(('condition = "#sequence = :before"', 'condition = "#sequence >= :before"'),),
        test=f"{NUMBERING}::test_whoever_crashes_retries_and_races_the_numbers_are_one_to_n",
    ),
    Mutant(
        name="aws: a message expires by its own stamp alone",
        file=f"{AWS}/dynamodb_numbers.py",
        edits=(("max(self._rows.expiry(message), counter.last_expiry)", "self._rows.expiry(message)"),),
        test=f"{NUMBERING}::test_a_publisher_whose_clock_is_behind_opens_no_hole_when_messages_expire",
    ),
    Mutant(
        name="aws: the oldest number is lowered",
        file=f"{AWS}/dynamodb_numbers.py",
        edits=(("OR #sequence <= :first", "OR #sequence >= :first OR #sequence < :first"),),
        test=f"{NUMBERING}::test_two_who_raise_the_oldest_at_once_leave_the_higher_one",
    ),
    Mutant(
        name="aws: the index is believed alone",
        file=f"{AWS}/dynamodb_messages.py",
        edits=(("for row in await self._rows.newest(chat_id):", "for row in list[Row]():"),),
        test=f"{READING}::test_what_the_index_lacks_is_found_in_the_table",
    ),
    Mutant(
        name="aws: a row is shown before it has its number",
        file=f"{AWS}/dynamodb_messages.py",
        edits=((" AND (attribute_exists(sequenceNumber) OR attribute_not_exists(numbered))", ""),),
        test=f"{READING}::test_a_message_that_waits_for_its_number_is_not_shown",
    ),
    Mutant(
        name="aws: a try is counted when it has ended",
        file=f"{AWS}/sqs_queue.py",
        edits=(("if one.record.receives < 2:", "if one.record.receives < 99:"),),
        test=f"{TRIES}::test_who_is_killed_each_time_dies_untried_in_the_end",
    ),
    Mutant(
        name="aws: the innocent of a batch are counted",
        file=f"{AWS}/sqs_queue.py",
        edits=(("one.is_done = failure is None", "one.is_done, one.failure = failure is None, failure"),),
        test=f"{TRIES}::test_the_innocent_of_a_batch_are_tried_alone_and_not_counted",
    ),
    Mutant(
        name="aws: a letter's group is its chat",
        file=f"{AWS}/sqs_dead_letters.py",
        edits=(("group=message_id,", 'group="c1",'),),
        test=f"{TRIES}::test_each_letter_has_a_group_of_its_own_and_hides_no_other",
    ),
]
