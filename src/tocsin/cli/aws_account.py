"""Which stage on AWS a command means (--prefix, --region), and its engine, opened for the moment of one command.

    a command -> Account -> AwsEngine -> the stage's tables and queues, with the caller's own credentials

Rules:
- whoever calls is asked by AWS itself whether he may: nothing passes through the service, and none of its roles count;
- names are those that deploy/aws gives; that there is no such stage is said in one sentence;
- boto3 is imported here, when a command is run.
"""

import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeVar

import typer

from tocsin.cli import values
from tocsin.cli.client import Letter
from tocsin.cli.failure import Failure, Refused
from tocsin.errors import Refusal
from tocsin.topology import MESSAGE_STORAGE_QUEUE, QUEUES, WEBSOCKET_FIFO_QUEUE, WEBSOCKET_STANDARD_QUEUE

if TYPE_CHECKING:
    from tocsin.engines.aws.calls import Calls
    from tocsin.engines.aws.engine import AwsEngine
    from tocsin.engines.aws.settings import AwsSettings

T = TypeVar("T")

_PANEL: Final = "Which stage on AWS"
_QUEUES: Final = {"fifo": WEBSOCKET_FIFO_QUEUE, "standard": WEBSOCKET_STANDARD_QUEUE, "storage": MESSAGE_STORAGE_QUEUE}

Prefix = Annotated[
    str,
    typer.Option(
        help="What the stage's names begin with, such as dev-.",
        parser=values.aws_prefix,
        metavar="PREFIX",
        rich_help_panel=_PANEL,
    ),
]
Region = Annotated[
    str | None,
    typer.Option(
        help="Its Region. Default: that of the caller's profile or of AWS_REGION.",
        parser=values.aws_region,
        metavar="REGION",
        rich_help_panel=_PANEL,
    ),
]


@contextmanager
def aws_packages() -> Iterator[None]:
    """Around the imports of what speaks to AWS, which the client side is installed without."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "tocsin").partition(".")[0]
        if missing == "tocsin":
            raise
        raise Failure(f"This needs the packages for AWS ({missing} is missing): pip install 'tocsin[aws]'") from None


class Account:
    """A context. `endpoint`: the WebSocket stage's own, for who ends connections."""

    engine: "AwsEngine"
    settings: "AwsSettings"

    def __init__(self, prefix: str, region: str | None, *, endpoint: str = "") -> None:
        with aws_packages():
            import boto3

            from tocsin.engines.aws.schema import TABLES
        self._prefix = prefix
        self._endpoint = endpoint
        self._tables = {table.variable.lower(): prefix + table.name for table in TABLES}
        if region is not None:
            boto3.setup_default_session(region_name=region)

    def __enter__(self) -> Self:
        from tocsin.engines.aws.engine import AwsEngine
        from tocsin.engines.aws.settings import AwsSettings

        self._runner = asyncio.Runner()
        try:
            with told():
                self.settings = AwsSettings(**self._tables, **self._queues(), ws_api_endpoint=self._endpoint)  # type: ignore[arg-type]  # all are texts
                self.engine = AwsEngine(self.settings)
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()
        self._runner.close()

    def functions(self) -> "Calls[Any]":
        """Lambda's own interface."""
        import boto3

        from tocsin.clock import SystemClock
        from tocsin.engines.aws.calls import Calls, config

        return Calls(
            lambda: boto3.client("lambda", config=config(1, seconds=10)),
            threads=1,
            clock=SystemClock(),
            jitter=random.random,
            name="lambda",
        )

    def run(self, asked: Coroutine[None, None, T]) -> T:
        """What it returns; `Failure` where AWS, or the service's own rules, say no."""
        with told():
            return self._runner.run(asked)

    def _queues(self) -> dict[str, str]:
        """The URLs, by the fields of AwsSettings."""
        import boto3

        from tocsin.engines.aws.schema import queue_name

        sqs = boto3.client("sqs")
        urls = {}
        for kind, queue in _QUEUES.items():
            for field, name in ((f"{kind}_queue_url", queue.name), (f"{kind}_dlq_url", queue.dead_letters)):
                known = self._prefix + queue_name(name, fifo=queue.fifo)
                try:
                    urls[field] = sqs.get_queue_url(QueueName=known)["QueueUrl"]
                except sqs.exceptions.QueueDoesNotExist:
                    raise Failure(
                        f"There is no queue {known} in {sqs.meta.region_name}: see --prefix and --region."
                    ) from None
        sqs.close()
        return urls


@contextmanager
def told() -> Iterator[None]:
    """What AWS refuses, in its own words."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except Refusal as refusal:
        raise Refused(refusal.code, refusal.message, field=refusal.field) from refusal
    except (BotoCoreError, ClientError) as error:
        raise Failure(f"AWS: {error}") from error


class AwsDeadLetters:
    """`DeadLetters` of a stage; a context."""

    def __init__(self, prefix: str, region: str | None) -> None:
        self._account = Account(prefix, region)

    def __enter__(self) -> Self:
        self._account.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._account.__exit__(*reason)

    def dead_letters(self, queue: str | None, limit: int) -> list[Letter]:
        named = next((each for each in QUEUES if queue in (each.name, each.dead_letters)), None)
        return [Letter.of(one) for one in self._account.run(self._account.engine.bus.dead_letters(named, limit=limit))]

    def dead_letter(self, letter_id: str) -> Letter:
        for found in self._account.run(self._account.engine.bus.dead_letters(letter_id=letter_id)):
            return Letter.of(found)
        raise Refused("not_found", "There is no such dead letter.")

    def replay(self, letter_ids: Sequence[str] | None) -> int:
        """Returns when they lie in their queues; what becomes of them is the functions' affair."""
        return self._account.run(self._account.engine.bus.replay(letter_ids))

    def purge(self, letter_ids: Sequence[str] | None) -> int:
        return self._account.run(self._account.engine.bus.purge(letter_ids))
