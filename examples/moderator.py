"""A moderator: listens to a chat, and takes the role of who says a forbidden word.

    python examples/moderator.py CHAT WORD…        URL and TOKEN (of an owner or admin) in the environment

Once the service has answered, nothing that the user sends to the chat is accepted, and nothing of it reaches him.
"""

import json
import os
import sys
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from websockets.sync.client import connect

URL, TOKEN = os.environ["URL"], os.environ["TOKEN"]
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def revoke(user_id: str, chat_id: str) -> str:
    query = urlencode({"userId": user_id, "chatId": chat_id})
    try:
        with urlopen(Request(f"{URL}/permissions?{query}", headers=HEADERS, method="DELETE")) as answer:
            return f"is out; the last number that reached him is {json.load(answer)['fenceSequence']} at most"
    except HTTPError as error:  # an owner, or a service: not ours to put out
        return f"stays: {json.load(error)['code']}"


def moderate(chat_id: str, words: list[str]) -> None:
    with connect(f"{URL.replace('http', 'ws', 1)}?chatId={quote(chat_id)}", additional_headers=HEADERS) as socket:
        for text in socket:
            frame = json.loads(text)
            if frame["type"] == "subscribed":
                print("listening", flush=True)
            elif frame["type"] == "message":
                said = json.dumps(frame["payload"]["content"], ensure_ascii=False).lower()
                if any(word in said for word in words):
                    print(frame["senderId"], revoke(frame["senderId"], chat_id), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: python examples/moderator.py CHAT WORD…")
    moderate(sys.argv[1], [word.lower() for word in sys.argv[2:]])
