"""Experiment files of earlier versions are rewritten: their sections get the names that they have now."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.config.mistakes import RENAMED, ConfigError
from recsys.config.yaml_text import YamlError, parse_yaml


def renamed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of an experiment under their present names, those of dotted keys under `set` too."""
    sections = {RENAMED.get(key, key): value for key, value in raw.items()}
    if isinstance(dotted := sections.get("set"), dict):
        sections["set"] = {_renamed_key(str(key)): value for key, value in dotted.items()}
    return sections


def migrated(text: str, path: str | Path) -> str:
    """Return the text of an experiment file with its sections renamed, comments and layout as they were.

    Raises ConfigError where it is no mapping, has a section under both names, or is laid out in a way that lines alone
    do not tell.
    """
    try:
        before = parse_yaml(text)
    except YamlError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(before, dict):
        raise ConfigError(f"{path}: holds {type(before).__name__}, not the sections of an experiment")
    for old, new in RENAMED.items():
        if old in before and new in before:
            raise ConfigError(
                f"{path}: has both {old!r} and {new!r}, which is its name now: leave one of them"
            )
    after = renamed(before)
    new_text = text
    for old, new in RENAMED.items():
        new_text = re.sub(rf"(?m)^{old}(?=\s*:)", new, new_text)
        new_text = re.sub(rf"(?m)(^\s+|[{{,]\s*)(['\"]?){old}\.(?=[\w.]+\2\s*:)", rf"\1\2{new}.", new_text)
    if not _reads_as(new_text, after):
        names = ", ".join(f"{old} is {new}" for old, new in RENAMED.items())
        raise ConfigError(
            f"{path}: laid out in a way that cannot be rewritten line by line: rename by hand ({names})"
        )
    return new_text


def _reads_as(text: str, value: Mapping[str, Any]) -> bool:
    try:
        return bool(parse_yaml(text) == value)
    except YamlError:
        return False


def _renamed_key(key: str) -> str:
    section, dot, rest = key.partition(".")
    return RENAMED.get(section, section) + dot + rest
