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
from contextlib import closing
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
    with closing(_Account(url)) as account:
        return account.deploy(folder, prefix)


def withdraw(url: str, prefix: str = "") -> None:
    """The service's stack alone, as docs/aws-deployment-checklist.md has it: the data stays."""
    with closing(_Account(url)) as account:
        account.withdraw(prefix + SERVICE)


class _Account:
    """The emulator's, as far as one deploys to it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._cloudformation = boto3.client("cloudformation")
        self._s3 = boto3.client("s3")
        self._ssm = boto3.client("ssm")
        self._sts = boto3.client("sts")
        self._bucket = f"cdk-hnb659fds-assets-{self._sts.get_caller_identity()['Account']}-{self._s3.meta.region_name}"

    def close(self) -> None:
        for client in (self._cloudformation, self._s3, self._ssm, self._sts):
            client.close()

    def deploy(self, folder: Path, prefix: str) -> Deployed:
        # What `cdk bootstrap` would make, as far as it is looked at.
        self._s3.create_bucket(Bucket=self._bucket)
        self._ssm.put_parameter(Name=BOOTSTRAP, Value="30", Type="String", Overwrite=True)
        for asset in folder.glob("asset.*"):
            self._upload(f"{asset.name.removeprefix('asset.')}.zip", _zipped(asset))
        outputs: dict[str, str] = {}
        for stack, template in Assembly.read(folder, prefix).templates.items():
            name = stack if stack == LOGGING else prefix + stack
            self._upload(f"{name}.json", json.dumps(adapted(template, self._url)).encode())
            outputs |= self._settle(name)
        rest, websocket = (outputs[name].split("//")[1].split(".")[0] for name in ("RestUrl", "WebSocketUrl"))
        return Deployed(
            prefix=prefix,
            rest_url=f"{self._url}/_aws/execute-api/{rest}/dvl",
            websocket_url=f"{self._url.replace('http', 'ws', 1)}/_aws/execute-api/{websocket}/dvl",
            user_pool_id=outputs["UserPoolId"],
            web_client_id=outputs["WebClientId"],
            machine_client_id=outputs["MachineClientId"],
        )

    def withdraw(self, name: str) -> None:
        self._cloudformation.update_termination_protection(StackName=name, EnableTerminationProtection=False)
        self._cloudformation.delete_stack(StackName=name)
        self._await("stack_delete_complete", name)

    def _upload(self, key: str, body: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)

    def _settle(self, name: str) -> dict[str, str]:
        """Creates or updates a stack; its outputs."""
        wanted = {
            "StackName": name,
            "TemplateURL": f"{self._url}/{self._bucket}/{name}.json",
            "Capabilities": ["CAPABILITY_IAM"],
        }
        try:
            self._cloudformation.describe_stacks(StackName=name)
        except ClientError:
            self._cloudformation.create_stack(EnableTerminationProtection=True, **wanted)
            self._await("stack_create_complete", name)
        else:
            try:
                self._cloudformation.update_stack(**wanted)
            except ClientError as error:
                if "No updates are to be performed" not in str(error):
                    raise
            else:
                self._await("stack_update_complete", name)
        (stack,) = self._cloudformation.describe_stacks(StackName=name)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}

    def _await(self, outcome: str, name: str) -> None:
        try:
            self._cloudformation.get_waiter(outcome).wait(StackName=name, WaiterConfig={"Delay": 1})
        except WaiterError as error:
            events = self._cloudformation.describe_stack_events(StackName=name)["StackEvents"]
            failed = [event for event in events if event["ResourceStatus"].endswith("FAILED")]
            said = [f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}" for event in failed]
            raise RuntimeError(f"{name} did not come to {outcome}: {'; '.join(said)}") from error


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


def _zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return packed.getvalue()
