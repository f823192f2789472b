"""docs/aws-stack.md shows what is deployed: its picture is made from the templates."""

import pytest

from deploy.aws.assembly import Assembly
from deploy.aws.diagram import diagram, page
from tests.deploy.conftest import ROOT

pytestmark = pytest.mark.slow


def test_the_picture_on_the_page_is_that_of_the_templates(plain: Assembly) -> None:
    text = (ROOT / "docs" / "aws-stack.md").read_text()
    assert text == page(text, plain), "make diagram"


def test_every_function_table_queue_and_topic_is_in_the_picture(plain: Assembly) -> None:
    drawn = diagram(plain)
    kinds = {
        "AWS::Lambda::Function": "FunctionName",
        "AWS::DynamoDB::Table": "TableName",
        "AWS::SQS::Queue": "QueueName",
        "AWS::SNS::Topic": "TopicName",
    }
    names = [str(each.properties[name]) for kind, name in kinds.items() for each in plain.of(kind)]
    assert len(names) == 9 + 6 + 10 + 3
    assert not [name for name in names if f'"{name}"' not in drawn]
