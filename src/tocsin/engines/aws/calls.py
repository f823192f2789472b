"""AWS asked from async code: boto3 in a pool of threads, and what its failures mean.

    sns_bus, dynamodb_*, apigateway_clients -> Calls (one for each client) -> boto3, in one of its N threads

Rules:
- at most N calls of a client are in flight, and its pool has N connections: none waits for another's socket;
- what may pass is tried again here, with jitter, until the deadline of `until`; the SDK's own retries are off, because
  they know no deadline and sleep in the thread;
- a condition that does not hold, and what is wrong with a request, is the caller's: it comes through as ClientError;
- what was repeated may have been done the first time: whoever calls must be able to find his own work there.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

from tocsin.clock import Clock
from tocsin.errors import Refusal

C = TypeVar("C")
T = TypeVar("T")

#: For how long a call is tried where nobody has set a deadline, in seconds.
PATIENCE: Final = 8.0
#: Before the first repetition at most so many seconds pass, before each later one twice as many, up to LONGEST_PAUSE.
FIRST_PAUSE: Final = 0.025
LONGEST_PAUSE: Final = 1.0
#: What a caller is told to wait who is sent away.
RETRY_AFTER: Final = 1.0

CONDITION_FAILED: Final = "ConditionalCheckFailedException"
TRANSACTION_CANCELED: Final = "TransactionCanceledException"

#: Codes that say: not now. True: nothing was done. A 500 may hide a write that went through.
PASSING: Final = {
    "ProvisionedThroughputExceededException": True,
    "RequestLimitExceeded": True,
    "RequestThrottled": True,
    "RequestThrottledException": True,
    "Throttled": True,
    "ThrottledException": True,
    "Throttling": True,
    "ThrottlingException": True,
    "TooManyRequestsException": True,
    "KMSThrottling": True,
    "KmsThrottled": True,
    "TransactionConflictException": True,
    "TransactionInProgressException": False,
    "InternalError": False,
    "InternalErrorException": False,
    "InternalFailure": False,
    "InternalServerError": False,
    "ServiceUnavailable": False,
    "ServiceUnavailableException": False,
}
#: The same, of one item of a cancelled transaction.
PASSING_REASONS: Final = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})

_until: Final[ContextVar[float]] = ContextVar("until")


@contextmanager
def until(moment: float) -> Iterator[None]:
    """What is called within, also by tasks that begin within, gives up at this moment of `Clock.monotonic`; or sooner,
    if that was said outside."""
    token = _until.set(min(moment, _until.get(moment)))
    try:
        yield
    finally:
        _until.reset(token)


def deadline(clock: Clock, *, otherwise: float = PATIENCE) -> float:
    """The moment that `until` has set; where nobody has, so many seconds from now."""
    return _until.get(clock.monotonic() + otherwise)


class Unreachable(Refusal):
    """AWS could not be asked in time. `definite`: nothing was done; otherwise that is unknown."""

    def __init__(self, *, definite: bool) -> None:
        super().__init__("unavailable", "The service is busy just now; try again.", retry_after=RETRY_AFTER)
        self.definite: Final = definite


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def reasons_of(error: ClientError) -> list[dict[str, Any]]:
    """Why each item of a cancelled transaction was, or was not, in the way (`Code`, and the `Item` if asked for)."""
    reasons: list[dict[str, Any]] = error.response.get("CancellationReasons", [])  # type: ignore[assignment]
    return reasons


def failed_conditions(error: ClientError) -> list[bool]:
    """Of each item of a cancelled transaction, whether its condition did not hold. Empty: it was something else."""
    if code_of(error) != TRANSACTION_CANCELED:
        return []
    return [reason.get("Code") == "ConditionalCheckFailed" for reason in reasons_of(error)]


def config(threads: int, *, seconds: float) -> Config:
    """A client's: `seconds` for an answer at most, as many connections as threads."""
    return Config(
        max_pool_connections=threads,
        connect_timeout=min(2.0, seconds),
        read_timeout=seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )


class Backoff:
    """The pauses between the attempts of one call, until its deadline."""

    def __init__(self, clock: Clock, jitter: Callable[[], float]) -> None:
        self._clock = clock
        self._jitter = jitter
        self._end = deadline(clock)
        self._longest = FIRST_PAUSE
        self._definite = True

    async def pause(self, failure: Exception | None = None, *, nothing_done: bool = True) -> None:
        """Raises Unreachable where the deadline would come first."""
        self._definite &= nothing_done
        pause = self._longest * self._jitter()
        if self._clock.monotonic() + pause >= self._end:
            raise Unreachable(definite=self._definite) from failure
        self._longest = min(self._longest * 2, LONGEST_PAUSE)
        await self._clock.sleep(pause)


class Calls(Generic[C]):
    """`make` builds the client, when it is first asked for: no function waits for one that it never uses."""

    def __init__(
        self, make: Callable[[], C], *, threads: int, clock: Clock, jitter: Callable[[], float], name: str
    ) -> None:
        """`jitter` draws from 0.0 to 1.0."""
        self._make = make
        self._clock = clock
        self._jitter = jitter
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)

    @cached_property
    def client(self) -> C:
        return self._make()

    async def __call__(self, ask: Callable[[C], T]) -> T:
        """What `ask` returns. Raises Unreachable at the deadline, ClientError for what will not pass."""
        client, backoff = self.client, self.backoff()
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._threads, ask, client)
            except (ClientError, BotoCoreError) as error:
                nothing_done = passing(error)
                if nothing_done is None:
                    raise
                failure = error
            await backoff.pause(failure, nothing_done=nothing_done)

    async def once(self, ask: Callable[[C], T]) -> T:
        """One attempt, whatever comes of it: for what must not be done twice."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask, self.client)

    def backoff(self) -> "Backoff":
        """For what is repeated without an error, such as the part of a batch that was left out."""
        return Backoff(self._clock, self._jitter)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def passing(error: ClientError | BotoCoreError) -> bool | None:
    """None: it will not pass. True: it may, and nothing was done. False: it may, and that is unknown."""
    if isinstance(error, ClientError):
        code = code_of(error)
        if code == TRANSACTION_CANCELED:
            codes = {reason.get("Code", "None") for reason in reasons_of(error)}
            return True if codes & PASSING_REASONS and codes <= PASSING_REASONS | {"None"} else None
        return PASSING.get(code)
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        return True
    if isinstance(error, ReadTimeoutError | ConnectionClosedError | HTTPClientError):
        return False
    return None
