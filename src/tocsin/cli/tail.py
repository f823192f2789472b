"""`tocsin tail`: follows a chat, through every drop, without a hole.

    connect with lastSequence and epoch -> frames -> messages on stdout, all else that matters on stderr
    a drop -> a jittered pause that grows -> connect; a `gap` -> the numbers it names, from history

Rule: `Position` decides and does no I/O; what it holds is all that a new connection needs.
"""

import time
from random import SystemRandom
from typing import Annotated, Final, Literal

import msgspec
import typer

from tocsin.cli import values
from tocsin.cli.client import Wanted
from tocsin.cli.failure import Failure, Refused, Unreachable, beyond_repeating
from tocsin.cli.printing import AsJson, print_message, say
from tocsin.cli.rest_client import RestClient, reason
from tocsin.cli.target import Data, TokenFile, Url, running
from tocsin.errors import CloseCode

Chat = Annotated[str, typer.Argument(metavar="CHAT", parser=values.chat_id)]

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
