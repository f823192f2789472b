"""The REST door: API Gateway, the Cognito authorizer, its routes, and what it answers itself.

Rules:
- bodies reach the functions as they came (`*/*` is binary): the strict scan must see bytes, not a re-encoded text;
- with scopes set, a method takes access tokens only. All scopes of ours and a person's are listed at each: which of
  them is enough, the component decides;
- what API Gateway answers itself has our error shape (docs/wire.md, Errors). A throttled function is a 5xx to it, and
  whether anything was stored is unknown: 503, come again;
- a preflight is answered by API Gateway itself, from a list of origins. Where `*/*` is binary a mock must be told that
  its answer is text, or it is a 500.
"""

import json
from collections.abc import Mapping
from typing import Final

import msgspec
from aws_cdk import Aws, Duration
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from deploy.aws.identity import ACCESS_SCOPES
from deploy.aws.log_groups import REST, access_log, execution_log, line
from deploy.aws.settings import Settings
from deploy.aws.websocket_api import STAGE
from tocsin.errors import STATUS
from tocsin.gateways.asgi import ALLOWED_HEADERS, EXPOSED_HEADERS, PREFLIGHT_SECONDS, RETRIED, RETRY_SECONDS
from tocsin.gateways.aws_routes import REST_ROUTES
from tocsin.gateways.routes import ROUTES

#: Requests a second, and at once.
RATE: Final = 1_000
BURST: Final = 1_000
#: What needs no token (gateways/routes.py).
PUBLIC: Final = frozenset(route.path for route in ROUTES if route.public)


class GatewayAnswer(msgspec.Struct, frozen=True):
    """What is answered for one of API Gateway's response types: our code, and a sentence."""

    type: str
    code: str
    message: str


GATEWAY_ANSWERS: Final = (
    GatewayAnswer("UNAUTHORIZED", "unauthorized", "An access token is needed in the Authorization header."),
    GatewayAnswer("EXPIRED_TOKEN", "token_expired", "The token has expired."),
    GatewayAnswer("ACCESS_DENIED", "forbidden", "This is not allowed."),
    GatewayAnswer("MISSING_AUTHENTICATION_TOKEN", "not_found", "There is nothing here."),
    # A bearer token where no route is: read as AWS's own signature, and as a bad one.
    GatewayAnswer("INVALID_SIGNATURE", "not_found", "There is nothing here."),
    GatewayAnswer("RESOURCE_NOT_FOUND", "not_found", "There is nothing here."),
    GatewayAnswer("REQUEST_TOO_LARGE", "message_too_large", "The body is too large."),
    GatewayAnswer("UNSUPPORTED_MEDIA_TYPE", "unsupported_media_type", "The body must be application/json."),
    GatewayAnswer("THROTTLED", "rate_limited", "There are too many requests just now."),
    GatewayAnswer("INTEGRATION_FAILURE", "unavailable", "The service cannot answer just now."),
    GatewayAnswer("INTEGRATION_TIMEOUT", "unavailable", "The service cannot answer just now."),
    GatewayAnswer("AUTHORIZER_FAILURE", "unavailable", "The service cannot answer just now."),
    GatewayAnswer("AUTHORIZER_CONFIGURATION_ERROR", "unavailable", "The service cannot answer just now."),
    GatewayAnswer("DEFAULT_4XX", "bad_request", "The request cannot be understood."),
    GatewayAnswer("DEFAULT_5XX", "unavailable", "The service cannot answer just now."),
)


