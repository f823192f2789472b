"""The two stacks of a stage: what must outlive every deployment, and the service itself.

    Data     tables, user pool      kept when deleted; deleting is refused until the protection is taken off
    Service  all the rest           can be deleted and made again beside the data

The third, the account's logging role, stands in logging_account.py.
"""

from typing import Final

from aws_cdk import CfnOutput, Duration, Environment, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.aws.alarms import Alarms
from deploy.aws.bus import Bus
from deploy.aws.compute import Compute
from deploy.aws.dashboard import Dashboard
from deploy.aws.domain import Domains
from deploy.aws.identity import RESOURCE_SERVER, Identity
from deploy.aws.rest_api import RestApi
from deploy.aws.settings import Settings
from deploy.aws.tables import Tables
from deploy.aws.websocket_api import WebSocketApi
from tocsin.engines.aws.schema import TABLES
from tocsin.gateways.aws_routes import EACH_MINUTE


class Data(Stack):
    def __init__(self, scope: Construct, settings: Settings, env: Environment) -> None:
        super().__init__(
            scope,
            settings.named("TocsinData"),
            env=env,
            termination_protection=True,
            description="Tocsin: what outlives every deployment, its tables and its user pool",
        )
        Tables(self, settings)
        self.identity: Final = Identity(self, settings)
        _tell(
            self,
            UserPoolId=self.identity.pool.user_pool_id,
            WebClientId=self.identity.web.user_pool_client_id,
            MachineClientId=self.identity.machine.user_pool_client_id,
            TokenEndpoint=self.identity.token_endpoint,
        )


class Service(Stack):
    def __init__(self, scope: Construct, settings: Settings, env: Environment, data: Data) -> None:
        super().__init__(
            scope,
            settings.named("Tocsin"),
            env=env,
            termination_protection=True,
            description="Tocsin: doors, functions, topics and queues",
        )
        self.add_stack_dependency(data, "its tables are known by name")
        bus = Bus(self, settings)
        websocket_api = WebSocketApi(self, settings)
        cursor_key = secretsmanager.CfnSecret(
            self,
            "CursorKey",
            description="Tocsin signs startKey with it",
            generate_secret_string=secretsmanager.CfnSecret.GenerateSecretStringProperty(
                exclude_punctuation=True, password_length=64
            ),
        )
        compute = Compute(
            self,
            settings,
            bus,
            values=_values(settings, bus, websocket_api, data.identity) | {"CURSOR_SECRET_ARN": cursor_key.attr_id},
            resources={
                "connections/POST": websocket_api.connections("POST"),
                "connections/DELETE": websocket_api.connections("DELETE"),
                "secret/cursor": cursor_key.attr_id,
            },
        )
        websocket_api.serve(compute.functions)
        rest_api = RestApi(self, settings, data.identity.pool, compute.functions)
        each_minute = compute.functions[EACH_MINUTE]
        # The next minute's does what this one could not: also after an hour of refused starts there is one, not sixty.
        each_minute.configure_async_invoke(retry_attempts=0, max_event_age=Duration.minutes(1))
        minute_job = events.Rule(
            self,
            "MinuteJob",
            description="connection-handler looks for tokens that end, and for gaps that were not told",
            schedule=events.Schedule.rate(Duration.minutes(1)),
            targets=[targets.LambdaFunction(each_minute, retry_attempts=0, max_event_age=Duration.minutes(1))],
        )
        domains = Domains(self, settings, websocket_api, rest_api)
        alarms = Alarms(self, settings, bus, compute, websocket_api, rest_api, minute_job.rule_name)
        Dashboard(self, settings, bus, compute, websocket_api, rest_api)
        _tell(
            self,
            WebSocketUrl=domains.websocket_url,
            RestUrl=domains.rest_url,
            AlarmTopic=alarms.topic.topic_arn,
        )


def _values(settings: Settings, bus: Bus, websocket_api: WebSocketApi, identity: Identity) -> dict[str, str]:
    """What engines/aws/settings.ENVIRONMENT asks for, but the key."""
    topics = [topic.topic_arn for topic in bus.topics.values()]
    queues = [queue.queue_url for queue in bus.queues.values()]
    dead_letters = [queue.queue_url for queue in bus.dead_letters.values()]
    return {
        **{table.variable: settings.table(table.name) for table in TABLES},
        **dict(zip(("FIFO_TOPIC_ARN", "STANDARD_TOPIC_ARN"), topics, strict=True)),
        **dict(zip(("FIFO_QUEUE_URL", "STANDARD_QUEUE_URL", "STORAGE_QUEUE_URL"), queues, strict=True)),
        **dict(zip(("FIFO_DLQ_URL", "STANDARD_DLQ_URL", "STORAGE_DLQ_URL"), dead_letters, strict=True)),
        "WS_API_ENDPOINT": websocket_api.callbacks,
        "ISSUER": identity.issuer,
        "JWKS_URL": identity.jwks_url,
        "AUDIENCE": f"{identity.web.user_pool_client_id},{identity.machine.user_pool_client_id}",
        "SCOPE_PREFIX": f"{RESOURCE_SERVER}/",
        "RETENTION_DAYS": str(settings.retention_days),
        "ALLOWED_ORIGINS": ",".join(settings.allowed_origins),
        "METRICS_NAMESPACE": settings.named("Tocsin"),
    }


def _tell(stack: Stack, **outputs: str) -> None:
    for name, value in outputs.items():
        CfnOutput(stack, name, value=value)
