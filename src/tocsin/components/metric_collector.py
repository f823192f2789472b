"""Metric Collector: POST /metrics -> metrics. (Seed: metric-collector/)

Names come from a closed list (metrics.CLIENT_METRICS) or begin with `custom.`; values are finite.
"""

import math
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from tocsin.clock import Clock
from tocsin.errors import invalid
from tocsin.identity import Identity
from tocsin.message import parse_rfc3339
from tocsin.metrics import CLIENT_METRICS, ClientMetric, Metrics

MAX_METRICS: Final = 100
MAX_DIMENSIONS: Final = 10
is_custom_name = re.compile(r"custom\.[a-z0-9_.]{1,64}").fullmatch


class ReportedMetric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    value: float
    unit: str | None = None
    timestamp: str | None = None
    dimensions: dict[str, str] = {}


class MetricCollector:
    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock

    async def collect(self, identity: Identity, reported: Sequence[ReportedMetric]) -> None:
        if not 1 <= len(reported) <= MAX_METRICS:
            raise invalid("metrics", f"1 to {MAX_METRICS} metrics are taken at once.")
        self._metrics.client_reported(
            identity.user_id, [self._check(metric, f"metrics[{index}]") for index, metric in enumerate(reported)]
        )

    def _check(self, metric: ReportedMetric, path: str) -> ClientMetric:
        known = CLIENT_METRICS.get(metric.name)
        if known is None and not is_custom_name(metric.name):
            raise invalid(f"{path}.name", f"It must be custom.* or one of {', '.join(CLIENT_METRICS)}.")
        if not math.isfinite(metric.value):
            raise invalid(f"{path}.value", "The value must be finite.")
        if metric.unit is not None and (len(metric.unit) > 32 or (known is not None and metric.unit != known)):
            raise invalid(f"{path}.unit", f"The unit must be {known or 'at most 32 characters long'}.")
        if len(metric.dimensions) > MAX_DIMENSIONS or any(
            len(name) > 64 or len(value) > 128 for name, value in metric.dimensions.items()
        ):
            raise invalid(f"{path}.dimensions", f"At most {MAX_DIMENSIONS}, names of 64 and values of 128 characters.")
        return ClientMetric(
            name=metric.name,
            value=metric.value,
            unit=metric.unit or known or "none",
            timestamp=self._clock.now() if metric.timestamp is None else _time(metric.timestamp, path),
            dimensions=metric.dimensions,
        )


def _time(text: str, path: str) -> int:
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise invalid(f"{path}.timestamp", "The time must be as RFC 3339 has it.") from None
