"""The page of the command line: every command with its arguments, options, defaults and help, as the program has them."""

from typing import Any, get_args, get_type_hints

import typer

from recsys.cli import app
from reference.annotations import values
from reference.markdown import code, sentence, table

HEAD = """# Commands

Every command of `recsys`, as the program itself describes them (`recsys COMMAND --help`). Each takes `--json` and then
prints its result as JSON; how they end is told under [exit codes](../exit_codes.md).
"""


def commands() -> dict[str, Any]:
    """Return every command by name, in the order of the help."""
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def page() -> str:
    """Return the page."""
    panels: dict[str, list[str]] = {}
    for name, command in commands().items():
        panels.setdefault(command.rich_help_panel, []).append(_section(name, command))
    return HEAD + "".join(f"\n## {panel}\n" + "".join(parts) for panel, parts in panels.items())


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    hints = get_type_hints(command.callback, include_extras=True)
    usage = " ".join(["recsys", name, *(p.metavar or p.name.upper() for p in arguments), "[OPTIONS]"])
    rows = [
        [_names(p), _values(p, hints[p.name]), _default(p), sentence(p.help or "")]
        for p in (*arguments, *options)
    ]
    return (
        f"\n### recsys {name}\n\n{command.help.strip()}\n\n```text\n{usage}\n```\n\n"
        + table(["", "takes", "default", "meaning"], rows)
        + "\n"
    )


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return code(parameter.metavar or parameter.name.upper())
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(map(code, names)) + (", repeatable" if parameter.multiple else "")


def _values(parameter: Any, annotation: Any) -> str:
    """Say what a parameter takes: nothing, where it is a flag."""
    if get_args(annotation)[0] is bool:
        return ""
    (info,) = annotation.__metadata__
    words = values(annotation)
    return words if info.min is None else f"{words}; ≥ {info.min}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(parameter.default, bool):
        return code(parameter.opts[0]) if parameter.default is True else ""
    return "" if parameter.default in (None, "", ()) else code(parameter.default)
