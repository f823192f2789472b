"""Places where a test may kill, fail or stall the process: `TOCSIN_FAILPOINTS=name=action@nth,…` (docs/contracts.md).

Actions are `kill` (SIGKILL to oneself), `raise` and `stall:ms`. `@nth` acts at the nth time only; without it, always.
`name=raise~TEXT` acts on messages whose body contains TEXT; met inside a batch it first asks for the message to be
alone, as an error in a batch does, so that it hits nobody else.

Rule: off unless asked for, and then looked at once for a batch, never for a message.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import Sequence
from typing import Final

from tocsin.message import Message

NAMES: Final = frozenset(
    {
        "publish.accepted",
        "commit.before_sync",
        "commit.after_sync",
        "publish.before_ack",
        "processor.before_audience",
        "processor.mid_fanout",
        "processor.done",
        "storage.mid_move",
        "storage.before_trim",
        "deadletter.before",
        "deadletter.after",
        "subscribe.registered",
        "subscribe.mid_replay",
        "revoke.tombstoned",
        "revoke.dropped",
        "expire.mid",
        "start.mid_recovery",
        # only on AWS
        "publish.claimed",
        "number.committed",
        "deliver.mid",
        "index.lag",
    }
)

_RULE = re.compile(
    r"(?P<name>[a-z._]+)=(?P<action>kill|raise|stall:(?P<ms>\d+))(?:@(?P<nth>\d+))?(?:~(?P<text>.+))?"
).fullmatch


class FailpointError(Exception):
    """Raised by a failpoint whose action is `raise`."""


class _Rule:
    __slots__ = ("action", "milliseconds", "nth", "seen", "text")

    def __init__(self, action: str, milliseconds: int, nth: int, text: bytes) -> None:
        self.action = action
        self.milliseconds = milliseconds
        self.nth = nth
        self.text = text
        self.seen = 0

    def is_due(self, messages: Sequence[Message]) -> bool:
        if self.text:
            if not any(self.text in message.body for message in messages):
                return False
            if len(messages) > 1:
                raise FailpointError("the message that a failpoint waits for must come alone")
        self.seen += 1
        return self.nth == 0 or self.seen == self.nth


class Failpoints:
    """`ValueError` names the rule that is not one."""

    __slots__ = ("_rules",)

    def __init__(self, specification: str = "") -> None:
        self._rules: dict[str, _Rule] = {}
        for part in filter(None, specification.split(",")):
            match = _RULE(part)
            if match is None or match["name"] not in NAMES:
                raise ValueError(f"{part!r} is not a failpoint; allowed is name=kill|raise|stall:ms[@nth][~TEXT]")
            self._rules[match["name"]] = _Rule(
                match["action"].partition(":")[0],
                int(match["ms"] or 0),
                int(match["nth"] or 0),
                (match["text"] or "").encode(),
            )

    @property
    def armed(self) -> bool:
        return bool(self._rules)

    def hit(self, name: str, messages: Sequence[Message] = ()) -> None:
        """For code that does not await; a stall blocks its thread."""
        if self._rules and (milliseconds := self._act(name, messages)):
            time.sleep(milliseconds / 1000)

    async def reach(self, name: str, messages: Sequence[Message] = ()) -> None:
        if self._rules and (milliseconds := self._act(name, messages)):
            await asyncio.sleep(milliseconds / 1000)

    def _act(self, name: str, messages: Sequence[Message]) -> int:
        rule = self._rules.get(name)
        if rule is None or not rule.is_due(messages):
            return 0
        if rule.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if rule.action == "raise":
            raise FailpointError(name)
        return rule.milliseconds
