"""The configuration for nginx on the page of the server is whole, and agrees with what the server says and takes."""

import inspect
import re
from pathlib import Path
from typing import Any

from recsys.commands.serving import serve
from recsys.serving.server.app import Endpoints
from recsys.serving.server.limits import Limits
from recsys.serving.server.service import Service
from recsys.serving.server.versions import OneFolder, Versions

PAGE = (Path(__file__).parents[4] / "docs/server.md").read_text(encoding="utf-8")
Block = list[tuple[list[str], Any]]


def parsed(text: str) -> Block:
    """Directives as (words, block or None)."""
    tokens = re.findall(r'"[^"]*"|[{};]|[^\s{};"]+', re.sub(r"#.*", "", text))
    root: Block = []
    stack, words = [root], []
    for token in tokens:
        if token == "}":
            assert not words, f"{words} has no end"
            stack.pop()
        elif token in "{;":
            assert words, f"{token} ends nothing"
            block: Block | None = [] if token == "{" else None
            stack[-1].append((words, block))
            words = []
            if block is not None:
                stack.append(block)
        else:
            words.append(token)
    assert stack == [root]
    assert not words
    return root


def test_the_configuration_agrees_with_the_server() -> None:
    (text,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE, flags=re.M | re.S)
    (_, upstream), (_, server) = parsed(text)
    defaults = {name: one.default for name, one in inspect.signature(serve).parameters.items()}
    addresses = [words[1] for words, _ in upstream if words[0] == "server"]
    assert addresses == [f"{defaults['host']}:{defaults['port']}"]
    settings = {words[0]: words[1:] for words, _ in server}
    assert settings["client_max_body_size"] == [f"{Limits().body_bytes >> 20}m"]
    locations = [
        (words[2], dict((inner[0], inner[1:]) for inner, _ in block)) for words, block in server if block
    ]
    named = [path for pattern, _ in locations for path in re.findall(r"\w+", pattern)]
    routes = Endpoints(Service(Versions(OneFolder(Path("served"))), Limits())).routes()
    assert sorted(f"/{path}" for path in named) == sorted(route.path for route in routes)
    assert all(inner["proxy_pass"] == ["http://recsys"] for _, inner in locations)
    (seconds,) = locations[0][1]["proxy_read_timeout"]
    assert int(seconds.removesuffix("s")) > 2 * Limits().seconds


def test_the_page_says_the_limits() -> None:
    assert Limits().body_bytes == 4 << 20
    for option, shown in (
        ("body", "4 MiB"),
        ("rows", f"{Limits().rows:,}"),
        ("list", f"{Limits().list_length}"),
    ):
        assert f"| `--max-{option}` | {shown} |" in PAGE
    assert f"| `--max-in-flight` | {Limits().in_flight} |" in PAGE
    assert f"| `--timeout` | {Limits().seconds:g} s |" in PAGE
