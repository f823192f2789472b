"""Topics and queues: what SQS, SNS and Lambda's mappings do to messages where a template lets them."""

import pytest

from deploy.aws.assembly import Assembly
from deploy.aws.functions import STORAGE_CONCURRENCY
from tests.deploy.views import subscriptions
from tocsin.engines.aws.apigateway_clients import FAN_OUT_SECONDS
from tocsin.profiles.aws import MARGIN, OWN_SECONDS
from tocsin.topology import QUEUES

pytestmark = pytest.mark.slow


def test_the_innocent_are_not_counted_with_the_guilty(plain: Assembly) -> None:
    """The processor gets one message at a time, and our consumer counts tries; SQS's own count is far above."""
    for mapping in plain.of("AWS::Lambda::EventSourceMapping"):
        properties = mapping.properties
        queue = plain.behind(properties["EventSourceArn"]).properties
        function = plain.behind(properties["FunctionName"]).properties["FunctionName"]
        assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert "MaximumBatchingWindowInSeconds" not in properties
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 10
        assert properties["BatchSize"] == 1 or function == "message-storage"
        assert properties["BatchSize"] <= 10
    assert all(queue.attempts == 3 for queue in QUEUES)


def test_a_mapping_starts_no_more_than_its_function_may(plain: Assembly, seed_exact: Assembly, dev: Assembly) -> None:
    """Lambda does not tell a mapping what is reserved: what it starts beyond is throttled, and counts as received."""
    for assembly, processor in ((plain, 20), (seed_exact, 20), (dev, 30)):
        started: dict[str, int] = {}
        for mapping in assembly.of("AWS::Lambda::EventSourceMapping"):
            function = assembly.behind(mapping.properties["FunctionName"])
            most = mapping.properties["ScalingConfig"]["MaximumConcurrency"]
            assert most >= 2, "Lambda takes no less"
            started[function.id] = started.get(function.id, 0) + most
            name = function.properties["FunctionName"].removeprefix("dev-")
            assert most == (STORAGE_CONCURRENCY if name == "message-storage" else processor)
        for function in assembly.of("AWS::Lambda::Function"):
            reserved = function.properties.get("ReservedConcurrentExecutions")
            if reserved is not None:
                assert started.get(function.id, 0) <= reserved


def test_a_message_stays_invisible_six_times_as_long_as_its_function_may_run(plain: Assembly) -> None:
    found = {}
    for mapping in plain.of("AWS::Lambda::EventSourceMapping"):
        queue = plain.behind(mapping.properties["EventSourceArn"]).properties
        timeout = plain.behind(mapping.properties["FunctionName"]).properties["Timeout"]
        assert queue["VisibilityTimeout"] >= 6 * timeout
        found[queue["QueueName"]] = queue["VisibilityTimeout"]
    assert found == {"WebSocketFifoQueue.fifo": 360, "WebSocketStandardQueue": 360, "MessageStorageQueue": 180}


def test_a_processor_ends_itself_before_lambda_does_even_if_it_delivers_just_then(plain: Assembly) -> None:
    (timeout,) = {
        function.properties["Timeout"]
        for function in plain.of("AWS::Lambda::Function")
        if function.properties["FunctionName"] == "processor"
    }
    assert timeout / 2 < OWN_SECONDS["processor"] < timeout - FAN_OUT_SECONDS - MARGIN


def test_chats_do_not_hold_each_other_up(plain: Assembly) -> None:
    for queue in plain.of("AWS::SQS::Queue"):
        if queue.properties.get("FifoQueue"):
            assert queue.properties["DeduplicationScope"] == "messageGroup"
            assert queue.properties["FifoThroughputLimit"] == "perMessageGroupId"
            assert queue.properties["ContentBasedDeduplication"] is False
    (topic,) = [each for each in plain.of("AWS::SNS::Topic") if each.properties.get("FifoTopic")]
    assert topic.properties["FifoThroughputScope"] == "MessageGroup"
    assert topic.properties["ContentBasedDeduplication"] is False


def test_no_key_stands_between_a_topic_and_its_queues(plain: Assembly, dev: Assembly) -> None:
    """SNS cannot deliver to a queue under alias/aws/sqs: the publisher has his 202, and the message is gone."""
    for assembly in (plain, dev):
        for queue in assembly.of("AWS::SQS::Queue"):
            assert queue.properties["SqsManagedSseEnabled"] is True
            assert "KmsMasterKeyId" not in queue.properties
        for topic in assembly.of("AWS::SNS::Topic"):
            assert "KmsMasterKeyId" not in topic.properties
        assert not assembly.of("AWS::KMS::Key")


def test_what_cannot_be_delivered_to_a_queue_waits_in_one_of_its_type(plain: Assembly) -> None:
    undelivered = []
    for subscription in subscriptions(plain):
        queue = plain.behind(subscription.properties["Endpoint"])
        dead = plain.behind(subscription.properties["RedrivePolicy"])
        assert dead.type == "AWS::SQS::Queue"
        assert dead.properties.get("FifoQueue") == queue.properties.get("FifoQueue")
        assert subscription.properties["RawMessageDelivery"] is True
        undelivered.append(dead.id)
    assert len(undelivered) == len(set(undelivered)) == 4, "each has its own"


def test_what_a_queue_buries_itself_lies_in_one_of_its_type(plain: Assembly) -> None:
    for queue in plain.of("AWS::SQS::Queue"):
        if "RedrivePolicy" in queue.properties:
            dead = plain.behind(queue.properties["RedrivePolicy"])
            assert dead.properties.get("FifoQueue") == queue.properties.get("FifoQueue")
            assert "RedrivePolicy" not in dead.properties


def test_only_the_topic_that_a_queue_is_subscribed_to_may_send_to_it(plain: Assembly) -> None:
    allowed: dict[str, set[str]] = {}
    for policy in plain.of("AWS::SQS::QueuePolicy"):
        (queue,) = [plain.behind(each).id for each in policy.properties["Queues"]]
        for statement in policy.properties["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow":
                assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
                assert statement["Action"] == "sqs:SendMessage"
                ((operator, condition),) = statement["Condition"].items()
                assert operator == "ArnEquals"
                allowed.setdefault(queue, set()).add(plain.behind(condition["aws:SourceArn"]).id)
    wanted: dict[str, set[str]] = {}
    for subscription in subscriptions(plain):
        topic = plain.behind(subscription.properties["TopicArn"]).id
        for key in ("Endpoint", "RedrivePolicy"):
            wanted.setdefault(plain.behind(subscription.properties[key]).id, set()).add(topic)
    assert allowed == wanted


def test_queues_and_topics_speak_tls_only(plain: Assembly) -> None:
    policies = [
        (policy.properties[key], policy.properties["PolicyDocument"]["Statement"])
        for kind, key in (("AWS::SQS::QueuePolicy", "Queues"), ("AWS::SNS::TopicPolicy", "Topics"))
        for policy in plain.of(kind)
    ]
    refusing = {
        plain.behind(each).id
        for places, statements in policies
        for each in places
        if any(
            statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
            for statement in statements
        )
    }
    assert refusing == {each.id for kind in ("AWS::SQS::Queue", "AWS::SNS::Topic") for each in plain.of(kind)}


def test_letters_are_kept_as_long_as_sqs_can(plain: Assembly) -> None:
    assert {each.properties["MessageRetentionPeriod"] for each in plain.of("AWS::SQS::Queue")} == {14 * 24 * 3600}
