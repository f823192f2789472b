"""The WebSocket door: API Gateway, its authorizer, its routes and its stage.

Rules:
- a route's answer reaches the client only through its RouteResponse; `$connect` and `$disconnect` send no frame;
- the authorizer's identity source is a header that every client sends. With CDK's own choice, Authorization, API
  Gateway would answer 401 to every browser before asking;
- nothing is logged that holds the query string, where a token may be: no execution log below ERROR, no data trace;
- the stage's own address stays on, also behind a domain: posting to connections goes to it.
"""

from collections.abc import Mapping
from typing import Final

from aws_cdk import Aws, Duration, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_apigatewayv2_authorizers as authorizers
from aws_cdk import aws_apigatewayv2_integrations as integrations
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from deploy.aws.log_groups import WEBSOCKET, access_log, execution_log, line
from deploy.aws.settings import Settings
from tocsin.gateways.aws_routes import AUTHORIZER, WEBSOCKET_ROUTES

#: The base path of docs/wire.md, and the seed's.
STAGE: Final = "dvl"
IDENTITY: Final = "route.request.header.Host"
#: Frames a second from all clients together, and at once: far below the account's 10,000, which callbacks share.
RATE: Final = 2_000
BURST: Final = 2_000
#: These answer the upgrade, or nobody.
FRAMELESS: Final = ("$connect", "$disconnect")


class WebSocketApi(Construct):
    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "WebSocketApi")
        self.api: Final = apigateway.WebSocketApi(
            self,
            "Api",
            api_name=settings.named("tocsin-websocket"),
            description="Tocsin's WebSocket door",
            route_selection_expression="$request.body.action",
        )
        made = self.api.node.default_child
        assert isinstance(made, apigateway.CfnApi)
        made.disable_execute_api_endpoint = False
        self.stage: Final = apigateway.CfnStage(
            self,
            "Stage",
            api_id=self.api.api_id,
            stage_name=STAGE,
            auto_deploy=True,
            access_log_settings=apigateway.CfnStage.AccessLogSettingsProperty(
                destination_arn=access_log(self, settings, "websocket").log_group_arn, format=line(WEBSOCKET)
            ),
            default_route_settings=apigateway.CfnStage.RouteSettingsProperty(
                throttling_rate_limit=RATE,
                throttling_burst_limit=BURST,
                logging_level="ERROR",
                data_trace_enabled=False,
                detailed_metrics_enabled=False,
            ),
        )
        self.stage.node.add_dependency(execution_log(self, settings, f"/aws/apigateway/{self.api.api_id}/{STAGE}"))
        host = f"{self.api.api_id}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}"
        self.host: Final = host
        self.callbacks: Final = f"https://{host}/{STAGE}"
        self.url: Final = f"wss://{host}/{STAGE}"

    def connections(self, method: str) -> str:
        """The ARN of doing `method` to any connection: they come and go, and their ids are API Gateway's."""
        return Stack.of(self).format_arn(
            service="execute-api", resource=self.api.api_id, resource_name=f"{STAGE}/{method}/@connections/*"
        )

    def counts(self, name: str, period: Duration) -> cloudwatch.Metric:
        """A metric of the stage: CDK's own would be that of all stages."""
        return self.api.metric(
            name, dimensions_map={"ApiId": self.api.api_id, "Stage": STAGE}, period=period, statistic="Sum"
        )

    def serve(self, functions: Mapping[str, lambda_.Function]) -> None:
        authorizer = authorizers.WebSocketLambdaAuthorizer(
            "Authorizer", functions[AUTHORIZER], identity_source=[IDENTITY]
        )
        for key, name in WEBSOCKET_ROUTES.items():
            self.api.add_route(
                key,
                integration=integrations.WebSocketLambdaIntegration(f"{key}Integration", functions[name]),
                authorizer=authorizer if key == "$connect" else None,
                return_response=key not in FRAMELESS or None,
            )