class RestApi(Construct):
    def __init__(
        self,
        scope: Construct,
        settings: Settings,
        pool: cognito.IUserPool,
        functions: Mapping[str, lambda_.Function],
    ) -> None:
        super().__init__(scope, "RestApi")
        self._origins = settings.allowed_origins
        log_group = access_log(self, settings, "rest")
        self.api: Final = apigateway.RestApi(
            self,
            "Api",
            rest_api_name=settings.named("tocsin-rest"),
            description="Tocsin's REST door",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
            binary_media_types=["*/*"],
            disable_execute_api_endpoint=False,
            cloud_watch_role=False,  # logging_account.py's
            deploy_options=apigateway.StageOptions(
                stage_name=STAGE,
                throttling_rate_limit=RATE,
                throttling_burst_limit=BURST,
                logging_level=apigateway.MethodLoggingLevel.ERROR,
                data_trace_enabled=False,
                metrics_enabled=False,
                tracing_enabled=settings.xray,
                access_log_destination=apigateway.LogGroupLogDestination(log_group),
                access_log_format=apigateway.AccessLogFormat.custom(line(REST)),
            ),
        )
        self.api.node.try_remove_child("Endpoint")  # an output that domain.py may contradict
        self.api.deployment_stage.node.add_dependency(
            execution_log(self, settings, f"API-Gateway-Execution-Logs_{self.api.rest_api_id}/{STAGE}")
        )
        self._serve(pool, functions)
        for answer in GATEWAY_ANSWERS:
            self._answer(answer)
        self.host: Final = f"{self.api.rest_api_id}.execute-api.{Aws.REGION}.{Aws.URL_SUFFIX}"
        self.url: Final = f"https://{self.host}/{STAGE}"

    def _serve(self, pool: cognito.IUserPool, functions: Mapping[str, lambda_.Function]) -> None:
        authorizer = apigateway.CognitoUserPoolsAuthorizer(
            self, "Authorizer", cognito_user_pools=[pool], results_cache_ttl=Duration.seconds(0)
        )
        routes = dict(REST_ROUTES)
        for (method, path), name in REST_ROUTES.items():
            if method == "GET":
                routes["HEAD", path] = name
        for (method, path), name in routes.items():
            public = path in PUBLIC
            self.api.root.resource_for_path(path).add_method(
                method,
                apigateway.LambdaIntegration(functions[name], allow_test_invoke=False),
                authorization_type=(
                    apigateway.AuthorizationType.NONE if public else apigateway.AuthorizationType.COGNITO
                ),
                authorizer=None if public else authorizer,
                authorization_scopes=None if public else list(ACCESS_SCOPES),
            )
        for path in dict.fromkeys(path for _, path in routes):
            self._preflight(path, sorted([method for method, other in routes if other == path] + ["OPTIONS"]))

    def _preflight(self, path: str, methods: list[str]) -> None:
        headers = {"Allow": ", ".join(methods)}
        if self._origins:
            headers |= {
                "Access-Control-Allow-Methods": ", ".join(methods),
                "Access-Control-Allow-Headers": ALLOWED_HEADERS.decode(),
                "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
                "Vary": "Origin",
            }
        if len(self._origins) == 1:
            headers["Access-Control-Allow-Origin"] = self._origins[0]
        text = apigateway.ContentHandling.CONVERT_TO_TEXT
        self.api.root.resource_for_path(path).add_method(
            "OPTIONS",
            apigateway.MockIntegration(
                content_handling=text,
                passthrough_behavior=apigateway.PassthroughBehavior.NEVER,
                request_templates={"application/json": '{"statusCode": 204}'},
                integration_responses=[
                    apigateway.IntegrationResponse(
                        status_code="204",
                        content_handling=text,
                        response_parameters={
                            f"method.response.header.{name}": f"'{value}'" for name, value in headers.items()
                        },
                        response_templates={"application/json": _allow_listed(self._origins)},
                    )
                ],
            ),
            authorization_type=apigateway.AuthorizationType.NONE,
            method_responses=[
                apigateway.MethodResponse(
                    status_code="204",
                    response_parameters={f"method.response.header.{name}": True for name in headers},
                )
            ],
        )

    def _answer(self, answer: GatewayAnswer) -> None:
        status = STATUS[answer.code]
        headers = {"X-Request-Id": "context.requestId"}
        if status == 401:
            headers["WWW-Authenticate"] = "'Bearer'"
        if status in RETRIED:
            headers["Retry-After"] = f"'{RETRY_SECONDS}'"
        if self._origins:
            headers |= {
                "Access-Control-Allow-Origin": _allowed(self._origins),
                "Access-Control-Expose-Headers": f"'{EXPOSED_HEADERS.decode()}'",
                "Vary": "'Origin'",
            }
        body = json.dumps({"message": answer.message, "code": answer.code, "requestId": "$context.requestId"})
        self.api.add_gateway_response(
            answer.type,
            type=apigateway.ResponseType.of(answer.type),
            status_code=str(status),
            response_headers=headers,
            templates={"application/json": body},
        )


def _allow_listed(origins: tuple[str, ...]) -> str:
    """The template that allows an origin which stands on a list, letter for letter; as CDK's own for CORS does it.

    HTTP/2 writes names small.
    """
    if len(origins) < 2:
        return ""
    listed = " || ".join(f'$origin == "{origin}"' for origin in origins)
    return f"""\
#set($origin = $input.params().header.get("Origin"))
#if(!$origin || $origin == "")#set($origin = $input.params().header.get("origin"))#end
#if({listed})
#set($context.responseOverride.header.Access-Control-Allow-Origin = $origin)
#end
"""


def _allowed(origins: tuple[str, ...]) -> str:
    """API Gateway's own answers know no list: the one origin that there is, or whichever asks. They hold no secret."""
    return f"'{origins[0]}'" if len(origins) == 1 else "method.request.header.origin"
