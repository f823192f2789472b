"""The mutants of the AWS engine's other half: who may, who listens, and how he is reached."""

from typing import Final

from tests.guarantees.mutants import Mutant

AWS: Final = "src/tocsin/engines/aws"
TESTS: Final = "tests/engines/aws"
SUBSCRIBING: Final = f"{TESTS}/test_subscribing.py"
DELIVERING: Final = f"{TESTS}/test_delivering.py"
REVOKING: Final = f"{TESTS}/test_revoking.py"
PERMISSIONS: Final = f"{TESTS}/test_permissions.py"

AWS_REACH_MUTANTS: Final = [
    Mutant(
        name="aws: a late write brings a subscription back to life",
        file=f"{AWS}/subscription_rows.py",
        edits=(('whole = "#gen = :gen"', 'whole = "(attribute_not_exists(#gen) OR #gen = :gen)"'),),
        test=f"{SUBSCRIBING}::test_no_late_write_brings_a_subscription_back_to_life",
    ),
    Mutant(
        name="aws: who went live meanwhile is owed for ever",
        file=f"{AWS}/subscription_rows.py",
        edits=(('found if found is not None and found.state == "live" else None', "None"),),
        test=f"{SUBSCRIBING}::test_who_went_live_after_the_audience_was_read_is_posted_to",
    ),
    Mutant(
        name="aws: what a replay had is posted again",
        file=f"{AWS}/subscription_rows.py",
        edits=(("sequence > max(self.start, self.missed_to)", "sequence > self.missed_to"),),
        test=f"{SUBSCRIBING}::test_who_went_live_with_the_number_in_his_replay_does_not_hear_it_again",
    ),
    Mutant(
        name="aws: a replay goes live whatever is owed",
        file=f"{AWS}/subscription_rows.py",
        edits=((" AND (attribute_not_exists(owed) OR owed <= :from)", ""),),
        test=f"{SUBSCRIBING}::test_who_replays_is_owed_the_number_and_not_posted_to",
    ),
    Mutant(
        name="aws: a replay never ends",
        file=f"{AWS}/dynamodb_connections.py",
        edits=(("if subscription.rounds < ROUNDS:", "if subscription.rounds:"),),
        test=f"{SUBSCRIBING}::test_a_replay_that_is_overtaken_again_and_again_goes_live_with_a_gap",
    ),
    Mutant(
        name="aws: a permission is not in the transaction that it allows",
        file=f"{AWS}/dynamodb_connections.py",
        edits=(("if not _needs_no_role(identity, chat_id)]", "if not identity]"),),
        test=f"{SUBSCRIBING}::test_a_permission_that_goes_while_one_subscribes_refuses_its_chat_alone",
    ),
    Mutant(
        name="aws: a closed connection's row goes last",
        file=f"{AWS}/dynamodb_connections.py",
        edits=(
            (
                "entry = await self._connections.delete(connection_id)",
                "entry = await self._connections.get(connection_id)",
            ),
            (
                '            self._metrics.count("disconnects")',
                "            await self._connections.delete(connection_id)",
            ),
        ),
        test=f"{SUBSCRIBING}::test_who_subscribes_while_he_is_closed_leaves_nothing_behind",
    ),
    Mutant(
        name="aws: 410 forgets a connection whose upgrade has not ended",
        file=f"{AWS}/apigateway_clients.py",
        edits=((" and not lane.is_young(self._clock.now())", ""),),
        test=f"{DELIVERING}::test_a_connection_whose_upgrade_has_not_ended_is_not_forgotten",
    ),
    Mutant(
        name="aws: gone is what the error is called",
        file=f"{AWS}/apigateway_posts.py",
        edits=(
            (
                "status = status_of(error)",
                'status = 410 if error.response["Error"]["Code"] == "GoneException" else 404',
            ),
        ),
        test=f"{DELIVERING}::test_who_is_gone_is_forgotten_whatever_the_error_is_called",
    ),
    Mutant(
        name="aws: a post that failed is told nobody",
        file=f"{AWS}/gaps.py",
        edits=(("await self._rows.miss(row, missed.first,", "await self._rows.miss(row, None,"),),
        test=f"{DELIVERING}::test_a_post_that_failed_is_told_before_the_next_and_not_repeated",
    ),
    Mutant(
        name="aws: a gap is struck out before it is told",
        file=f"{AWS}/gaps.py",
        edits=(
            (
                "        outcome = await self._posts.post(found",
                "        await self._rows.told(found)\n        outcome = await self._posts.post(found",
            ),
        ),
        test=f"{DELIVERING}::test_a_job_that_died_before_it_struck_out_a_gap_tells_it_again",
    ),
    Mutant(
        name="aws: a delivery waits for the last of its posts",
        file=f"{AWS}/apigateway_clients.py",
        edits=(
            ("self._clock.monotonic() + FAN_OUT_SECONDS", "self._clock.monotonic() + 3_600"),
            ("otherwise=FAN_OUT_SECONDS", "otherwise=3_600"),
        ),
        test=f"{DELIVERING}::test_a_delivery_ends_at_its_deadline_and_who_was_not_reached_is_told",
    ),
    Mutant(
        name="aws: a connection that fails twice is kept",
        file=f"{AWS}/apigateway_clients.py",
        edits=(("row.failures + 1 >= FAILURES", "row.failures >= 99"),),
        test=f"{DELIVERING}::test_two_failures_in_a_row_end_the_connection",
    ),
    Mutant(
        name="aws: who is revoked is forgotten with whoever revokes",
        file=f"{AWS}/subscription_rows.py",
        edits=(
            (
                'self._change(row, "SET #state = :revoked", {}, states=("revoked",)) is not None',
                "self.delete(row) is None",
            ),
        ),
        test=f"{REVOKING}::test_who_revokes_and_dies_is_repeated_and_each_connection_is_told",
    ),
    Mutant(
        name="a revocation answers a fence of its own",
        file="src/tocsin/components/chat_permission.py",
        edits=(
            (
                "return await self._permissions.fence(user_id, chat_id, fence)",
                "await self._permissions.fence(user_id, chat_id, fence)\n        return fence",
            ),
        ),
        test=f"{REVOKING}::test_of_two_revocations_at_once_both_answer_the_fence_that_was_written_first",
    ),
    Mutant(
        name="aws: the last owner leaves",
        file=f"{AWS}/dynamodb_permissions.py",
        edits=(('"owners > :one"', '"owners >= :one"'),),
        test=f"{PERMISSIONS}::test_owners_are_counted_right_by_whoever_decides_at_once",
    ),
    Mutant(
        name="aws: an actor's role is only read",
        file=f"{AWS}/dynamodb_permissions.py",
        edits=(("if actor is not None and actor.user_id != user_id:", "if actor is not None and not actor.user_id:"),),
        test=f"{PERMISSIONS}::test_who_loses_his_role_while_he_grants_is_refused",
    ),
    Mutant(
        name="aws: a ticket is spent without asking whether it was",
        file=f"{AWS}/dynamodb_tickets.py",
        edits=((" AND (attribute_not_exists(spentBy) OR spentBy = :me)", ""),),
        test=f"{TESTS}/test_tickets.py::test_who_spent_it_and_lost_the_answer_comes_in_and_nobody_else",
    ),
]
