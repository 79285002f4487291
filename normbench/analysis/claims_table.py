"""The claims of a study in summary.md: what each was, what became of it, and what its seeds could have shown."""

import math

from normbench.analysis.cells import ratio_digits, told_interval, told_p
from normbench.analysis.claims import Verdict
from normbench.analysis.study import About
from normbench.records.metrics import outcome_of
from normbench.words import markdown

PRIMARY = "primary"
VALUES = ("level", "share")  # kinds whose estimate is a value, not a difference
HEAD = [
    "claim",
    "kind, metric",
    "estimate [95 %]",
    "margin",
    "n",
    "p, corrected",
    "verdict",
    "pairing ratio",
    "fixed",
    "note",
]


def claims(verdicts: list[Verdict], about: About) -> str:
    """The sentences on how they were decided, and a row a claim: the primary ones first."""
    ordered = sorted(verdicts, key=lambda v: v.tier != PRIMARY)
    table = markdown(HEAD, "llrrrrlrll", [_row(v, about) for v in ordered])
    return f"{_rules(verdicts, about)}\n\n{table}"


def power(verdicts: list[Verdict]) -> str:
    """Which difference each primary claim's seeds show with 80 % power, or each claim's where none is primary."""
    asked = [v for v in verdicts if v.tier == PRIMARY] or verdicts
    known = [v for v in asked if not math.isnan(v.detectable) and v.verdict != "not enough runs"]
    lines = [f"- {_detectable(v)} at n = {v.n}: {v.statement}" for v in known]
    text = "The distance from its margin that n seeds show with 80 % power, at their spread and before correction:"
    return f"{text}\n\n" + "\n".join(lines) if lines else ""


def worded(verdict: Verdict, about: About) -> str:
    """The verdict's word, and that it was come by in exploring where it was."""
    return f"exploratory: {verdict.verdict}" if about.exploratory else verdict.verdict


def _rules(verdicts: list[Verdict], about: About) -> str:
    told = []
    if about.exploratory:
        told.append(f"**All of them are exploratory**: {about.exploratory.rstrip('.')}.")
    primary = sum(v.tier == PRIMARY for v in verdicts)
    tested = sum(not math.isnan(v.p) for v in verdicts if v.tier != PRIMARY)
    if primary:
        told.append(f"The first {primary} are **primary**, corrected together with those of all other studies.")
    if primary < len(verdicts):
        them = "The others are" if primary else "All are"
        told.append(f"{them} secondary, corrected within their study: {tested} of them could be tested.")
    told.append(
        "A claim holds, or does not, where its p value, corrected by Holm, is at most 0.05; else it is inconclusive."
    )
    if about.looks:
        told.append(_looks(verdicts, about.looks))
    told.append(
        "Pairing ratio: the variance of the paired differences over the sum of the variances; at 1 pairing by seed "
        "gained nothing. Fixed: whether git has the claim, as it stands, in the experiment file at every commit of the "
        "rows."
    )
    return " ".join(told)


def _looks(verdicts: list[Verdict], looks: tuple[int, ...]) -> str:
    made = looks[: max(v.look for v in verdicts)]
    how = f"made so far: {_listed(made)}" if made else "none was made so far"
    planned = f"Looks were planned at {_listed(looks)} seeds (O'Brien–Fleming)"
    return f"{planned}; {how}. An interval has the level of its look."


def _listed(numbers) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _row(v: Verdict, about: About) -> list[str]:
    tier = "**primary:** " if v.tier == PRIMARY else ""
    return [
        f"{tier}{v.statement} ({v.source})",
        f"{v.kind}, {v.metric}",
        _estimate(v),
        "–" if math.isnan(v.margin) else f"× {v.margin:g}" if v.scale == "log" else f"{v.margin:g}",
        str(v.n),
        "–" if math.isnan(v.p_holm) else told_p(v.p_holm),
        f"**{worded(v, about)}**",
        "–" if math.isnan(v.pairing_ratio) else f"{v.pairing_ratio:.2f}",
        about.fixed.get(v.name, "not checked"),
        v.note or "–",
    ]


def _estimate(v: Verdict) -> str:
    """The estimate with its interval, on its scale; from too few seeds without one."""
    if math.isnan(v.estimate):
        return "–"
    sign = "" if v.scale == "log" or v.kind in VALUES else "+"
    bare = v.verdict == "not enough runs" or math.isnan(v.low)
    ratios = [v.estimate] if bare else [v.estimate, v.low, v.high]
    digits = ratio_digits(*ratios) if v.scale == "log" else outcome_of(v.metric).digits
    before = "× " if v.scale == "log" else ""
    if bare:
        return f"{before}{v.estimate:{sign}{digits}}"
    return before + told_interval(v, sign + digits)


def _detectable(v: Verdict) -> str:
    if v.scale == "log":
        return f"a factor of {v.detectable:{ratio_digits(v.detectable)}}"
    outcome = outcome_of(v.metric)
    unit = "points" if outcome.unit == "%" else f"({outcome.unit})" if " " in outcome.unit else outcome.unit
    return f"{v.detectable:{outcome.digits}} {unit}".strip()
