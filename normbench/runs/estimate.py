"""How long runs take: from their finished likes, or from a few steps."""

import sys

from normbench.runs.planned import Run


def estimates(runs: list[Run]) -> list[float]:
    """Seconds that each run takes from its start, on this machine and alone on it.

    From the finished runs of the same model, method, batch size, augmentation and stack; where there is none, from a
    few steps.
    """

    def kind(config):
        return (
            *(str(config[key]) for key in ("model", "norm", "batch_size", "precision", "augment", "evaluation")),
            min(config.stack, 8),
        )

    pace: dict[tuple, float] = {}
    for run in runs:
        result = run.directory.result()
        if result and result["status"] == "finished":
            pace.setdefault(kind(run.config), result["seconds"] / run.images)
    if missing := {kind(run.config) for run in runs} - pace.keys():
        print(f"normbench: timing {len(missing)} kinds of run that have no finished one", file=sys.stderr)
    for run in runs:
        if kind(run.config) not in pace:
            from normbench.runs.trial import trial  # with torch, which takes its time to load

            pace[kind(run.config)] = trial(run.config)
    return [run.images * pace[kind(run.config)] for run in runs]
