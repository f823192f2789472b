"""WebSocket Authorizer: who may come in, and what is refused first."""

import pytest

from tests.conformance.embedded import EmbeddedHarness
from tests.conformance.harness import Options, identity, refusal_of
from tocsin.components.websocket_authorizer import ConnectRequest
from tocsin.errors import Refusal, invalid


@pytest.fixture
async def alice(harness: EmbeddedHarness) -> str:
    """A token of hers; she is a member of c1 and c2."""
    for chat in ("c1", "c2"):
        await harness.grant("alice", chat, "member")
    return harness.files.mint("alice", [], 3600, harness.clock.now())


async def refusal(harness: EmbeddedHarness, **wanted: object) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refused:
        await harness.service.websocket_authorizer.authorize(ConnectRequest(**wanted))  # type: ignore[arg-type]
    return refused.value.code, refused.value.field


async def test_a_member_comes_in_and_repeated_chats_count_once(harness: EmbeddedHarness, alice: str) -> None:
    authorization = await harness.service.websocket_authorizer.authorize(
        ConnectRequest(token=alice, user_id="alice", chat_ids=("c2", "c1", "c2"), epoch="e1")
    )
    assert authorization.identity.user_id == "alice"
    assert authorization.chat_ids == ("c2", "c1")
    assert (authorization.last_sequence, authorization.epoch) == (None, "e1")


async def test_without_a_chat_one_comes_in_too(harness: EmbeddedHarness, alice: str) -> None:
    authorization = await harness.service.websocket_authorizer.authorize(ConnectRequest(token=alice))
    assert authorization.chat_ids == ()


async def test_without_a_good_credential_nobody_comes_in(harness: EmbeddedHarness, alice: str) -> None:
    assert await refusal(harness) == ("unauthorized", None)
    assert await refusal(harness, token="nonsense") == ("invalid_token", None)
    assert await refusal(harness, ticket="nonsense", token=alice) == ("invalid_ticket", None)
    harness.clock.advance(3600 + 31)
    assert await refusal(harness, token=alice) == ("token_expired", None)


async def test_who_asks_is_known_before_what_is_asked_for_is_judged(harness: EmbeddedHarness, alice: str) -> None:
    fault = invalid("userId", "It may be given once.")
    assert await refusal(harness, token="nonsense", fault=fault) == ("invalid_token", None)
    assert await refusal(harness, token=alice, fault=fault, chat_ids=("secret",)) == ("invalid_argument", "userId")


async def test_the_form_is_judged_before_the_permission(harness: EmbeddedHarness, alice: str) -> None:
    assert await refusal(harness, token=alice, chat_ids=("secret", "not an id")) == ("invalid_argument", "chatId")
    assert await refusal(harness, token=alice, user_id="bob", last_sequence="1") == ("invalid_argument", "lastSequence")


async def test_a_user_id_must_be_the_tokens(harness: EmbeddedHarness, alice: str) -> None:
    assert await refusal(harness, token=alice, user_id="bob", chat_ids=("c1",)) == ("forbidden", "userId")


@pytest.mark.parametrize("last", ["-1", "1.0", "", " 1", "1e3", "٣", "x", "9" * 19, "+1"])
async def test_a_last_sequence_is_a_whole_number(harness: EmbeddedHarness, alice: str, last: str) -> None:
    refused = await refusal(harness, token=alice, chat_ids=("c1",), last_sequence=last)
    assert refused == ("invalid_argument", "lastSequence")


async def test_a_last_sequence_needs_exactly_one_chat(harness: EmbeddedHarness, alice: str) -> None:
    for chats in ((), ("c1", "c2")):
        refused = await refusal(harness, token=alice, chat_ids=chats, last_sequence="5")
        assert refused == ("invalid_argument", "lastSequence")
    authorization = await harness.service.websocket_authorizer.authorize(
        ConnectRequest(token=alice, chat_ids=("c1", "c1"), last_sequence="005")
    )
    assert authorization.last_sequence == 5


async def test_so_many_chats_may_be_named_and_no_more(stand: EmbeddedHarness) -> None:
    await stand.start(Options(chats_per_connection=2))
    token = stand.files.mint("auditor", ["messages:read"], 3600, stand.clock.now())
    authorize = stand.service.websocket_authorizer.authorize
    assert (await authorize(ConnectRequest(token=token, chat_ids=("c1", "c2", "c1")))).chat_ids == ("c1", "c2")
    three = ConnectRequest(token=token, chat_ids=("c1", "c2", "c3"))
    assert await refusal_of(authorize(three)) == "invalid_argument"


async def test_one_forbidden_chat_keeps_one_out(harness: EmbeddedHarness, alice: str) -> None:
    assert await refusal(harness, token=alice, chat_ids=("c1", "secret")) == ("forbidden", None)
    assert await refusal(harness, token=alice, chat_ids=("nowhere",)) == ("forbidden", None)
    assert await refusal(harness, token=alice, chat_ids=("user:bob",)) == ("forbidden", None)
    authorization = await harness.service.websocket_authorizer.authorize(
        ConnectRequest(token=alice, chat_ids=("user:alice", "c1"))
    )
    assert authorization.chat_ids == ("user:alice", "c1")


async def test_a_ticket_counts_before_a_token_and_is_spent_even_if_it_is_refused(
    harness: EmbeddedHarness, alice: str
) -> None:
    offer = harness.service.chat_permission.offer_ticket
    ticket = await offer(identity("alice"), frozenset(["c1"]))
    assert await refusal(harness, ticket=ticket, token=alice, chat_ids=("c2",)) == ("forbidden", None)
    assert await refusal(harness, ticket=ticket, token=alice, chat_ids=("c1",)) == ("invalid_ticket", None)
    ended = await offer(identity("alice", expires_at=harness.clock.now()), None)
    assert await refusal(harness, ticket=ended) == ("token_expired", None)
    late = await offer(identity("alice"), None)
    harness.clock.advance(61)
    assert await refusal(harness, ticket=late) == ("invalid_ticket", None)
