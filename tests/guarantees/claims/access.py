"""Who may, what is bounded, what stays secret."""

from collections import Counter
from collections.abc import Iterator

from tests.guarantees.records import Acked, Gap, Heard, Left, Log, Revoked, Subscribed
from tests.guarantees.sightings import accepted, answered_reads


def revoked_hears_nothing_more(log: Log) -> Iterator[str]:
    sent = {(message.chat, message.message_id): message.sent_at for message in accepted(log)}
    for revocation in log.revocations:
        for subscription in log.subscriptions:
            start, end = subscription.start, subscription.end
            mine = (subscription.user, subscription.chat) == (revocation.user, revocation.chat)
            anew = (start.at if start else subscription.asked_at) > revocation.again_at
            if not mine or anew or (end is not None and end.at < revocation.asked_at):
                continue
            name = f"{revocation.user} on {subscription.connection}"
            for event in subscription.heard:
                if event.number is not None and event.number > revocation.fence:
                    yield f"{name} heard {event.number} of {revocation.chat}, beyond the fence {revocation.fence}"
                elif sent.get((revocation.chat, event.message_id), 0.0) > revocation.answered_at:
                    yield f"{name} heard {event.message_id} of {revocation.chat}, published after the revocation"
            if start is not None and subscription.asked_at > revocation.answered_at:
                yield f"{name} could subscribe {revocation.chat} after the revocation"
            elif start is not None and end is None:
                yield f"{name} was never told `revoked` of {revocation.chat}"


def revoked_does_nothing_more(log: Log) -> Iterator[str]:
    for revocation in log.revocations:
        who, since, until = (revocation.user, revocation.chat), revocation.answered_at, revocation.again_at
        for publish in log.publishes:
            within = since < publish.sent_at and publish.answered_at < until
            if (publish.sender, publish.chat) == who and within and isinstance(publish.answer, Acked):
                yield f"{who} published {publish.answer.message_id} after the revocation"
        for read in answered_reads(log):
            if (read.reader, read.chat) == who and since < read.asked_at and read.answered_at < until:
                yield f"{who} read history after the revocation"


def nothing_follows_the_end(log: Log) -> Iterator[str]:
    for subscription in log.subscriptions:
        ended = False
        for event in subscription.events:
            if ended and isinstance(event, Heard | Gap | Subscribed):
                yield f"{subscription.connection} got {event} after {subscription.end}"
            ended = ended or isinstance(event, Revoked | Left)


def an_owned_chat_keeps_an_owner(log: Log) -> Iterator[str]:
    owned = set()
    for read in sorted(log.owners, key=lambda each: each.asked_at):
        if read.owners:
            owned.add(read.chat)
        elif read.chat in owned:
            yield f"{read.chat} had an owner and has none at {read.asked_at:.3f}"


def a_ticket_works_once(log: Log) -> Iterator[str]:
    for ticket, times in Counter(use.ticket for use in log.tickets if use.accepted).items():
        if times > 1:
            yield f"ticket {ticket} was accepted {times} times"


def no_secret_is_in_the_output(log: Log) -> Iterator[str]:
    """The breach names the line, not the secret."""
    for secret in sorted(log.secrets):
        if (at := log.output.find(secret)) >= 0:
            yield f"line {log.output.count(chr(10), 0, at) + 1} of the server's output has a token, ticket or body"


def memory_stays_bounded(log: Log) -> Iterator[str]:
    for sample in log.memory:
        if sample.resident > sample.limit:
            yield f"{sample.resident >> 20} MiB resident at {sample.at:.3f}, {sample.limit >> 20} MiB allowed"
