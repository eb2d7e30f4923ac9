"""What a comparison says first: one plain sentence, and one table of bytes, quality and verdicts."""

from collections.abc import Mapping

from recsys.comparison.judge import Judgement
from recsys.evaluation.arms.compare import Comparison, Difference
from recsys.reports.bytes import Bytes
from recsys.reports.sheet import Sheet

Sizes = Mapping[str, Bytes]  # by arm; of arms that are files of predictions nothing is known


def answer(judged: Judgement, sizes: Sizes) -> str:
    """Return the verdict in one sentence, without the numbers of tests."""
    if len(judged.auc) == 1:
        return _of_one(judged, sizes)
    verdicts = {d.arm: d.verdict_word for d in judged.auc}
    words = ("better", "worse", "undecided", "no verdict")
    counts = {word: sum(verdict == word for verdict in verdicts.values()) for word in words}
    baseline = judged.comparison.baseline
    said = {"undecided": "not told apart from it", "no verdict": "without a verdict, for want of data"}
    parts = [f"{count} {said.get(word, word)}" for word, count in counts.items() if count]
    text = f"of {len(verdicts)} arms against {baseline} in AUC: {', '.join(parts)}"
    if baseline not in sizes:
        return f"{text[0].upper()}{text[1:]}."
    smallest = smallest_not_worse(judged, sizes)
    if smallest == baseline:
        return f"No arm smaller than {baseline} keeps its quality; {text}."
    share = _share(smallest, baseline, sizes)
    return f"The smallest arm not found worse than {baseline} is {smallest}{share}; {text}."


def smallest_not_worse(judged: Judgement, sizes: Sizes) -> str:
    """Return the arm of the fewest bytes among the baseline and those with a verdict other than worse."""
    baseline = judged.comparison.baseline
    names = [baseline, *(d.arm for d in judged.auc if d.verdict_word in ("better", "undecided"))]
    return min((name for name in names if name in sizes), key=lambda name: sizes[name]["total"])


def _of_one(judged: Judgement, sizes: Sizes) -> str:
    """Return the verdict on the only arm beside the baseline."""
    (d,), (power,) = judged.auc, judged.power
    share = _share(d.arm, d.baseline, sizes)
    if d.no_verdict:
        return f"There is no verdict on {d.arm} against {d.baseline}: {d.no_verdict}."
    if d.verdict != "undecided":
        return f"{d.arm} is {d.verdict} than {d.baseline} in AUC by {abs(d.estimate):.4f}{share}."
    if power.not_worse:
        return f"{d.arm} is not worse than {d.baseline} in AUC by more than {power.effect:g}{share}."
    return (
        f"{d.arm} is not told apart from {d.baseline} in AUC{share}: the difference is {d.estimate:+.4f}, and smaller ones "
        f"than ±{d.minimum_detectable_effect:.4f} would mostly be missed."
    )


def _share(arm: str, baseline: str, sizes: Sizes) -> str:
    if arm not in sizes or baseline not in sizes:
        return ""
    return f", in {sizes[arm]['total'] / sizes[baseline]['total']:.1%} of its bytes"


def answer_sheet(judged: Judgement, sizes: Sizes, by_budget: Mapping[str, Comparison] | None = None) -> Sheet:
    """Return a line for each arm: bytes where they are known, AUC, and verdicts, in each of several budgets too."""
    changes = {d.arm: d for d in judged.auc}
    inside = (by_budget or {}).values()
    within = {d.arm: d for item in inside for d in item.differences if d.metric == "auc"}
    within_baselines = {item.baseline for item in inside}
    rows = []
    for arm in judged.comparison.arms:
        size = sizes.get(arm.name)
        share = "–" if size is None else f"{size['total'] / size['full_table']:.1%}"
        row = [arm.name]
        row += [] if not sizes else ["–" if size is None else f"{size['total']:,}", share]
        row += [f"{arm.auc:.4f}", *_verdict(changes.get(arm.name), arm.name == judged.comparison.baseline)]
        if by_budget:
            del row[-2]  # the interval, for which there is no room
            estimate, _, word = _verdict(within.get(arm.name), arm.name in within_baselines)
            row += [estimate, word]
        rows.append(tuple(row))
    interval = () if by_budget else (f"{judged.comparison.level:.0%} interval",)
    return Sheet(
        f"Against {judged.comparison.baseline}",
        (
            "arm",
            *(("bytes", "of full") if sizes else ()),
            *("AUC", "ΔAUC", *interval, "verdict"),
            *(("ΔAUC at its budget", "verdict there") if by_budget else ()),
        ),
        rows,
    )


def _verdict(d: Difference | None, is_baseline: bool) -> tuple[str, str, str]:
    """Return a difference, its interval and the verdict on it."""
    if d is None:
        return "", "", "baseline" if is_baseline else ""
    interval = "–" if d.interval is None else "{:+.4f} to {:+.4f}".format(*d.interval)
    return f"{d.estimate:+.4f}", interval, d.verdict_word
