"""What each function may: by its own role, what it needs, and where AWS allows it to be named, nothing more."""

from fnmatch import fnmatchcase
from typing import Any, Final

import pytest

from deploy.aws.assembly import Assembly, Resource
from deploy.aws.functions import FUNCTIONS
from tocsin.engines.aws.schema import TABLES
from tocsin.engines.aws.settings import ENVIRONMENT

pytestmark = pytest.mark.slow

#: Resources that end in `*` (deploy/aws/nag.py says why), by what they begin with.
OPEN_ENDED = ("arn:${Partition}:execute-api:${Region}:${AccountId}:${WebSocketApi*}/dvl/*/@connections/*",)

_SUBSCRIPTIONS: Final = "BatchWriteItem DeleteItem GetItem PutItem Query UpdateItem"
_QUEUE: Final = "ChangeMessageVisibility DeleteMessage GetQueueAttributes ReceiveMessage"
_PUBLISH: Final = {
    "Notification": "Publish",
    "Notifications.fifo": "Publish",
    "ClaimTable": "GetItem PutItem UpdateItem",
    "UserChatPermissions": "BatchGetItem",
}
_HEADS: Final = {
    "SequenceCounterTable": "BatchGetItem GetItem",
    "SequenceCounterTable, #epoch oldest#*": "PutItem",
    "MessageStorageTable": "Query",
    "MessageStorageTable/index/SequenceIndex": "Query",
}
_POST: Final = {"dvl/POST/@connections/*": "ManageConnections", "dvl/DELETE/@connections/*": "ManageConnections"}
#: What each function may do to what, all of it but writing its log. Rows of a table with certain keys stand apart.
GRANTED: Final[dict[str, dict[str, str]]] = {
    "websocket-authorizer": {"UserChatPermissions": "BatchGetItem", "ClaimTable": "UpdateItem"},
    "connection-handler": {
        "UserChatPermissions": "ConditionCheckItem",
        "ClaimTable": "GetItem",
        "ConnectionTable": "BatchGetItem DeleteItem GetItem PutItem UpdateItem",
        "SubscriptionTable": _SUBSCRIPTIONS,
        **_HEADS,
        **_POST,
    },
    "p2pWebSocketPublisher": {**_PUBLISH, "ConnectionTable": "GetItem"},
    "a2pHttpPublisher": _PUBLISH,
    "processor": {
        "WebSocketFifoQueue.fifo": _QUEUE,
        "WebSocketStandardQueue": _QUEUE,
        "WebSocketFifoDLQ.fifo": "SendMessage",
        "WebSocketStandardDLQ": "SendMessage",
        "ClaimTable": "UpdateItem",
        "SequenceCounterTable": "GetItem UpdateItem",
        "MessageStorageTable": "BatchGetItem UpdateItem",
        "SubscriptionTable": _SUBSCRIPTIONS,
        "ConnectionTable": "DeleteItem",
        **_POST,
    },
    "message-storage": {
        "MessageStorageQueue": _QUEUE,
        "MessageStorageDLQ": "SendMessage",
        "ClaimTable": "UpdateItem",
        "MessageStorageTable": "UpdateItem",
    },
    "message-retrieval": {"UserChatPermissions": "BatchGetItem", **_HEADS, "CursorKey": "GetSecretValue"},
    "chat-permission": {
        "UserChatPermissions": "BatchGetItem ConditionCheckItem GetItem PutItem Query UpdateItem",
        "UserChatPermissions/index/ChatIdIndex": "Query",
        "SubscriptionTable": "BatchWriteItem Query UpdateItem",
        "ConnectionTable": "DeleteItem",
        **_HEADS,
        "ClaimTable": "PutItem",
        **_POST,
        "CursorKey": "GetSecretValue",
    },
    "metric-collector": {},
}


def functions(assembly: Assembly) -> dict[str, Resource]:
    return {each.properties["FunctionName"]: each for each in assembly.of("AWS::Lambda::Function")}


def statements(assembly: Assembly, function: Resource) -> list[dict[str, Any]]:
    role = assembly.behind(function.properties["Role"])
    assert "ManagedPolicyArns" not in role.properties
    (policy,) = role.properties["Policies"]
    found: list[dict[str, Any]] = policy["PolicyDocument"]["Statement"]
    return found


def listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_each_function_has_a_role_of_its_own_that_only_lambda_takes(plain: Assembly) -> None:
    roles = [plain.behind(function.properties["Role"]) for function in plain.of("AWS::Lambda::Function")]
    assert len({role.id for role in roles}) == len(FUNCTIONS)
    for role in roles:
        (trusted,) = role.properties["AssumeRolePolicyDocument"]["Statement"]
        assert trusted["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert not plain.of("AWS::IAM::Policy"), "nothing is added to a role behind its back"


def test_no_action_is_a_star_and_no_resource_but_connections(plain: Assembly) -> None:
    for function in plain.of("AWS::Lambda::Function"):
        for statement in statements(plain, function):
            assert not [action for action in listed(statement["Action"]) if "*" in action]
            for resource in map(plain.text, listed(statement["Resource"])):
                assert "*" not in resource or any(fnmatchcase(resource, each) for each in OPEN_ENDED)


def granted(assembly: Assembly, function: Resource) -> dict[str, str]:
    """In the form of GRANTED."""
    found: dict[str, set[str]] = {}
    for statement in statements(assembly, function):
        assert statement["Effect"] == "Allow"
        condition = statement.get("Condition", {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": []}})
        assert set(condition) == {"ForAllValues:StringLike"}
        ((variable, keys),) = condition["ForAllValues:StringLike"].items()
        assert variable == "dynamodb:LeadingKeys"
        for value in listed(statement["Resource"]):
            rows = f"{named(assembly, value)}, {' '.join(keys)}" if keys else named(assembly, value)
            found.setdefault(rows, set()).update(each.partition(":")[2] for each in listed(statement["Action"]))
    return {name: " ".join(sorted(actions)) for name, actions in found.items()}


def named(assembly: Assembly, value: object) -> str:
    """The end of an ARN, as far as one knows it before deploying; else the name of what is referred to."""
    end = assembly.text(value).rpartition(":")[2].removeprefix("table/")
    made = assembly.refers(value)
    if made is None or "/" in end:
        return end.partition("}/")[2] or end
    return str(made.properties.get("LogGroupName", made.id))


def test_a_role_has_these_actions_and_no_other(plain: Assembly) -> None:
    """Its probes show that what is here is needed; this, that nothing else is there."""
    found = {name: granted(plain, function) for name, function in functions(plain).items()}
    assert found == {
        name: rights | {f"/aws/lambda/{name}": "CreateLogStream PutLogEvents"} for name, rights in GRANTED.items()
    }


def test_each_statement_has_a_name_by_which_its_probe_is_known(plain: Assembly) -> None:
    for name, function in functions(plain).items():
        sids = [statement["Sid"] for statement in statements(plain, function)]
        wanted = next(each for each in FUNCTIONS if each.name == name)
        assert sids == ["WriteLogs", *(allow.sid for allow in wanted.allows)]
        assert len(sids) == len(set(sids))


def test_a_role_reaches_what_the_environment_names_and_nothing_else(plain: Assembly) -> None:
    names = {table.name: table.variable for table in TABLES}
    for name, function in functions(plain).items():
        told = set(function.properties["Environment"]["Variables"])
        reached = set()
        for statement in statements(plain, function):
            for value in listed(statement["Resource"]):
                resource = plain.refers(value)
                if resource is not None and resource.type == "AWS::ApiGatewayV2::Api":
                    reached.add("WS_API_ENDPOINT")
                elif resource is not None and resource.type == "AWS::SecretsManager::Secret":
                    reached.add("CURSOR_SECRET_ARN")
                elif ":table/" in (arn := plain.text(value)):
                    reached.add(names[arn.partition(":table/")[2].partition("/")[0]])
                elif ":sns:" in arn:
                    reached.add("FIFO_TOPIC_ARN" if arn.endswith(".fifo") else "STANDARD_TOPIC_ARN")
                elif ":sqs:" in arn:
                    kind = next(each for each in ("Fifo", "Standard", "Storage") if each in arn).upper()
                    reached.add(f"{kind}_DLQ_URL" if "DLQ" in arn else f"{kind}_QUEUE_URL")
        plain_values = {"ISSUER", "JWKS_URL", "AUDIENCE", "SCOPE_PREFIX", "RETENTION_DAYS", "ALLOWED_ORIGINS"}
        assert reached == told - plain_values - {"METRICS_NAMESPACE"}, name


def test_each_function_is_told_what_it_needs_and_no_more(plain: Assembly) -> None:
    for name, function in functions(plain).items():
        needed = {variable.name for variable in ENVIRONMENT if name in variable.functions}
        assert set(function.properties["Environment"]["Variables"]) == needed


def test_the_processor_may_name_the_resources_that_are_its_own_in_a_stage(dev: Assembly) -> None:
    processor = functions(dev)["dev-processor"]
    reached = {dev.text(value) for each in statements(dev, processor) for value in listed(each["Resource"])}
    here = [arn for arn in reached if ":dynamodb:" in arn or ":sqs:" in arn]
    assert here
    assert all(arn.split(":")[-1].removeprefix("table/").startswith("dev-") for arn in here)


def test_only_its_own_door_starts_a_function(plain: Assembly) -> None:
    """By a permission that names the API and the route, the authorizer, or the rule."""
    for permission in plain.of("AWS::Lambda::Permission"):
        assert permission.properties["Action"] == "lambda:InvokeFunction"
        assert permission.properties["Principal"] in ("apigateway.amazonaws.com", "events.amazonaws.com")
        source = plain.behind(permission.properties["SourceArn"])
        assert source.type in ("AWS::ApiGatewayV2::Api", "AWS::ApiGateway::RestApi", "AWS::Events::Rule")


def test_tracing_asks_for_what_x_ray_asks_for(plain: Assembly, dev: Assembly) -> None:
    assert dev.one("AWS::ApiGateway::Stage").properties["TracingEnabled"] is True
    for function in dev.of("AWS::Lambda::Function"):
        assert function.properties["TracingConfig"] == {"Mode": "Active"}
        (trace,) = [each for each in statements(dev, function) if each["Sid"] == "Trace"]
        assert set(trace["Action"]) == {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
    for function in plain.of("AWS::Lambda::Function"):
        assert "TracingConfig" not in function.properties
