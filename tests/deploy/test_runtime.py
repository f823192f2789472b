"""A function under AWS's own runtime client, as Lambda starts it: the handler by its name, events over the Runtime API.

test -> RuntimeApi (HTTP) <- awslambdaric -> the packed code -> its answer -> RuntimeApi -> test
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self

import pytest

from tests.gateways.lambda_events import CLAIMS, Aws
from tests.guarantees.server import HOST
from tests.ministack import PROGRAM
from tocsin.engines.aws.settings import ENVIRONMENT as VARIABLES
from tocsin.engines.aws.settings import Function
from tocsin.engines.file_keys import FileKeys
from tocsin.gateways.aws_routes import AUTHORIZER, ENTRY_POINTS

pytestmark = pytest.mark.slow

FUNCTION: Final[Function] = "metric-collector"
ENVIRONMENT: Final = {"ISSUER": "https://issuer.example.com", "AUDIENCE": "web"}
SECONDS: Final = 60
PREFIX: Final = "/2018-06-01/runtime"


class RuntimeApi(ThreadingHTTPServer):
    """Lambda's side. `said` is what the runtime posts: (path without its prefix, body)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Request)
        self.events: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self.said: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._thread = threading.Thread(target=self.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.events.put(None)
        self.shutdown()
        self._thread.join()
        self.server_close()

    def invoke(self, event: dict[str, Any]) -> tuple[str, Any]:
        self.events.put(event)
        return self.said.get(timeout=SECONDS)


class _Request(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # a runtime that was killed
            super().handle()

    def do_GET(self) -> None:
        """The next event, when there is one."""
        assert self.path == f"{PREFIX}/invocation/next"
        event = self.server.events.get()
        if event is not None:
            self._answer(200, event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.said.put((self.path.removeprefix(PREFIX), json.loads(body)))
        self._answer(202, {})

    def _answer(self, status: int, answer: object) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("Lambda-Runtime-Aws-Request-Id", "request-1")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 10) * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", f"arn:aws:lambda:us-east-1:123456789012:{FUNCTION}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def lambda_side() -> Iterator[RuntimeApi]:
    with RuntimeApi() as api:
        yield api


def started(
    api: RuntimeApi, package: Path, environment: Mapping[str, str], function: Function = FUNCTION
) -> "subprocess.Popen[bytes]":
    """As in Lambda's base image for Python; its logs are JSON (deploy/aws/compute.py)."""
    handler = f"tocsin.profiles.aws.{ENTRY_POINTS[function]}"
    told = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(package),
        "LAMBDA_TASK_ROOT": str(package),
        "AWS_LAMBDA_RUNTIME_API": f"{HOST}:{api.server_port}",
        "AWS_LAMBDA_FUNCTION_NAME": function,
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_LEVEL": "INFO",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "_HANDLER": handler,
        **environment,
    }
    return subprocess.Popen(
        [PROGRAM.with_name("python"), "-m", "awslambdaric", handler],
        cwd=package,
        env=told,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def test_a_function_answers_events_as_aws_documents_them(lambda_side: RuntimeApi, package_here: Path) -> None:
    runtime = started(lambda_side, package_here, ENVIRONMENT)
    try:
        path, answer = lambda_side.invoke(Aws().rest("GET", "/openapi.json", claims=None))
        assert (path, answer["statusCode"]) == ("/invocation/request-1/response", 200)
        assert json.loads(answer["body"])["openapi"].startswith("3.1")
        metrics = json.dumps({"metrics": [{"name": "custom.probe", "value": 1}]}).encode()
        path, answer = lambda_side.invoke(Aws().rest("POST", "/metrics", body=metrics, claims=CLAIMS))
        assert (path, answer["statusCode"]) == ("/invocation/request-1/response", 202), answer
        path, answer = lambda_side.invoke({"nobody": "knows this"})
        assert path == "/invocation/request-1/error"
    finally:
        runtime.kill()
        printed, _ = runtime.communicate()
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith(b'{"_aws"')]
    assert any("client.custom.probe" in line for line in lines), printed


def test_what_is_missing_in_the_environment_is_what_lambda_is_told(lambda_side: RuntimeApi, package_here: Path) -> None:
    runtime = started(lambda_side, package_here, {"AUDIENCE": "web"})
    try:
        path, answer = lambda_side.said.get(timeout=SECONDS)
        assert (path, answer["errorType"]) == ("/init/error", "EnvironmentFault")
        assert "ISSUER" in answer["errorMessage"]
    finally:
        runtime.kill()
        runtime.communicate()


def test_an_authorizers_log_tells_a_strangers_fault_from_ours_and_says_why(
    lambda_side: RuntimeApi, package_here: Path, tmp_path: Path
) -> None:
    """By the two fields that its alarm looks at (test_watch.py). As text, a line would not have its fields."""
    environment = {variable.name: variable.name for variable in VARIABLES if AUTHORIZER in variable.functions}
    environment |= {"ISSUER": "https://issuer.example.com", "JWKS_URL": "https://127.0.0.1:1/jwks.json"}
    unknown = FileKeys(tmp_path / "keys").mint("alice", (), 3600, int(time.time() * 1000))
    runtime = started(lambda_side, package_here, environment, AUTHORIZER)
    try:
        for token in ("nonsense", unknown):
            path, _ = lambda_side.invoke(Aws().authorizer(f"token={token}"))
            assert path == "/invocation/request-1/error"
    finally:
        runtime.kill()
        printed, _ = runtime.communicate()
    logged = [json.loads(line) for line in printed.splitlines() if line.startswith(b"{")]
    raised = [(line["errorType"], line["errorMessage"]) for line in logged if "errorType" in line]
    assert [(kind, message == "Unauthorized") for kind, message in raised] == [("Exception", True), ("Refusal", False)]
    (keys,) = [line for line in logged if line.get("message") == "keys"]
    assert "127.0.0.1" in keys["reason"]
