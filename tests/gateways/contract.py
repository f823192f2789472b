"""The OpenAPI document as a judge: of every answer that a test gets."""

from collections import Counter
from typing import Any, Final, cast

import httpx
import msgspec
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # they are not worth a dependency

from tocsin.gateways.openapi import document

BASE: Final = "/dvl"
Json = dict[str, Any]
DOCUMENT: Final = cast(Json, msgspec.json.decode(msgspec.json.encode(document(BASE))))


class Contract:
    """`seen` counts (operation, status, code)."""

    def __init__(self) -> None:
        self.document: Final = DOCUMENT
        self.seen: Counter[tuple[str, int, str | None]] = Counter()

    def operation_of(self, method: str, path: str) -> Json | None:
        """What describes the request; None: it is not described."""
        paths = self.document["paths"]
        described = paths.get(path)
        if described is None and path.startswith(f"{BASE}/@connections/"):
            described = paths[f"{BASE}/@connections/{{connectionId}}"]
        operation: Json | None = (described or {}).get("get" if method == "HEAD" else method.lower())
        return operation

    def judge(self, method: str, response: httpx.Response) -> None:
        """AssertionError: the answer is not what is described. Its body must have been read."""
        operation = self.operation_of(method, response.request.url.path)
        if operation is None:
            assert response.status_code in ({204} if method == "OPTIONS" else set()) | {404, 405}
            return
        name = operation["operationId"]
        described = operation["responses"].get(str(response.status_code))
        assert described is not None, f"{name} is not described to answer {response.status_code}: {response.text[:300]}"
        described = self.resolve(described)
        for header, said in described["headers"].items():
            schema, value = self.resolve(said)["schema"], response.headers[header]
            self.validate(schema, int(value) if schema.get("type") == "integer" else value)
        code = None
        if "content" not in described:
            assert response.content == b"", name
        else:
            assert response.headers["content-type"] == "application/json"
            if method != "HEAD":
                body = response.json()
                self.validate(described["content"]["application/json"]["schema"], body)
                code = body.get("code")
        self.seen[name, response.status_code, code] += 1

    def resolve(self, described: Json) -> Json:
        while "$ref" in described:
            found: Json = self.document
            for part in described["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            described = found
        return described

    def validate(self, schema: Json, value: object) -> None:
        Draft202012Validator({**schema, "components": self.document["components"]}).validate(value)
