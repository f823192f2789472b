"""The deployed stack as a picture: Mermaid, made from the templates alone.

    build/deploy/bin/python -m deploy.aws.diagram build/aws docs/aws-stack.md     writes it into the page

A thick arrow starts a function or carries messages; a thin one writes, a dotted one reads, or takes what failed.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.aws.assembly import Assembly, Resource

#: Resource type -> the group that it stands in, and its box.
BOXES: Final = {
    "AWS::ApiGatewayV2::Api": ("Doors", '{id}["WebSocket API"]'),
    "AWS::ApiGateway::RestApi": ("Doors", '{id}["REST API"]'),
    "AWS::Cognito::UserPool": ("Doors", '{id}["Cognito user pool"]'),
    "AWS::Events::Rule": ("Doors", '{id}(["each minute"])'),
    "AWS::Lambda::Function": ("Functions", '{id}["{name}"]'),
    "AWS::SNS::Topic": ("Topics", '{id}[["{name}"]]'),
    "AWS::SQS::Queue": ("Queues", '{id}[/"{name}"/]'),
    "AWS::DynamoDB::Table": ("Tables", '{id}[("{name}")]'),
    "AWS::SecretsManager::Secret": ("Tables", '{id}[("cursor key")]'),
    "AWS::CloudWatch::Dashboard": ("Watch", '{id}["dashboard {name}"]'),
}
NAMES: Final = ("FunctionName", "TopicName", "QueueName", "TableName", "DashboardName")
#: Actions after which something is different.
WRITES: Final = ("Put", "Update", "Delete", "Send", "Publish", "Manage")


def diagram(assembly: Assembly) -> str:
    boxes: dict[str, list[str]] = {}
    for resource in assembly:
        if resource.type in BOXES:
            group, box = BOXES[resource.type]
            boxes.setdefault(group, []).append(box.format(id=_box(resource), name=_name(resource)))
    lines = ["flowchart LR"]
    for group, inside in boxes.items():
        lines += [f"    subgraph {group}", *(f"        {box}" for box in inside), "    end"]
    for edge in dict.fromkeys([*_doors(assembly), *_bus(assembly), *_roles(assembly), *_alarms(assembly)]):
        lines.append(f"    {edge}")
    return "\n".join(lines)


def page(text: str, assembly: Assembly) -> str:
    """The page with the picture that the templates show."""
    return re.sub(r"(?<=```mermaid\n).*?(?=```)", lambda _: f"{diagram(assembly)}\n", text, count=1, flags=re.DOTALL)


def _name(resource: Resource) -> str:
    """The physical one; without one CDK's, without its hash."""
    given = (str(resource.properties[name]) for name in NAMES if name in resource.properties)
    return next(given, re.sub(r"[0-9A-F]{8}$", "", resource.id))


def _box(resource: Resource) -> str:
    return re.sub(r"\W", "_", _name(resource))


def _doors(assembly: Assembly) -> Iterator[str]:
    sockets, rest = _box(assembly.one("AWS::ApiGatewayV2::Api")), _box(assembly.one("AWS::ApiGateway::RestApi"))
    served: dict[tuple[str, str], list[str]] = {}
    for route in assembly.of("AWS::ApiGatewayV2::Route"):
        integration = assembly.behind(route.properties["Target"])
        function = assembly.behind(integration.properties["IntegrationUri"])
        served.setdefault((sockets, _box(function)), []).append(route.properties["RouteKey"])
    for method in assembly.of("AWS::ApiGateway::Method"):
        verb = method.properties["HttpMethod"]
        if verb not in ("HEAD", "OPTIONS"):
            function = assembly.behind(method.properties["Integration"]["Uri"])
            served.setdefault((rest, _box(function)), []).append(f"{verb} {_path(assembly, method)}")
    for (door, function_id), routes in served.items():
        yield f'{door} == "{"<br>".join(routes)}" ==> {function_id}'
    authorizer = assembly.behind(assembly.one("AWS::ApiGatewayV2::Authorizer").properties["AuthorizerUri"])
    yield f'{sockets} == "who is it" ==> {_box(authorizer)}'
    pool = assembly.behind(assembly.one("AWS::ApiGateway::Authorizer").properties["ProviderARNs"])
    yield f'{rest} -. "access tokens" .-> {_box(pool)}'
    rule = assembly.one("AWS::Events::Rule")
    yield f"{_box(rule)} ==> {_box(assembly.behind(rule.properties['Targets']))}"


