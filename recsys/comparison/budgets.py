"""Arms at several budgets: what each is called there, and which of them all others are compared with."""

from collections.abc import Mapping, Sequence

from recsys.config import ConfigError, ExperimentConfig


def with_budgets(configs: Sequence[ExperimentConfig], budgets: Sequence[str]) -> list[ExperimentConfig]:
    """Return every configuration at every budget, named `<name>@<budget>`; without budgets, as they are."""
    if not budgets:
        return list(configs)
    return [
        config.replace(
            {"name": f"{config.name}{_ending(budget)}", "tables.budget": budget}, where=config.name
        )
        for budget in budgets
        for config in configs
    ]


def arm_name(name: str, budget: str | None) -> str:
    """Return the name of an arm, whatever the budget: `hash` of `hash@10%`."""
    return name if budget is None else name.removesuffix(_ending(budget))


def baseline_of(
    configs: Sequence[ExperimentConfig], baseline: str | None, left_out: Mapping[str, str]
) -> str:
    """Return the name of the configuration that all others are compared with.

    `baseline` is a name as reports print it (`hash@10%`), or that of an arm at all its budgets (`hash`), whose first
    budget that fits is then taken; without one it is the first arm, or the first that fits. `left_out` says why some do
    not fit.

    Raises:
        ConfigError: The name is no arm's, or that of one that does not fit.
    """
    arms = {config.name: arm_name(config.name, config.tables.budget) for config in configs}
    requested = arms[configs[0].name] if baseline is None else baseline
    named = [requested] if requested in arms else [name for name, arm in arms.items() if arm == requested]
    if not named:
        known = dict.fromkeys([*arms, *arms.values()])
        raise ConfigError(f"baseline {baseline!r} is not among the arms: choose one of {', '.join(known)}")
    if fitting := [name for name in named if name not in left_out]:
        return fitting[0]
    if baseline is None:
        return next(name for name in arms if name not in left_out)
    fit = ", ".join(name for name in arms if name not in left_out)
    raise ConfigError(
        f"the baseline does not fit: {left_out[named[0]]}; name another with --baseline: {fit} fit"
    )


def baselines_by_budget(arms: Mapping[str, str | None], baseline: str) -> dict[str, str]:
    """Return the baseline of each budget that several arms have: the arm of `baseline` there, or the first that fits.

    `arms` holds budgets by name. A budget that all arms share needs no comparison of its own.
    """
    baseline_arm = arm_name(baseline, arms[baseline])
    baselines = {}
    for budget in dict.fromkeys(budget for budget in arms.values() if budget is not None):
        group = [name for name, other in arms.items() if other == budget]
        if 1 < len(group) < len(arms):
            same = (name for name in group if arm_name(name, budget) == baseline_arm)
            baselines[budget] = next(same, group[0])
    return baselines


def _ending(budget: str) -> str:
    return f"@{budget.replace(' ', '')}"
