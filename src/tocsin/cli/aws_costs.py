"""What a stage on AWS costs, as tables: what each thing asks of AWS, and what AWS asks for it. Pure.

    counters (estimate-cost) -> COSTS -> units -> a PriceList -> USD a month

Rules:
- COSTS is counted, not guessed: tests/profiles/test_aws_costs.py runs each thing and counts the calls. What no emulator
  can count stands in BY_RULE, and says whose rule it is;
- PRICES is what AWS's public pages were quoted to say, of one Region at one time; it is not looked up. Check it before
  you rely on it. Who knows better hands in a list of his own, whole, so that no line is of another Region or year.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, get_args

import msgspec

Unit = Literal[
    "websocket messages",
    "websocket minutes",
    "rest requests",
    "lambda requests",
    "lambda GB-seconds",
    "sns fifo publishes",
    "sns fifo deliveries",
    "sns publishes",
    "sqs fifo requests",
    "sqs requests",
    "dynamodb reads",
    "dynamodb writes",
    "log GB",
    "stored GB",
    "alarm metrics",
    "dashboards",
    "metrics",
    "secrets",
]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)


class PriceList(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """USD for one of each unit: of a month's first tier, and without what is free."""

    region: str
    #: The month of which it is.
    as_of: str
    usd: Mapping[Unit, Annotated[float, msgspec.Meta(ge=0)]]

    def __post_init__(self) -> None:
        if missing := sorted(set(UNITS) - set(self.usd)):
            raise ValueError(f"there is no price for {', '.join(missing)}")


_MILLION: Final = 1e6
#: From what was said of those pages. Nobody has paid by it.
PRICES: Final = PriceList(
    region="us-east-1",
    as_of="2026-11",
    usd={
        "websocket messages": 1.00 / _MILLION,
        "websocket minutes": 0.25 / _MILLION,
        "rest requests": 3.50 / _MILLION,
        "lambda requests": 0.20 / _MILLION,
        "lambda GB-seconds": 0.0000133334,
        "sns fifo publishes": 0.30 / _MILLION,
        "sns fifo deliveries": 0.01 / _MILLION,
        "sns publishes": 0.50 / _MILLION,
        "sqs fifo requests": 0.50 / _MILLION,
        "sqs requests": 0.40 / _MILLION,
        "dynamodb reads": 0.125 / _MILLION,
        "dynamodb writes": 0.625 / _MILLION,
        "log GB": 0.50,
        "stored GB": 0.25 + 0.20,
        "alarm metrics": 0.10,
        "dashboards": 3.00,
        "metrics": 0.30,
        "secrets": 0.40,
    },
)

Counter = Literal[
    "p2p", "a2p", "standard", "with_id", "deliveries", "connects", "connection_hours", "pages", "stored_gb"
]
COUNTERS: Final[tuple[Counter, ...]] = get_args(Counter)

#: What is counted on the emulator: messages up to 1 KB, chats whose listeners fit into 4 KB (some 16).
COSTS: Final[Mapping[Counter, Mapping[Unit, float]]] = {
    "p2p": {"dynamodb reads": 4, "dynamodb writes": 6, "sns fifo publishes": 1},
    "a2p": {"dynamodb reads": 3, "dynamodb writes": 6, "sns fifo publishes": 1},
    "standard": {"dynamodb reads": 3, "dynamodb writes": 1, "sns publishes": 1},
    "with_id": {"dynamodb writes": 2},
    "deliveries": {"websocket messages": 1},
    "connects": {"dynamodb reads": 6, "dynamodb writes": 13, "websocket messages": 1},
    "connection_hours": {"dynamodb reads": 1, "dynamodb writes": 3},
    "pages": {"dynamodb reads": 8},
}