def _path(assembly: Assembly, method: Resource) -> str:
    path, place = "", method.properties["ResourceId"]
    while (resource := assembly.behind(place)).type == "AWS::ApiGateway::Resource":
        path = f"/{resource.properties['PathPart']}{path}"
        place = resource.properties["ParentId"]
    return path


def _bus(assembly: Assembly) -> Iterator[str]:
    for subscription in assembly.of("AWS::SNS::Subscription"):
        if subscription.properties["Protocol"] == "sqs":
            topic = _box(assembly.behind(subscription.properties["TopicArn"]))
            only = subscription.properties.get("FilterPolicy", {}).get("targetChannel", ["all"])
            yield f'{topic} == "{only[0]}" ==> {_box(assembly.behind(subscription.properties["Endpoint"]))}'
            yield f"{topic} -. undelivered .-> {_box(assembly.behind(subscription.properties['RedrivePolicy']))}"
    for queue in assembly.of("AWS::SQS::Queue"):
        if "RedrivePolicy" in queue.properties:
            yield f"{_box(queue)} -. dead .-> {_box(assembly.behind(queue.properties['RedrivePolicy']))}"
    for mapping in assembly.of("AWS::Lambda::EventSourceMapping"):
        queue = assembly.behind(mapping.properties["EventSourceArn"])
        function = assembly.behind(mapping.properties["FunctionName"])
        yield f'{_box(queue)} == "{mapping.properties["BatchSize"]} at a time" ==> {_box(function)}'


def _roles(assembly: Assembly) -> Iterator[str]:
    """What a function does to tables, topics, dead letters and connections, as its role allows it."""
    named = {
        (resource.type.split("::")[1].lower(), _name(resource)): _box(resource)
        for resource in assembly
        if resource.type in ("AWS::DynamoDB::Table", "AWS::SNS::Topic", "AWS::SQS::Queue")
    }
    for function in assembly.of("AWS::Lambda::Function"):
        role = assembly.behind(function.properties["Role"])
        touched: dict[str, bool] = {}
        for statement in role.properties["Policies"][0]["PolicyDocument"]["Statement"]:
            if statement["Sid"] in ("WriteLogs", "Trace", "Consume"):
                continue
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            writes = any(action.partition(":")[2].startswith(WRITES) for action in actions)
            resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
            for resource in resources:
                found = assembly.refers(resource)
                target = _box(found) if found is not None else named[_named(assembly.text(resource))]
                touched[target] = touched.get(target, False) or writes
        for target, writes in touched.items():
            yield f"{_box(function)} --> {target}" if writes else f"{_box(function)} -.-> {target}"


def _named(arn: str) -> tuple[str, str]:
    """Service and name: of arn:…:dynamodb:…:table/NAME/index/INDEX, and of arn:…:sqs:…:NAME."""
    service, *_, name = arn.split(":")[2:]
    return service, name.removeprefix("table/").partition("/")[0]


def _alarms(assembly: Assembly) -> Iterator[str]:
    alarms = assembly.of("AWS::CloudWatch::Alarm")
    topic = assembly.behind(alarms[0].properties["AlarmActions"])
    yield f'Alarms(["{len(alarms)} alarms"]) ==> {_box(topic)}'


if __name__ == "__main__":
    shown = Path(sys.argv[2])
    shown.write_text(page(shown.read_text(), Assembly.read(Path(sys.argv[1]))))
