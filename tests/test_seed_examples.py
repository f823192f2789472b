"""The seed's usage examples, as they stand, against the running service. (Against a stage on AWS: deploy/)"""

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.guarantees.server import BACK_END, Service, mint
from tests.seed_examples import A2P, CHAT, P2P, PERMISSIONS, RETRIEVAL, SEED, USER, Place, commands, example

pytestmark = pytest.mark.slow

LISTENER: Final = "alice"
#: heading -> what runs what is below it.
RUN_BY: Final = {
    P2P: ".page(",
    A2P: "example(A2P,",
    RETRIEVAL: "commands(RETRIEVAL)",
    PERMISSIONS: "commands(PERMISSIONS)",
}


@pytest.fixture
async def service(tmp_path: Path, program: Callable[[str], Path]) -> AsyncIterator[Service]:
    program("curl")
    program("node")
    data = tmp_path / "data"
    async with Service(data, mint(data, [BACK_END, LISTENER, USER])) as running:
        await running.start()
        yield running


def place(service: Service) -> Place:
    return Place(rest=service.http_url, socket=service.socket_url)


async def curl(service: Service, command: str, user: str = BACK_END, **variables: str) -> Any:
    return await place(service).curl(command, service.tokens[user], **variables)


async def test_the_p2p_example_sends_and_receives_its_message_in_node(service: Service) -> None:
    await place(service).grant(USER, service.tokens[BACK_END])
    printed = await place(service).page(service.tokens[USER], USER)
    assert re.search(r"Message received: \{\s+type: 'subscribed',\s+chatId: 'chat-abc123',", printed)
    page = await curl(service, commands(RETRIEVAL)["Get recent messages"])
    assert [message["payload"]["content"] for message in page["messages"]] == ["Hello via P2P!"]


async def test_the_a2p_example_is_accepted_and_numbered(service: Service) -> None:
    answer = await curl(service, example(A2P, "bash"))
    assert answer["duplicate"] is False
    page = await curl(service, commands(RETRIEVAL)["Get recent messages"])
    (message,) = page["messages"]
    assert message["messageId"] == answer["messageId"]
    assert (message["sequenceNumber"], message["payload"]["content"]) == (1, "Message from service")


async def test_the_retrieval_examples_give_the_newest_the_next_page_and_a_range_of_time(service: Service) -> None:
    for _ in range(51):
        await curl(service, example(A2P, "bash"))
    retrieval = commands(RETRIEVAL)
    first = await curl(service, retrieval["Get recent messages"])
    second = await curl(service, retrieval["With pagination"], KEY=first["nextStartKey"])
    since = await curl(service, retrieval["Time range filter"])
    assert [message["sequenceNumber"] for message in first["messages"]] == list(range(51, 1, -1))
    assert [message["sequenceNumber"] for message in second["messages"]] == [1]
    assert since["messages"] == first["messages"]
    assert (first["headSequence"], second["nextStartKey"]) == (51, None)


async def test_the_permission_examples_grant_revoke_and_list(service: Service) -> None:
    examples = commands(PERMISSIONS)
    granted = await curl(service, examples["Grant permission"])
    assert (granted["userId"], granted["chatId"], granted["role"]) == (USER, CHAT, "member")
    assert (await curl(service, examples["List permissions"], USER))["permissions"] == [granted]
    assert await curl(service, examples["Revoke permission"]) == {"userId": USER, "chatId": CHAT, "fenceSequence": 0}
    assert (await curl(service, examples["List permissions"], USER))["permissions"] == []


@pytest.mark.parametrize("module", ["test_seed_examples.py", "deploy/test_seed_examples.py"])
def test_every_usage_example_of_the_seed_is_run(module: str) -> None:
    usage = SEED.partition("\n## Usage Examples\n")[2].partition("\n## ")[0]
    run = (Path(__file__).parent / module).read_text()
    headings = re.findall(r"^### ([\w ]+?)s?(?: \(.*)?$", usage, re.MULTILINE)
    assert headings == list(RUN_BY)
    assert not [heading for heading, by in RUN_BY.items() if by not in run]
    comments = [comment for heading in (RETRIEVAL, PERMISSIONS) for comment in commands(heading)]
    assert len(comments) == 6
    assert not [comment for comment in comments if f'["{comment}"]' not in run]
