"""The mutants: CONTRACTS.md's list, and one for each kind of claim of the checker."""

from typing import Final

from tests.guarantees.mutants import Mutant

CHECKER: Final = "tests/guarantees/test_checker.py"

MUTANTS: Final = [
    Mutant(
        name="the checker lets a gap be one short",
        file="tests/guarantees/claims/order.py",
        old="first != cursor + 1 and",
        new="not cursor < first <= cursor + 2 and",
        test=CHECKER,
    ),
    Mutant(
        name="the checker forgets who was revoked",
        file="tests/guarantees/claims/access.py",
        old="event.number > revocation.fence",
        new="event.number > revocation.fence + 1",
        test=CHECKER,
    ),
    Mutant(
        name="the checker takes another payload for the same",
        file="tests/guarantees/claims/acceptance.py",
        old="(found[0].digest, found[0].timestamp) != (message.digest, message.timestamp)",
        new="found[0].timestamp != message.timestamp",
        test=CHECKER,
    ),
]
