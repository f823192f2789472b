"""The role with which API Gateway writes logs: one for each account and Region, whoever else uses API Gateway there.

Rule: a stack of its own, without a prefix, that keeps what it made when it is deleted: every API of the account, ours
or not, loses its logs without it. An account that has such a role needs no stack of ours.
"""

from typing import Final

from aws_cdk import Environment, RemovalPolicy, Stack
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from constructs import Construct

STACK: Final = "TocsinLogging"


class LoggingAccount(Stack):
    def __init__(self, scope: Construct, env: Environment) -> None:
        super().__init__(
            scope,
            STACK,
            env=env,
            termination_protection=True,
            description="The role with which API Gateway writes logs, for all APIs of this account and Region",
        )
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonAPIGatewayPushToCloudWatchLogs")
            ],
        )
        account = apigateway.CfnAccount(self, "Account", cloud_watch_role_arn=role.role_arn)
        role.apply_removal_policy(RemovalPolicy.RETAIN)
        account.apply_removal_policy(RemovalPolicy.RETAIN)
