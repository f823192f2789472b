"""The mutants: docs/contracts.md's list ("A check that cannot fail is a defect"), and some of its own claims."""

from typing import Final

from tests.guarantees.aws_mutants import AWS_MUTANTS
from tests.guarantees.aws_reach_mutants import AWS_REACH_MUTANTS
from tests.guarantees.mutants import Mutant

EMBEDDED: Final = "src/tocsin/engines/embedded"
COMPONENTS: Final = "src/tocsin/components"
CLAIMS: Final = "tests/guarantees/claims"

CHECKER: Final = "tests/guarantees/test_checker.py"
POWER_CUT: Final = "tests/guarantees/test_power_cut.py"
UNANSWERED: Final = "tests/guarantees/test_kill.py::test_who_repeats_what_had_no_answer_is_told_what_became_of_it"
IN_FLIGHT: Final = (
    "tests/engines/embedded/test_group_commit.py::test_until_a_commit_has_come_back_nobody_is_told_of_what_it_brings"
)
WHOLE: Final = "tests/conformance/test_messages.py::test_history_is_whole_at_every_moment_while_it_is_stored"
FIREHOSE: Final = "tests/guarantees/test_resume.py::test_resume_and_sync_under_a_firehose_leave_no_hole"
NEXT: Final = "tests/guarantees/test_resume.py::test_who_is_subscribed_hears_what_is_published_next"
LONG_LOG: Final = "tests/guarantees/test_process.py::test_it_is_back_at_once_with_a_long_unmoved_log"
REVOCATIONS: Final = "tests/guarantees/test_revocation.py::test_a_hundred_revocations_under_load_hold"
SLOW_READER: Final = "tests/guarantees/test_slow_reader.py"
FULL_START: Final = (
    "tests/guarantees/test_full_disk.py::test_a_start_on_a_full_disk_is_told_and_gets_its_spare_file_back"
)
TRIES: Final = "tests/guarantees/test_poison.py::test_tries_are_counted_across_a_crash"
RETRY: Final = "tests/guarantees/test_poison.py::test_what_a_later_try_delivers_is_heard_once_under_its_number"
POISON: Final = "tests/guarantees/test_poison.py::test_a_chat_that_is_stuck_holds_up_no_other"

_SYNC: Final = "await asyncio.get_running_loop().run_in_executor(self._thread, self._sync, connection, tasks)"
_ACK: Final = "[append.answers.set_result(answers) for append, answers in zip(appends, draft.answers, strict=True)]"
_LOG_ROWS: Final = """connection.execute(
            "SELECT body FROM log WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position", (str(late),)
        ).fetchall()"""

