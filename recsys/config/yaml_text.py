"""YAML is read as experiments need it: plain values of a limited size, and no key twice."""

from typing import Any

import yaml
from typing_extensions import override

MOST_CHARACTERS = 2_000_000
MOST_VALUES = 100_000  # with those that aliases repeat
DEEPEST = 50  # an experiment is some six levels deep


class YamlError(ValueError):
    """A text that is not YAML, or no YAML of a size and shape that is read; the message is one line."""


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises YamlError where it is none, too large or too deep, or has a key twice."""
    if len(text) > MOST_CHARACTERS:
        raise YamlError(f"{len(text):,} characters are more than the {MOST_CHARACTERS:,} that are read")
    try:
        return yaml.load(text, _Loader)
    except YamlError:
        raise
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as error:  # the latter: of numbers and dates that are none
        raise YamlError(f"not YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """A loader that counts values while they are composed, before anything is built of them.

    An alias counts as often as it is used.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._values_of: dict[int, int] = {}  # by the identity of the anchor's node, once it is whole

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value and those within it. Raises YamlError where they are too many, or too deep."""
        before = self._values
        event = self.peek_event()
        self._depth += 1
        if self._depth > DEEPEST:
            raise YamlError(f"{_place(event)}: nested more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._values_of:
                raise YamlError(f"{_place(event)}: *{event.anchor} stands within the value that it repeats")
            self._values += self._values_of[id(node)]
        else:
            self._values += 1
            self._values_of[id(node)] = self._values - before
        if self._values > MOST_VALUES:
            raise YamlError(
                f"{_place(event)}: more than {MOST_VALUES:,} values, with those that aliases (*name) repeat"
            )
        return node

    @override
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping. Raises YamlError for a key that stands there twice, of which YAML would keep the last."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise YamlError(
                        f"{_place(key)}: the key {key.value!r} stands in its mapping twice: leave one of them"
                    )
                keys.add((key.tag, key.value))
        return node

    @override
    def fetch_flow_collection_start(self, token: Any) -> None:
        """Read a bracket. Raises YamlError where too many are open, before the scanner looks for their ends."""
        super().fetch_flow_collection_start(token)  # type: ignore[no-untyped-call]
        if self.flow_level > DEEPEST:
            raise YamlError(f"line {self.line + 1}: nested more than {DEEPEST} levels deep")


def _place(mark: yaml.Event | yaml.Node) -> str:
    start = mark.start_mark
    return "the text" if start is None else f"line {start.line + 1}"