#: What Lambda, API Gateway, SNS and SQS do by themselves, by their documentation; and what is assumed.
BY_RULE: Final[Mapping[Counter, Mapping[Unit, float]]] = {
    # A frame in, its ack out; a function each for publishing, processing and storing; to each of the two queues SNS's
    # send, a receive and a delete.
    "p2p": {
        "websocket messages": 2,
        "lambda requests": 3,
        "lambda GB-seconds": 0.5 * 0.03 + 1.0 * 0.06 + 0.5 * 0.02,
        "sns fifo deliveries": 2,
        "sqs fifo requests": 3,
        "sqs requests": 3,
        "log GB": 3 * 1e-6,
    },
    "a2p": {
        "rest requests": 1,
        "lambda requests": 3,
        "lambda GB-seconds": 0.5 * 0.03 + 1.0 * 0.06 + 0.5 * 0.02,
        "sns fifo deliveries": 2,
        "sqs fifo requests": 3,
        "sqs requests": 3,
        "log GB": 3 * 1e-6,
    },
    "standard": {
        "websocket messages": 2,
        "lambda requests": 3,
        "lambda GB-seconds": 0.5 * 0.03 + 1.0 * 0.06 + 0.5 * 0.02,
        "sqs requests": 6,
        "log GB": 3 * 1e-6,
    },
    "deliveries": {"lambda GB-seconds": 1.0 * 0.01 / 16},
    # Authorizer, $connect, sync, $disconnect.
    "connects": {"websocket messages": 1, "lambda requests": 4, "lambda GB-seconds": 4 * 0.5 * 0.05, "log GB": 4e-6},
    # A ping and its pong every 8 minutes; once tokenExpiring, refreshToken and its answer.
    "connection_hours": {
        "websocket minutes": 60,
        "websocket messages": 2 * 60 / 8 + 3,
        "lambda requests": 60 / 8 + 1,
        "lambda GB-seconds": (60 / 8 + 1) * 0.5 * 0.01,
        "log GB": 8.5e-6,
    },
    "pages": {"rest requests": 1, "lambda requests": 1, "lambda GB-seconds": 0.5 * 0.05, "log GB": 1e-6},
    "stored_gb": {"stored GB": 1},
}

_MINUTES: Final = 30 * 24 * 60
#: Reads of the job that comes each minute, counted; and what is there whether anybody comes or not.
MINUTE_READS: Final = 63
#: Three queues, five pollers each, three long polls a minute; 1 in 3 polls is of the FIFO queue.
_POLLS: Final = 5 * 3 * _MINUTES
#: What all alarms together look at, which is what they are charged by; tests/deploy/test_watch.py counts it.
ALARM_METRICS: Final = 63
A_MONTH: Final[Mapping[Unit, float]] = {
    "dynamodb reads": MINUTE_READS * _MINUTES,
    "dynamodb writes": _MINUTES,
    "lambda requests": _MINUTES,
    "lambda GB-seconds": _MINUTES * 0.5 * 0.1,
    "sqs fifo requests": _POLLS,
    "sqs requests": 2 * _POLLS,
    "log GB": _MINUTES * 1e-6,
    "alarm metrics": ALARM_METRICS,
    "dashboards": 1,
    "metrics": 40,
    "secrets": 1,
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """`amount` of a unit, and what it costs a month."""

    unit: Unit
    amount: float
    usd: float


def units_of(counter: Counter) -> dict[Unit, float]:
    """What one of these asks of AWS."""
    total: dict[Unit, float] = {}
    for table in (COSTS, BY_RULE):
        for unit, amount in table.get(counter, {}).items():
            total[unit] = total.get(unit, 0.0) + amount
    return total


def price_of(counter: Counter) -> float:
    return sum(amount * PRICES.usd[unit] for unit, amount in units_of(counter).items())


def estimate(counters: Mapping[Counter, float], *, days: float = 30, prices: PriceList = PRICES) -> list[Line]:
    """A month of 30 days, from what was counted in so many `days`; dearest first. What is stored is no rate."""
    total: dict[Unit, float] = dict(A_MONTH)
    for counter, count in counters.items():
        month = count if counter == "stored_gb" else count * 30 / days
        for unit, amount in units_of(counter).items():
            total[unit] = total.get(unit, 0.0) + month * amount
    lines = [Line(unit=unit, amount=amount, usd=amount * prices.usd[unit]) for unit, amount in total.items()]
    return sorted(lines, key=lambda line: -line.usd)