MUTANTS: Final = [
    Mutant(
        name="ack before commit",
        file=f"{EMBEDDED}/group_commit.py",
        edits=((_SYNC, f"{_ACK}; await asyncio.sleep(0.1); {_SYNC}"),),
        test=f"{UNANSWERED}[commit.before_sync]",
    ),
    Mutant(
        name="synchronous=OFF",
        file=f"{EMBEDDED}/data_folder.py",
        edits=(('("synchronous", "FULL", 2)', '("synchronous", "OFF", 0)'),),
        test=POWER_CUT,
    ),
    Mutant(
        name="head in memory moved before the commit",
        file=f"{EMBEDDED}/draft.py",
        edits=(("chat.drawn_sequence = number", "chat.drawn_sequence = chat.sequence = number"),),
        test=IN_FLIGHT,
    ),
    Mutant(
        name="history read as two reads",
        file=f"{EMBEDDED}/sqlite_messages.py",
        edits=(
            ('parameters["tail"] = str(tail[-limit:])', 'parameters["tail"] = "[]"'),
            (
                "return await asyncio.shield(page)  # who goes away takes it from nobody else",
                f"""joined = (await asyncio.shield(page)).bodies
        await self._clock.sleep(0.5)
        late = [row[0] for row in chat.unmoved if row[2] and first <= row[2] <= last]
        rest = await self._reads.run(lambda connection: {_LOG_ROWS})
        known = set(joined)
        bodies = [*joined, *(body for (body,) in rest if body not in known)][:limit]
        return Page(bodies=bodies, next=None if len(bodies) < limit else str(first + limit))""",
            ),
        ),
        test=WHOLE,
    ),
    Mutant(
        name="fence read before the subscriptions are dropped",
        file=f"{COMPONENTS}/chat_permission.py",
        edits=(
            (
                "tombstone = await self._permissions.revoke(",
                "early = await self._numbers.heads([chat_id]); tombstone = await self._permissions.revoke(",
            ),
            ("fence = (await self._numbers.heads([chat_id]))[chat_id].sequence", "fence = early[chat_id].sequence"),
        ),
        test=REVOCATIONS,
    ),
    Mutant(
        name="audience read before the number",
        file=f"{COMPONENTS}/processor.py",
        edits=(
            (
                "audience = await self._connections.audience(",
                'audience, self._early = getattr(self, "_early", {}), await self._connections.audience(',
            ),
        ),
        test=NEXT,
    ),
    Mutant(
        name="a new number on retry",
        file=f"{EMBEDDED}/tries.py",
        edits=(
            (
                "await self.consumer([message])",
                'await self.consumer([__import__("msgspec").structs.replace(message, sequence_number=9_999)])',
            ),
        ),
        test=RETRY,
    ),
    Mutant(
        name="the log's tail not read after a crash",
        file=f"{EMBEDDED}/sqlite_bus.py",
        edits=(('QUERY["unmoved"], (self._storage.cursor,)', 'QUERY["unmoved"], (1 << 60,)'),),
        test=LONG_LOG,
    ),
    Mutant(
        name="a start on a full disk that counts as well",
        file=f"{EMBEDDED}/group_commit.py",
        edits=(("if not self._folder.had_room:", "if False:"),),
        test=FULL_START,
    ),
    Mutant(
        name="dedupe remembered outside the commit",
        file=f"{EMBEDDED}/draft.py",
        edits=(
            ("        self._claims.write(self._connection, self._now)\n", ""),
            (
                "self._claims.settle(self._now, committed=True)",
                "self._claims.write(self._connection, self._now); self._claims.settle(self._now, committed=True)",
            ),
        ),
        test=f"{UNANSWERED}[commit.after_sync]",
    ),
    Mutant(
        name="a replay that ends one early",
        file=f"{COMPONENTS}/connection_handler.py",
        edits=(
            (
                "self._replay(subscription, resume.first, head.sequence, budget)",
                "self._replay(subscription, resume.first, head.sequence - 1, budget)",
            ),
        ),
        test=FIREHOSE,
    ),
    Mutant(
        name="a slow reader's messages are kept",
        file="src/tocsin/gateways/websocket.py",
        edits=(
            (
                "def pause_writing(self) -> None:\n        if self.state is State.OPEN:",
                "def pause_writing(self) -> None:\n        if False:",
            ),
        ),
        test=SLOW_READER,
    ),
    Mutant(
        name="a slow reader's gap one short",
        file=f"{EMBEDDED}/room.py",
        edits=(("return first, self.cursor, unnumbered", "return first, self.cursor - 1, unnumbered"),),
        test=SLOW_READER,
    ),
    Mutant(
        name="a dead letter's gap one short",
        file=f"{EMBEDDED}/fan_out.py",
        edits=(
            (
                "frame = self.frame(gap_frame(room.chat_id, first, last, 0))",
                "frame = self.frame(gap_frame(room.chat_id, first, last - 1, 0))",
            ),
        ),
        test=POISON,
    ),
    Mutant(
        name="a dead letter that counts attempts from zero after a restart",
        file=f"{EMBEDDED}/sqlite_bus.py",
        edits=(("attempts=attempts, kept=True", "attempts=0, kept=True"),),
        test=TRIES,
    ),
    Mutant(
        name="the checker lets a gap be one short",
        file=f"{CLAIMS}/order.py",
        edits=(("first != cursor + 1 and", "not cursor < first <= cursor + 2 and"),),
        test=CHECKER,
    ),
    Mutant(
        name="the checker lets one number pass the fence",
        file=f"{CLAIMS}/access.py",
        edits=(("event.number > revocation.fence", "event.number > revocation.fence + 1"),),
        test=CHECKER,
    ),
    Mutant(
        name="the checker takes another payload for the same",
        file=f"{CLAIMS}/acceptance.py",
        edits=(
            (
                "(found[0].digest, found[0].timestamp) != (message.digest, message.timestamp)",
                "found[0].timestamp != message.timestamp",
            ),
        ),
        test=CHECKER,
    ),
    *AWS_MUTANTS,
    *AWS_REACH_MUTANTS,
]
