"""docs/aws-stack.md says what is deployed: its picture is made from the templates, its tests are there."""

import re

import pytest

from deploy.aws.assembly import Assembly
from deploy.aws.diagram import diagram, page
from tests.deploy.conftest import ROOT
from tests.test_docs import table

pytestmark = pytest.mark.slow


def test_the_picture_on_the_page_is_that_of_the_templates(plain: Assembly) -> None:
    text = (ROOT / "docs" / "aws-stack.md").read_text()
    assert text == page(text, plain), "make diagram"


def test_drawing_anew_changes_nothing_but_the_picture(plain: Assembly) -> None:
    drawn = page("before\n\n```mermaid\n```\n\nafter\n", plain)
    assert drawn == f"before\n\n```mermaid\n{diagram(plain)}\n```\n\nafter\n"
    assert page(drawn, plain) == drawn


def test_each_thing_that_breaks_on_aws_names_a_test_that_is_there() -> None:
    rows = table("docs/aws-stack.md", "## What breaks on AWS")
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])
        assert named, row[0]
        for file, name in named:
            assert f"def {name}(" in (ROOT / "tests" / "deploy" / file).read_text()


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
