"""Names of one's own: API Gateway cannot serve a WebSocket API and a REST API under one."""

import pytest

from deploy.aws.assembly import SERVICE, Assembly

pytestmark = pytest.mark.slow


def test_each_door_has_a_name_of_its_own(dev: Assembly) -> None:
    websocket, rest = dev.one("AWS::ApiGatewayV2::DomainName"), dev.one("AWS::ApiGateway::DomainName")
    (configuration,) = websocket.properties["DomainNameConfigurations"]
    assert (websocket.properties["DomainName"], rest.properties["DomainName"]) == ("ws.example.com", "api.example.com")
    assert configuration["SecurityPolicy"] == rest.properties["SecurityPolicy"] == "TLS_1_2"
    mapping, path = dev.one("AWS::ApiGatewayV2::ApiMapping"), dev.one("AWS::ApiGateway::BasePathMapping")
    assert (mapping.properties["ApiMappingKey"], path.properties["BasePath"]) == ("dvl", "dvl")
    outputs = dev.templates[SERVICE]["Outputs"]
    assert outputs["WebSocketUrl"]["Value"] == "wss://ws.example.com/dvl"
    assert outputs["RestUrl"]["Value"] == "https://api.example.com/dvl"
    assert dev.refers(outputs["WebSocketTarget"]["Value"]) == websocket
    assert dev.refers(outputs["RestTarget"]["Value"]) == rest


def test_cloudfront_serves_both_doors_under_one_name(shared: Assembly) -> None:
    distribution = shared.one("AWS::CloudFront::Distribution").properties["DistributionConfig"]
    behaviors = {each["PathPattern"]: each for each in distribution["CacheBehaviors"]}
    behaviors["*"] = distribution["DefaultCacheBehavior"]
    hosts = {origin["Id"]: shared.behind(origin["DomainName"]).type for origin in distribution["Origins"]}
    assert {path: hosts[each["TargetOriginId"]] for path, each in behaviors.items()} == {
        "/dvl": "AWS::ApiGatewayV2::Api",
        "*": "AWS::ApiGateway::RestApi",
    }
    caching_disabled, all_but_the_host = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad", "b689b0a8-53d0-40ab-baf2-68738e2966ac"
    for each in behaviors.values():
        assert (each["CachePolicyId"], each["OriginRequestPolicyId"]) == (caching_disabled, all_but_the_host)
        assert each["ViewerProtocolPolicy"] == "https-only"
        assert len(each["AllowedMethods"]) == 7
    assert distribution["ViewerCertificate"]["MinimumProtocolVersion"] == "TLSv1.2_2021"
    target = shared.templates[SERVICE]["Outputs"]["SharedTarget"]["Value"]
    assert shared.refers(target) == shared.one("AWS::CloudFront::Distribution")
    assert "Logging" not in distribution, "its log would hold the query string, where a token may be"
