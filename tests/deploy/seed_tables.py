"""The seed's tables as facts, `thing: attribute` -> value, read from docs/seed.md; and the same facts of a template."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.aws.assembly import Assembly, Resource

SEED: Final = Path(__file__).parent.parent.parent / "docs" / "seed.md"
Facts = dict[str, str]

#: What the seed calls them where it subscribes them, and where it draws and names who consumes them.
SUBSCRIBERS: Final = {
    "WebSocket FIFO Queue": "WebSocketFifoQueue",
    "WebSocket Standard Queue": "WebSocketStandardQueue",
    "Storage Queue": "MessageStorageQueue",
}
DRAWN: Final = {
    "SNSFIFO": "Notifications.fifo",
    "SNSSTD": "Notification",
    "SQSFIFO": "WebSocketFifoQueue",
    "SQSSTD": "WebSocketStandardQueue",
    "SQSSTORAGE": "MessageStorageQueue",
}
CONSUMERS: Final = {"Processor": "processor", "Storage": "message-storage"}
RUNTIMES: Final = {"python3.13": "Python 3.13"}
#: The seed's headings of its environment listings.
LISTINGS: Final = {
    "P2P WebSocket Publisher": "p2pWebSocketPublisher",
    "A2P HTTP Publisher": "a2pHttpPublisher",
    "Processor Lambda": "processor",
    "Message Storage Lambda": "message-storage",
    "Message Retrieval Lambda": "message-retrieval",
}


def seed_facts() -> Facts:
    text = SEED.read_text()
    facts: Facts = {}
    for name, partition, sort, index, _ in _rows(text, "Table"):
        facts[f"{name}: key"] = partition if sort == "-" else f"{partition}, {sort}"
        facts[f"{name}: index"] = "none" if index == "-" else index
    for name, kind, subscribers in _rows(text, "Topic"):
        facts[f"{name}: type"] = kind
        facts[f"{name}: subscribers"] = ", ".join(SUBSCRIBERS[each] for each in subscribers.split(", "))
    for name, kind, batch, consumer, dead_letters in _rows(text, "Queue"):
        facts[f"{name}: name"] = name
        facts[f"{name}: type"] = kind
        facts[f"{name}: batch size"] = batch
        facts[f"{name}: consumer"] = CONSUMERS[consumer]
        facts[f"{name}: DLQ"] = dead_letters
    for name, runtime, timeout, concurrency, _ in _rows(text, "Function"):
        facts[f"{name}: runtime"] = runtime
        facts[f"{name}: timeout"] = timeout
        facts[f"{name}: concurrency"] = concurrency
    for topic, label, queue in re.findall(r'(SNS\w+) -- "?([^"\n]+?)"? --> (SQS\w+)', text):
        facts[f"{DRAWN[topic]} to {DRAWN[queue]}: filter"] = label.removeprefix("Filter: ")
    return facts


def seed_environment() -> dict[str, set[str]]:
    """Function -> the variables that the seed gives it."""
    found = re.findall(r"\*\*([\w ]+)\*\*:\n```javascript\n(.*?)```", SEED.read_text(), re.DOTALL)
    return {LISTINGS[heading]: set(re.findall(r"^  (\w+):", listing, re.MULTILINE)) for heading, listing in found}


def template_facts(assembly: Assembly) -> Facts:
    facts: Facts = {}
    for table in assembly.of("AWS::DynamoDB::Table"):
        name = table.properties["TableName"]
        facts[f"{name}: key"] = ", ".join(key["AttributeName"] for key in table.properties["KeySchema"])
        indexes = [index["IndexName"] for index in table.properties.get("GlobalSecondaryIndexes", [])]
        facts[f"{name}: index"] = ", ".join(indexes) or "none"
    subscriptions = [each for each in assembly.of("AWS::SNS::Subscription") if each.properties["Protocol"] == "sqs"]
    for topic in {assembly.behind(each.properties["TopicArn"]) for each in subscriptions}:
        name = topic.properties["TopicName"]
        facts[f"{name}: type"] = _kind(topic, "FifoTopic")
        facts[f"{name}: subscribers"] = ", ".join(
            _short(assembly.behind(each.properties["Endpoint"]))
            for each in subscriptions
            if assembly.behind(each.properties["TopicArn"]) == topic
        )
    for mapping in assembly.of("AWS::Lambda::EventSourceMapping"):
        queue = assembly.behind(mapping.properties["EventSourceArn"])
        name = _short(queue)
        facts[f"{name}: name"] = queue.properties["QueueName"]
        facts[f"{name}: type"] = _kind(queue, "FifoQueue")
        facts[f"{name}: batch size"] = str(mapping.properties["BatchSize"])
        facts[f"{name}: consumer"] = assembly.behind(mapping.properties["FunctionName"]).properties["FunctionName"]
        facts[f"{name}: DLQ"] = assembly.behind(queue.properties["RedrivePolicy"]).properties["QueueName"]
    for function in assembly.of("AWS::Lambda::Function"):
        name = function.properties["FunctionName"]
        reserved = function.properties.get("ReservedConcurrentExecutions")
        facts[f"{name}: runtime"] = RUNTIMES[function.properties["Runtime"]]
        facts[f"{name}: timeout"] = f"{function.properties['Timeout']}s"
        facts[f"{name}: concurrency"] = "Default" if reserved is None else f"Reserved: {reserved}"
    for each in subscriptions:
        topic, queue = assembly.behind(each.properties["TopicArn"]), assembly.behind(each.properties["Endpoint"])
        policy = each.properties.get("FilterPolicy")
        said = "All messages" if policy is None else ", ".join(f"{key}={'|'.join(policy[key])}" for key in policy)
        facts[f"{topic.properties['TopicName']} to {_short(queue)}: filter"] = said
    return facts


def _rows(text: str, first: str) -> Iterator[list[str]]:
    """The rows of the table whose first column is so called, without its marks."""
    _, _, rest = text.partition(f"\n| {first} |")
    assert rest, f"the seed has no table of {first}"
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip().strip("*") for cell in line.strip("|").split("|")]


def _short(queue: Resource) -> str:
    return str(queue.properties["QueueName"]).removesuffix(".fifo")


def _kind(resource: Resource, flag: str) -> str:
    return "FIFO" if resource.properties.get(flag) else "Standard"
