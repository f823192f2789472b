"""The template, topology.py, schema.py and the seed's tables say the same, but for one literal table of departures."""

from fnmatch import fnmatchcase

import pytest

from deploy.aws.assembly import Assembly
from tests.deploy.departures import DEPARTURES
from tests.deploy.seed_tables import seed_environment, seed_facts, template_facts
from tests.test_docs import table
from tocsin.engines.aws import schema
from tocsin.topology import QUEUES, TOPICS

pytestmark = pytest.mark.slow


def test_the_template_says_what_the_seed_says_but_for_the_departures(plain: Assembly) -> None:
    seed, here = seed_facts(), template_facts(plain)
    differences = {
        (what, seed.get(what, "-"), here.get(what, "-"))
        for what in seed | here
        if seed.get(what, "-") != here.get(what, "-")
    }
    unlisted = {
        each
        for each in differences
        if not any(fnmatchcase(each[0], row.what) and each[1:] == (row.seed, row.here) for row in DEPARTURES)
    }
    assert not unlisted
    idle = [
        row.what
        for row in DEPARTURES
        if not any(fnmatchcase(what, row.what) and (a, b) == (row.seed, row.here) for what, a, b in differences)
    ]
    assert not idle, "these rows depart from nothing"


def test_seed_exact_reserves_what_the_seed_reserves(seed_exact: Assembly) -> None:
    seed, here = seed_facts(), template_facts(seed_exact)
    concurrency = [what for what in seed if what.endswith(": concurrency")]
    assert len(concurrency) == 9
    assert [here[what] for what in concurrency] == [seed[what] for what in concurrency]


def test_the_page_lists_the_departures() -> None:
    rows = table("docs/aws-stack.md", "## Departures from the seed")
    assert rows == [[f"`{row.what}`", row.seed, row.here, row.why] for row in DEPARTURES]


def test_each_function_is_given_the_variables_that_the_seed_gives_it(plain: Assembly) -> None:
    given = {
        function.properties["FunctionName"]: set(function.properties["Environment"]["Variables"])
        for function in plain.of("AWS::Lambda::Function")
    }
    lacking = {name: variables - given[name] for name, variables in seed_environment().items()}
    assert len(lacking) == 5
    assert not any(lacking.values()), lacking


def test_the_pipes_are_those_of_the_topology(plain: Assembly) -> None:
    facts = template_facts(plain)
    for topic in TOPICS:
        assert facts[f"{topic.name}: type"] == ("FIFO" if topic.fifo else "Standard")
    for queue in QUEUES:
        assert facts[f"{queue.name}: name"] == schema.queue_name(queue.name, fifo=queue.fifo)
        assert facts[f"{queue.name}: DLQ"] == schema.queue_name(queue.dead_letters, fifo=queue.fifo)
        assert facts[f"{queue.name}: type"] == ("FIFO" if queue.fifo else "Standard")
        assert facts[f"{queue.name}: batch size"] == str(queue.batch_size)
        for topic in TOPICS:
            channel = "All messages" if queue.channel is None else f"targetChannel={queue.channel}"
            expected = channel if topic in queue.topics else None
            assert facts.get(f"{topic.name} to {queue.name}: filter") == expected


def test_the_tables_are_those_of_the_schema(plain: Assembly) -> None:
    made = {each.properties["TableName"]: each.properties for each in plain.of("AWS::DynamoDB::Table")}
    assert set(made) == {each.name for each in schema.TABLES}
    for wanted in schema.TABLES:
        properties = made[wanted.name]
        assert properties["KeySchema"] == _keys(wanted.partition, wanted.sort)
        assert {each["AttributeName"]: each["AttributeType"] for each in properties["AttributeDefinitions"]} == {
            key.name: key.type for key in wanted.keys
        }
        assert [
            (index["IndexName"], index["KeySchema"], index["Projection"])
            for index in properties.get("GlobalSecondaryIndexes", [])
        ] == [(index.name, _keys(index.partition, index.sort), {"ProjectionType": "ALL"}) for index in wanted.indexes]


def _keys(partition: schema.Key, sort: schema.Key | None) -> list[dict[str, str]]:
    keys = [{"AttributeName": partition.name, "KeyType": "HASH"}]
    return keys if sort is None else [*keys, {"AttributeName": sort.name, "KeyType": "RANGE"}]
