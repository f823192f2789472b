"""What is written down: a log group for each function, two for each door, and what API Gateway logs of a request.

Rules:
- every group is made here, with an end to what it keeps, and goes when its stack goes. That of a door's execution log
  has the name that API Gateway knows and is there before the stage, or API Gateway would make one that never ends;
- no variable of API Gateway that holds a query string, a header or a body: a token may be in each.
"""

import json
from collections.abc import Mapping
from typing import Final

from aws_cdk import RemovalPolicy
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.aws.settings import LOG_DAYS, Settings

#: field -> $context variable; both doors have these.
BOTH: Final = {
    "requestId": "requestId",
    "time": "requestTimeEpoch",
    "sourceIp": "identity.sourceIp",
    "status": "status",
    "integrationStatus": "integration.status",
    "integrationError": "integration.error",
    "integrationLatency": "integration.latency",
    "authorizerError": "authorizer.error",
}
WEBSOCKET: Final = BOTH | {
    "connectionId": "connectionId",
    "eventType": "eventType",
    "routeKey": "routeKey",
    "user": "authorizer.principalId",
    "authorizerStatus": "authorizer.status",
}
REST: Final = BOTH | {
    "method": "httpMethod",
    "resource": "resourcePath",
    "user": "authorizer.claims.sub",
    "client": "authorizer.claims.client_id",
    "responseType": "error.responseType",
    "responseLength": "responseLength",
    "responseLatency": "responseLatency",
}


def log_group(scope: Construct, settings: Settings, name: str) -> logs.LogGroup:
    return logs.LogGroup(
        scope,
        "Logs",
        log_group_name=name,
        retention=logs.RetentionDays[LOG_DAYS[settings.log_days]],
        removal_policy=RemovalPolicy.DESTROY,
    )


def access_log(scope: Construct, settings: Settings, door: str) -> logs.LogGroup:
    """Below /aws/vendedlogs/, where AWS's own permission to write does not grow with each group."""
    return log_group(scope, settings, f"/aws/vendedlogs/{settings.named('tocsin')}/{door}")


def execution_log(scope: Construct, settings: Settings, name: str) -> logs.LogGroup:
    return log_group(Construct(scope, "Execution"), settings, name)


def line(fields: Mapping[str, str]) -> str:
    return json.dumps({name: f"$context.{variable}" for name, variable in fields.items()}, separators=(",", ":"))
