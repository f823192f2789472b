"""The nine functions on Lambda: code, environment, logs, one role for each, and the queues that start them.

    functions.py, engines/aws/settings.ENVIRONMENT -> here -> routes (websocket_api.py, rest_api.py), alarms

Rules:
- a function is given the variables that it needs, and a role that allows what functions.py lists, nothing else;
- a role may write to its function's log group, which is made here, with an end to what it keeps, and cannot make one;
- logs are JSON: as text Lambda prints neither the fields of a line nor anything below a warning (src/tocsin/logs.py).
"""

from collections.abc import Mapping
from typing import Final

from aws_cdk import ArnFormat, Duration, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.aws.bus import Bus
from deploy.aws.functions import FUNCTIONS, STORAGE_CONCURRENCY, Allow, Function
from deploy.aws.log_groups import log_group
from deploy.aws.settings import Settings
from tocsin.engines.aws.settings import ENVIRONMENT
from tocsin.gateways.aws_routes import ENTRY_POINTS
from tocsin.topology import MESSAGE_STORAGE_QUEUE, Queue


class Compute(Construct):
    """`functions` by name. `values` are the environment's, `resources` the ARNs of what has no name of its own."""

    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        bus: Bus,
        values: Mapping[str, str],
        resources: Mapping[str, str],
    ) -> None:
        super().__init__(scope, "Functions")
        self._settings = settings
        self._values = values
        self._resources = resources
        code = lambda_.Code.from_asset(str(settings.package))
        self.functions: Final[dict[str, lambda_.Function]] = {
            function.name: self._function(function, code) for function in FUNCTIONS
        }
        for function in FUNCTIONS:
            for queue in function.queues:
                self._start(function, queue, bus)

    def _function(self, function: Function, code: lambda_.Code) -> lambda_.Function:
        name = self._settings.named(function.name)
        place = Construct(self, function.name)
        log = log_group(place, self._settings, f"/aws/lambda/{name}")
        return lambda_.Function(
            place,
            "Function",
            function_name=name,
            description=f"Tocsin's {function.name}",
            code=code,
            handler=f"tocsin.profiles.aws.{ENTRY_POINTS[function.name]}",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            timeout=Duration.seconds(function.timeout),
            memory_size=function.memory,
            environment={
                variable.name: self._values[variable.name]
                for variable in ENVIRONMENT
                if function.name in variable.functions
            },
            reserved_concurrent_executions=self._settings.reserved.get(function.name),
            log_group=log,
            logging_format=lambda_.LoggingFormat.JSON,
            role=self._role(place, function, log).without_policy_updates(),
            tracing=lambda_.Tracing.ACTIVE if self._settings.xray else None,
        )

    def _role(self, place: Construct, function: Function, log: logs.LogGroup) -> iam.Role:
        statements = [
            iam.PolicyStatement(
                sid="WriteLogs", actions=["logs:CreateLogStream", "logs:PutLogEvents"], resources=[log.log_group_arn]
            ),
            *map(self._statement, function.allows),
        ]
        if self._settings.xray:  # AWS knows no resources here
            traces = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
            statements.append(iam.PolicyStatement(sid="Trace", actions=traces, resources=["*"]))
        return iam.Role(
            place,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            inline_policies={"Allows": iam.PolicyDocument(statements=statements, minimize=False)},
        )

    def _statement(self, allow: Allow) -> iam.PolicyStatement:
        leading = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(allow.keys)}}
        return iam.PolicyStatement(
            sid=allow.sid,
            actions=list(allow.actions),
            resources=[self._arn(resource) for resource in allow.on],
            conditions=leading if allow.keys else None,
        )

    def _arn(self, resource: str) -> str:
        if resource in self._resources:
            return self._resources[resource]
        kind, _, name = resource.partition("/")
        stack = Stack.of(self)
        if kind == "table":
            return stack.format_arn(service="dynamodb", resource="table", resource_name=self._settings.table(name))
        service = {"topic": "sns", "queue": "sqs"}[kind]
        return stack.format_arn(
            service=service, resource=self._settings.named(name), arn_format=ArnFormat.NO_RESOURCE_NAME
        )

    def _start(self, function: Function, queue: Queue, bus: Bus) -> None:
        lambda_.EventSourceMapping(
            self,
            f"{queue.name}To{function.name}",
            target=self.functions[function.name],
            event_source_arn=bus.queues[queue.name].queue_arn,
            batch_size=queue.batch_size,
            report_batch_item_failures=True,
            max_concurrency=(
                STORAGE_CONCURRENCY if queue is MESSAGE_STORAGE_QUEUE else self._settings.processor_concurrency
            ),
        )
