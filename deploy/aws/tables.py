"""The six tables, made as engines/aws/schema.py has them. What they hold outlives every stack.

Rules:
- a table is kept when its stack is deleted, and DynamoDB itself refuses to delete it until the protection is taken off;
- encrypted with the key that AWS manages for DynamoDB (the seed's), and restorable to any second of the last 35 days.
"""

from typing import Final

from aws_cdk import RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from constructs import Construct

from deploy.aws.settings import Settings
from tocsin.engines.aws import schema

_TYPES: Final = {"S": dynamodb.AttributeType.STRING, "N": dynamodb.AttributeType.NUMBER}


class Tables(Construct):
    def __init__(self, scope: Construct, settings: Settings) -> None:
        super().__init__(scope, "Tables")
        for table in schema.TABLES:
            made = dynamodb.Table(
                self,
                table.name,
                table_name=settings.named(table.name),
                partition_key=_attribute(table.partition),
                sort_key=_attribute(table.sort) if table.sort else None,
                billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
                encryption=dynamodb.TableEncryption.AWS_MANAGED,
                time_to_live_attribute=schema.TTL,
                point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                    point_in_time_recovery_enabled=True
                ),
                deletion_protection=True,
                removal_policy=RemovalPolicy.RETAIN,
            )
            for index in table.indexes:
                made.add_global_secondary_index(
                    index_name=index.name,
                    partition_key=_attribute(index.partition),
                    sort_key=_attribute(index.sort) if index.sort else None,
                )


def _attribute(key: schema.Key) -> dynamodb.Attribute:
    return dynamodb.Attribute(name=key.name, type=_TYPES[key.type])
