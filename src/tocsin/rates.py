"""How often: one bucket for each (user, chat), both doors and batch entries counted together (docs/wire.md, Rates)."""

from typing import Protocol


class Rates(Protocol):
    def take(self, user_id: str, chat_id: str) -> float:
        """Takes one publish; 0.0 if it was there, else the seconds until it will be."""
        ...
