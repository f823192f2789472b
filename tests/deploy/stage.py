"""The stacks on the emulator: the same templates, less what it does not know, with its own address where AWS has one.

    Assembly, asset folders -> deploy -> Deployed (doors, pool, clients), withdraw

Rules:
- what is left out stands in REFUSED, and a test asserts each on the template instead;
- what is changed stands in `adapted`, and nothing else is: where callbacks go and the issuer's keys are; no policy asks
  for TLS, which the emulator does not speak; it wants a permission of its own for PublishBatch, where AWS has only that
  for Publish.
"""

import io
import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import boto3
import msgspec
from botocore.exceptions import ClientError, WaiterError

from deploy.aws.assembly import LOGGING, SERVICE, Assembly

#: What the emulator's CloudFormation refuses a whole stack for: a type, or one with a certain property.
REFUSED: Final = (
    ("AWS::ApiGatewayV2::RouteResponse", None),
    ("AWS::CloudWatch::Alarm", "Metrics"),
)
BOOTSTRAP: Final = "/cdk-bootstrap/hnb659fds/version"


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """One stage. Both URLs end with the base path."""

    prefix: str
    rest_url: str
    websocket_url: str
    user_pool_id: str
    web_client_id: str
    machine_client_id: str


def deploy(folder: Path, url: str, prefix: str = "") -> Deployed:
    """The templates of `folder` to the emulator at `url`, which boto3 is told of by the environment.

    What stands there already is updated. Raises RuntimeError, with what CloudFormation said.
    """
    bucket = _bootstrap()
    for asset in folder.glob("asset.*"):
        _upload(bucket, f"{asset.name.removeprefix('asset.')}.zip", _zipped(asset))
    outputs: dict[str, str] = {}
    for stack, template in Assembly.read(folder, prefix).templates.items():
        name = stack if stack == LOGGING else prefix + stack
        _upload(bucket, f"{name}.json", json.dumps(adapted(template, url)).encode())
        outputs |= _settle(name, f"{url}/{bucket}/{name}.json")
    rest, websocket = (outputs[name].split("//")[1].split(".")[0] for name in ("RestUrl", "WebSocketUrl"))
    return Deployed(
        prefix=prefix,
        rest_url=f"{url}/_aws/execute-api/{rest}/dvl",
        websocket_url=f"{url.replace('http', 'ws', 1)}/_aws/execute-api/{websocket}/dvl",
        user_pool_id=outputs["UserPoolId"],
        web_client_id=outputs["WebClientId"],
        machine_client_id=outputs["MachineClientId"],
    )


def withdraw(prefix: str = "") -> None:
    """The service's stack alone, as docs/aws-deployment-checklist.md has it: the data stays."""
    cloudformation = boto3.client("cloudformation")
    name = prefix + SERVICE
    cloudformation.update_termination_protection(StackName=name, EnableTerminationProtection=False)
    cloudformation.delete_stack(StackName=name)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=name, WaiterConfig={"Delay": 1})


def is_refused(resource: dict[str, Any]) -> bool:
    return any(resource["Type"] == kind and (name is None or name in resource["Properties"]) for kind, name in REFUSED)


def adapted(template: dict[str, Any], url: str) -> dict[str, Any]:
    changed = deepcopy(template)
    changed["Resources"] = {
        name: resource for name, resource in changed["Resources"].items() if not is_refused(resource)
    }
    for resource in changed["Resources"].values():
        properties = resource.get("Properties", {})
        match resource["Type"]:
            case "AWS::Lambda::Function":
                _address(properties["Environment"]["Variables"], url)
            case "AWS::SNS::TopicPolicy" | "AWS::SQS::QueuePolicy":
                policy = properties["PolicyDocument"]
                policy["Statement"] = [each for each in policy["Statement"] if each["Effect"] == "Allow"]
            case "AWS::IAM::Role":
                for policy in properties.get("Policies", []):
                    for statement in policy["PolicyDocument"]["Statement"]:
                        if statement["Action"] == "sns:Publish":
                            statement["Action"] = ["sns:Publish", "sns:PublishBatch"]
    # A policy that says nothing is none.
    changed["Resources"] = {
        name: resource
        for name, resource in changed["Resources"].items()
        if resource.get("Properties", {}).get("PolicyDocument", {}).get("Statement") != []
    }
    for resource in changed["Resources"].values():
        depends = resource.get("DependsOn")
        if isinstance(depends, list):
            resource["DependsOn"] = [name for name in depends if name in changed["Resources"]]
    return changed


def _address(variables: dict[str, Any], url: str) -> None:
    if "WS_API_ENDPOINT" in variables:
        (api,) = _references(variables["WS_API_ENDPOINT"])
        variables["WS_API_ENDPOINT"] = _join(f"{url}/_aws/execute-api/", api, "/dvl")
    if "JWKS_URL" in variables:
        (pool,) = _references(variables["JWKS_URL"])
        variables["JWKS_URL"] = _join(f"{url}/", pool, "/.well-known/jwks.json")


def _references(value: dict[str, Any]) -> list[Any]:
    """What is joined here that is no text and not the account's or the Region's."""
    _, parts = value["Fn::Join"]
    return [part for part in parts if not isinstance(part, str) and not str(part.get("Ref", "")).startswith("AWS::")]


def _join(*parts: object) -> dict[str, Any]:
    return {"Fn::Join": ["", list(parts)]}


def _bootstrap() -> str:
    """What `cdk bootstrap` would make, as far as it is looked at; the bucket's name."""
    account = boto3.client("sts").get_caller_identity()["Account"]
    s3 = boto3.client("s3")
    bucket = f"cdk-hnb659fds-assets-{account}-{s3.meta.region_name}"
    s3.create_bucket(Bucket=bucket)
    boto3.client("ssm").put_parameter(Name=BOOTSTRAP, Value="30", Type="String", Overwrite=True)
    return bucket


def _upload(bucket: str, key: str, body: bytes) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=body)


def _zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return packed.getvalue()


def _settle(name: str, template: str) -> dict[str, str]:
    """Creates or updates a stack; its outputs."""
    cloudformation = boto3.client("cloudformation")
    wanted = {"StackName": name, "TemplateURL": template, "Capabilities": ["CAPABILITY_IAM"]}
    try:
        cloudformation.describe_stacks(StackName=name)
    except ClientError:
        outcome = "stack_create_complete"
        cloudformation.create_stack(EnableTerminationProtection=True, **wanted)
    else:
        outcome = "stack_update_complete"
        try:
            cloudformation.update_stack(**wanted)
        except ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise
            return _outputs(name)
    try:
        cloudformation.get_waiter(outcome).wait(StackName=name, WaiterConfig={"Delay": 1})
    except WaiterError as error:
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        failed = [event for event in events if event["ResourceStatus"].endswith("FAILED")]
        said = [f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}" for event in failed]
        raise RuntimeError(f"{name} could not be made: {'; '.join(said)}") from error
    return _outputs(name)


def _outputs(name: str) -> dict[str, str]:
    (stack,) = boto3.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
