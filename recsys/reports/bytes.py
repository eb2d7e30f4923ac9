"""The bytes of arms: those of their tables by kind, and of the networks above, for a terminal and for a page."""

from collections.abc import Mapping

from recsys.reports.sheet import Sheet

KINDS = {
    "parameters": "weights",
    "optimizer": "optimiser",
    "vocabulary": "vocabularies",
    "remaps": "remaps",
    "codes": "codes",
    "pointers": "pointers",
    "dense": "scheme's networks",
    "statistics": "statistics",
}
ALIKE = 1.05  # networks of arms whose bytes differ by no more are not worth a sentence

Bytes = Mapping[str, int]  # as a run records them


def bytes_sheets(arms: Mapping[str, Bytes]) -> list[Sheet]:
    """Return a table of the bytes of arms by name, without kinds that none has; nothing where no arm has bytes."""
    if not arms:
        return []
    kinds = [
        kind for kind in KINDS if kind == "parameters" or any(sizes.get(kind) for sizes in arms.values())
    ]
    rows = [
        (
            name,
            *(_number(sizes, kind) for kind in [*kinds, "total"]),
            f"{sizes['total'] / sizes['full_table']:.1%}",
            *(_number(sizes, kind) for kind in ("serving", "network", "network_optimizer")),
        )
        for name, sizes in arms.items()
    ]
    sentence = network_sentence(arms)
    return [
        Sheet(
            "Resident bytes",
            (
                *("arm", *(KINDS[kind] for kind in kinds), "bytes", "of full", "to serve"),
                *("network above", "its optimiser"),
            ),
            rows,
            "Bytes, which budgets are of, are those of the tables in training: fp32 weights with padding, the optimiser's "
            "state, vocabularies, and what else is held to look ids up. The network above the tables is in no budget."
            + (f" {sentence}" if sentence else ""),
        )
    ]


def network_sentence(arms: Mapping[str, Bytes]) -> str:
    """Say that the networks of arms differ in size; nothing where they are alike."""
    sizes = {name: kinds["network"] for name, kinds in arms.items() if "network" in kinds}
    if not sizes:
        return ""
    least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[most] <= ALIKE * sizes[least]:
        return ""
    return (
        f"The networks above the tables differ, from {sizes[least]:,} bytes of {least} to {sizes[most]:,} of {most}: "
        "what one arm does better than another may be its network's doing."
    )


def _number(sizes: Bytes, kind: str) -> str:
    return f"{sizes[kind]:,}" if kind in sizes else "–"  # of a run before networks or statistics were counted
