"""What a test does to a deployed stage, and takes back: a function that dies, a message that is not hidden for long.

    with failing("processor", "number.committed=kill@2"): ...      with hidden_for(3): ...

Rule: whoever changes a stage leaves it as it was; the next test finds the template's.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

import boto3

from tocsin.engines.aws.schema import queue_name
from tocsin.engines.aws.settings import FUNCTIONS, AwsSettings, Function
from tocsin.topology import QUEUES

FAILPOINTS: Final = "TOCSIN_FAILPOINTS"
CALLBACKS: Final = "WS_API_ENDPOINT"


@contextmanager
def failing(function: Function, failpoints: str) -> Iterator[None]:
    """In every process of the function, each with a count of its own, there are these failpoints."""
    with _told(function, FAILPOINTS, failpoints):
        yield


@contextmanager
def nobody_taking(function: Function) -> Iterator[None]:
    """What the function posts to connections is answered with 500; what else it asks of them, the emulator answers."""
    with closing(boto3.client("lambda")) as functions:
        told = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    place = urlsplit(told[CALLBACKS])
    assert place.hostname is not None
    with _Door(place.hostname, place.port) as door:
        serving = threading.Thread(target=door.serve_forever, args=(0.01,))
        serving.start()
        try:
            with _told(function, CALLBACKS, f"http://127.0.0.1:{door.server_port}{place.path}"):
                yield
        finally:
            door.shutdown()
            serving.join()


class _Door(ThreadingHTTPServer):
    def __init__(self, host: str, port: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.emulator: Final = (host, port)


class _Request(BaseHTTPRequestHandler):
    server: _Door

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(500)

    def do_DELETE(self) -> None:
        with closing(HTTPConnection(*self.server.emulator)) as emulator:
            emulator.request("DELETE", self.path, headers=dict(self.headers))
            self._answer(emulator.getresponse().status)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """pytest has nothing to say of it."""


@contextmanager
def _told(function: Function, variable: str, value: str) -> Iterator[None]:
    with closing(boto3.client("lambda")) as functions:
        was = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
        functions.update_function_configuration(
            FunctionName=function, Environment={"Variables": was | {variable: value}}
        )
        try:
            yield
        finally:
            functions.update_function_configuration(FunctionName=function, Environment={"Variables": was})


@contextmanager
def hidden_for(seconds: int) -> Iterator[None]:
    """What a killed function was at comes again so soon, in place of six times its timeout."""
    with closing(boto3.client("sqs")) as sqs, ExitStack() as stack:
        for queue in QUEUES:
            url = sqs.get_queue_url(QueueName=queue_name(queue.name, fifo=queue.fifo))["QueueUrl"]
            was = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
            sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(seconds)})
            stack.callback(sqs.set_queue_attributes, QueueUrl=url, Attributes=was)
        yield


@contextmanager
def without(function: Function, sid: str) -> Iterator[None]:
    """The function's role lacks this statement. (A policy counts from the next call on.)"""
    with closing(boto3.client("lambda")) as functions, closing(boto3.client("iam")) as iam:
        role = functions.get_function_configuration(FunctionName=function)["Role"].rpartition("/")[2]
        (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
        policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        less = policy | {"Statement": [each for each in policy["Statement"] if each["Sid"] != sid]}
        assert len(less["Statement"]) == len(policy["Statement"]) - 1
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(less))
        try:
            yield
        finally:
            iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))


def settings_of_all() -> AwsSettings:
    """What all functions together are told: for an engine of the test's own, with the account's rights."""
    told: dict[str, str] = {}
    with closing(boto3.client("lambda")) as functions:
        for function in FUNCTIONS:
            told |= functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    fields: dict[str, str] = {name.lower(): value for name, value in told.items()}
    return AwsSettings(**{name: fields[name] for name in AwsSettings.__struct_fields__ if name.endswith(_PLACES)})  # type: ignore[arg-type]


_PLACES: Final = ("_table", "_arn", "_url", "_endpoint")
