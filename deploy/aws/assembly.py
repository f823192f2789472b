"""What was synthesized, read back: the resources of all stacks together, and what refers to what. Pure.

a folder of templates -> Assembly -> diagram.py, tests/deploy (assertions, the stage on an emulator)
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import msgspec

#: Stack names without their prefix.
LOGGING: Final = "TocsinLogging"
DATA: Final = "TocsinData"
SERVICE: Final = "Tocsin"


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    stack: str
    type: str
    properties: dict[str, Any]
    body: dict[str, Any]

    def __hash__(self) -> int:
        return hash(self.id)


class Assembly(msgspec.Struct, frozen=True, kw_only=True):
    """`templates` by the stack's name without its prefix."""

    prefix: str
    templates: Mapping[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path, prefix: str = "") -> Self:
        names = {LOGGING: LOGGING, DATA: prefix + DATA, SERVICE: prefix + SERVICE}
        return cls(
            prefix=prefix,
            templates={
                stack: json.loads((folder / f"{name}.template.json").read_text()) for stack, name in names.items()
            },
        )

    def __iter__(self) -> Iterator[Resource]:
        for stack, template in self.templates.items():
            for name, body in template["Resources"].items():
                yield Resource(
                    id=name, stack=stack, type=body["Type"], properties=body.get("Properties", {}), body=body
                )

    def of(self, kind: str) -> list[Resource]:
        """All of a type."""
        return [resource for resource in self if resource.type == kind]

    def one(self, kind: str) -> Resource:
        (found,) = self.of(kind)
        return found

    def refers(self, value: object) -> Resource | None:
        """The resource that an intrinsic function speaks of, if it does not only speak of the account and the like."""
        wanted = next(_referred(self._followed(value)), None)
        return next((resource for resource in self if resource.id == wanted), None)

    def behind(self, value: object) -> Resource:
        found = self.refers(value)
        assert found is not None, f"{value} refers to no resource"
        return found

    def text(self, value: object) -> str:
        """An intrinsic function as one text; `${id}`, `${id.attribute}`, `${Region}` are what only deploying knows."""
        value = self._followed(value)
        match value:
            case {"Ref": str(name)}:
                return f"${{{name.removeprefix('AWS::')}}}"
            case {"Fn::GetAtt": [name, attribute]}:
                return f"${{{name}.{attribute}}}"
            case {"Fn::Join": [str(between), list(parts)]}:
                return between.join(self.text(part) for part in parts)
            case {"Fn::Sub": str(text)}:
                return text.replace("${AWS::", "${")
        return str(value)

    def _followed(self, value: object) -> object:
        """What another stack exports, in an import's place; at any depth."""
        match value:
            case {"Fn::ImportValue": str(name)}:
                return self._exports()[name]
            case dict():
                return {key: self._followed(each) for key, each in value.items()}
            case list():
                return [self._followed(each) for each in value]
        return value

    def _exports(self) -> dict[str, Any]:
        return {
            output["Export"]["Name"]: output["Value"]
            for template in self.templates.values()
            for output in template.get("Outputs", {}).values()
            if "Export" in output
        }


def _referred(value: object) -> Iterator[str]:
    match value:
        case {"Ref": str(name)} if not name.startswith("AWS::"):
            yield name
        case {"Fn::GetAtt": [str(name), *_]}:
            yield name
        case dict():
            for each in value.values():
                yield from _referred(each)
        case list():
            for each in value:
                yield from _referred(each)
