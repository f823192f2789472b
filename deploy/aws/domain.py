"""Names of one's own: one for each API, or one for both through CloudFront.

API Gateway cannot serve a WebSocket API and a REST API under one name. CloudFront can stand before both: `/dvl` is the
WebSocket, what is below it is REST.

Rules:
- TLS 1.2 or newer;
- CloudFront caches nothing, and writes no log: its log would hold the query string, where a token may be;
- a name is made known to the world by whoever owns the zone: the outputs say what it has to point at.
"""

from typing import Final

from aws_cdk import CfnOutput
from aws_cdk import aws_apigateway as rest
from aws_cdk import aws_apigatewayv2 as websocket
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_cloudfront_origins as origins
from constructs import Construct

from deploy.aws.rest_api import RestApi
from deploy.aws.settings import Domain, Settings
from deploy.aws.websocket_api import STAGE, WebSocketApi

TLS: Final = "TLS_1_2"


class Domains(Construct):
    """`rest_url` and `websocket_url` are what clients are given."""

    def __init__(self, scope: Construct, settings: Settings, websocket_api: WebSocketApi, rest_api: RestApi) -> None:
        super().__init__(scope, "Domains")
        self.rest_url, self.websocket_url = rest_api.url, websocket_api.url
        if settings.rest_domain is not None:
            self._rest(settings.rest_domain, rest_api)
            self.rest_url = f"https://{settings.rest_domain.name}/{STAGE}"
        if settings.websocket_domain is not None:
            self._websocket(settings.websocket_domain, websocket_api)
            self.websocket_url = f"wss://{settings.websocket_domain.name}/{STAGE}"
        if settings.shared_domain is not None:
            self._shared(settings.shared_domain, websocket_api, rest_api)
            self.rest_url = f"https://{settings.shared_domain.name}/{STAGE}"
            self.websocket_url = f"wss://{settings.shared_domain.name}/{STAGE}"

    def _rest(self, domain: Domain, api: RestApi) -> None:
        name = rest.CfnDomainName(
            self,
            "RestName",
            domain_name=domain.name,
            regional_certificate_arn=domain.certificate,
            security_policy=TLS,
            endpoint_configuration=rest.CfnDomainName.EndpointConfigurationProperty(types=["REGIONAL"]),
        )
        rest.CfnBasePathMapping(
            self,
            "RestMapping",
            domain_name=name.ref,
            base_path=STAGE,
            rest_api_id=api.api.rest_api_id,
            stage=api.api.deployment_stage.stage_name,
        )
        _tell(self, "RestTarget", name.attr_regional_domain_name)

    def _websocket(self, domain: Domain, api: WebSocketApi) -> None:
        name = websocket.CfnDomainName(
            self,
            "WebSocketName",
            domain_name=domain.name,
            domain_name_configurations=[
                websocket.CfnDomainName.DomainNameConfigurationProperty(
                    certificate_arn=domain.certificate, endpoint_type="REGIONAL", security_policy=TLS
                )
            ],
        )
        websocket.CfnApiMapping(
            self,
            "WebSocketMapping",
            domain_name=name.ref,
            api_mapping_key=STAGE,
            api_id=api.api.api_id,
            stage=api.stage.ref,
        )
        _tell(self, "WebSocketTarget", name.attr_regional_domain_name)

    def _shared(self, domain: Domain, websocket_api: WebSocketApi, rest_api: RestApi) -> None:
        def behind(host: str) -> cloudfront.BehaviorOptions:
            return cloudfront.BehaviorOptions(
                origin=origins.HttpOrigin(host, origin_ssl_protocols=[cloudfront.OriginSslPolicy.TLS_V1_2]),
                allowed_methods=cloudfront.AllowedMethods.ALLOW_ALL,
                cache_policy=cloudfront.CachePolicy.CACHING_DISABLED,
                # Not the host: API Gateway would look for an API of that name.
                origin_request_policy=cloudfront.OriginRequestPolicy.ALL_VIEWER_EXCEPT_HOST_HEADER,
                viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.HTTPS_ONLY,
                compress=False,
            )

        distribution = cloudfront.Distribution(
            self,
            "Shared",
            comment=domain.name,
            domain_names=[domain.name],
            certificate=acm.Certificate.from_certificate_arn(self, "Certificate", domain.certificate),
            minimum_protocol_version=cloudfront.SecurityPolicyProtocol.TLS_V1_2_2021,
            default_behavior=behind(rest_api.host),
            additional_behaviors={f"/{STAGE}": behind(websocket_api.host)},
            enable_logging=False,
        )
        _tell(self, "SharedTarget", distribution.distribution_domain_name)


def _tell(scope: Construct, name: str, target: str) -> None:
    """An output with this very name, without the construct's before it."""
    CfnOutput(scope, name, value=target).override_logical_id(name)
