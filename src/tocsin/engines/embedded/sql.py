"""The named queries of queries.sql, and the schema: SQL lives in .sql files."""

from importlib.resources import files
from typing import Final


def _named_queries() -> dict[str, str]:
    text = (files(__package__) / "queries.sql").read_text("utf-8")
    queries = {}
    for part in text.split("-- name: ")[1:]:
        name, _, query = part.partition("\n")
        queries[name.strip()] = query.strip()
    return queries


QUERY: Final = _named_queries()
SCHEMA: Final = (files(__package__) / "schema.sql").read_text("utf-8")
SCHEMA_VERSION: Final = 1
