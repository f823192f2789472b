"""cdk-nag's rules for AWS solutions on our stacks: what it finds, and which findings are meant, each with its reason.

    build/deploy/bin/python -m deploy.aws.nag     exits with 1 for a finding without a row, and a row without a finding

It looks at the stacks with every setting that adds something to them.
"""

import json
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

import msgspec
from aws_cdk import Validations
from cdk_nag import AwsSolutionsChecks

from deploy.aws.app import build
from deploy.aws.settings import Settings, parse

EVERYTHING: Final = (
    *("--alarm-email", "ops@example.com"),
    *("--shared-domain", "api.example.com"),
    *("--shared-certificate", "arn:aws:acm:us-east-1:111122223333:certificate/shared"),
    *("--allowed-origin", "https://app.example.com"),
    "--xray",
)


class Accepted(msgspec.Struct, frozen=True):
    """`rule` as cdk-nag names it, the part in brackets too; `where` is a construct's path; `*` stands for anything."""

    rule: str
    where: str
    because: str


class Finding(msgspec.Struct, frozen=True):
    rule: str
    where: str


ACCEPTED: Final = (
    Accepted(
        "AwsSolutions-IAM4(Policy::*AmazonAPIGatewayPushToCloudWatchLogs)",
        "TocsinLogging/Role/Resource",
        "AWS asks for this policy on the account's logging role, which serves APIs that are not ours, too",
    ),
    Accepted(
        "AwsSolutions-IAM5(Resource::*/dvl/POST/@connections/*)",
        "*Tocsin/Functions/*/Role/Resource",
        "connections come and go, and their ids are API Gateway's; the API, the stage and the method are named",
    ),
    Accepted(
        "AwsSolutions-IAM5(Resource::*/dvl/DELETE/@connections/*)",
        "*Tocsin/Functions/*/Role/Resource",
        "connections come and go, and their ids are API Gateway's; the API, the stage and the method are named",
    ),
    Accepted(
        "AwsSolutions-IAM5(Resource::[*])",
        "*Tocsin/Functions/*/Role/Resource",
        "X-Ray knows no resources; the statement is there only with --xray",
    ),
    Accepted(
        "AwsSolutions-COG2",
        "*TocsinData/Identity/Users/Resource",
        "a second factor is for whoever runs the service to require; the clients sign in with password or SRP alone",
    ),
    Accepted(
        "AwsSolutions-COG8",
        "*TocsinData/Identity/Users/Resource",
        "the Plus plan is charged for each user; its threat protection is a choice of whoever runs the service",
    ),
    Accepted(
        "AwsSolutions-SMG4",
        "*Tocsin/CursorKey",
        "the key signs cursors, which grant nothing; it is rotated by hand, and two versions are valid",
    ),
    Accepted(
        "AwsSolutions-SQS3",
        "*Tocsin/Bus/*DLQ/Resource",
        "it is the dead-letter queue of a subscription, which the rule does not see",
    ),
    Accepted(
        "AwsSolutions-APIG2",
        "*Tocsin/RestApi/Api/Resource",
        "the functions scan and check each body more strictly than a model can, and answer in the documented shape",
    ),
    Accepted(
        "AwsSolutions-APIG3",
        "*Tocsin/RestApi/Api/DeploymentStage.dvl/Resource",
        "WAF protects REST stages only, so the WebSocket door would stand beside it; both are throttled",
    ),
    Accepted(
        "AwsSolutions-APIG4",
        "*Tocsin/WebSocketApi/Api/*-Route/Resource",
        "a WebSocket API can authorize $connect alone; the functions look at the connection's token for each frame",
    ),
    Accepted(
        "AwsSolutions-APIG4",
        "*Tocsin/RestApi/Api/Default/openapi.json/*/Resource",
        "the document of the public contract is public",
    ),
    Accepted(
        "AwsSolutions-COG4",
        "*Tocsin/RestApi/Api/Default/openapi.json/*/Resource",
        "the document of the public contract is public",
    ),
    Accepted(
        "AwsSolutions-L1",
        "*Tocsin/Functions/*/Function/Resource",
        "the packed wheels are for Python 3.13, which Lambda keeps up to date until 2029",
    ),
    Accepted(
        "AwsSolutions-CFR1",
        "*Tocsin/Domains/Shared/Resource",
        "the service is for people anywhere",
    ),
    Accepted(
        "AwsSolutions-CFR2",
        "*Tocsin/Domains/Shared/Resource",
        "as for APIG3; whoever wants one can attach it to the distribution",
    ),
    Accepted(
        "AwsSolutions-CFR3",
        "*Tocsin/Domains/Shared/Resource",
        "CloudFront's log holds the query string, where a token may be",
    ),
)


def findings(settings: Settings) -> list[Finding]:
    """All of them. The report goes where the templates go."""
    app = build(settings)
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    try:
        app.synth()
    except RuntimeError as error:
        if not str(error).startswith("ValidationFailed"):
            raise
    report = json.loads((settings.output / "validation-report.json").read_text())
    return [
        Finding(violation["ruleName"].replace("[", "(").replace("]", ")"), construct["constructPath"])
        for plugin in report["pluginReports"]
        for violation in plugin["violations"]
        for construct in violation["violatingConstructs"]
    ]


def faults(found: list[Finding]) -> Iterator[str]:
    used = set()
    for finding in found:
        rows = [
            row for row in ACCEPTED if fnmatchcase(finding.rule, row.rule) and fnmatchcase(finding.where, row.where)
        ]
        used.update(rows)
        if not rows:
            yield f"{finding.where}: {finding.rule}"
    for row in ACCEPTED:
        if row not in used:
            yield f"nothing is found for the row {row.rule} at {row.where}"


if __name__ == "__main__":
    found = findings(parse([*EVERYTHING, *sys.argv[1:]]))
    sys.exit("\n".join(faults(found)) or None)
