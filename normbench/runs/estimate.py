"""How long runs take: from their finished likes, or from a few steps."""

import sys

from normbench.records.metrics import TRAIN, measurement_of
from normbench.runs.planned import Run


def estimates(runs: list[Run]) -> list[float | None]:
    """Seconds that each run takes from its start, on this machine and alone on it.

    From the finished runs of the same measurement, model, method, batch size, augmentation and stack; where there is
    none, of a training from a few steps, and of what is no training None.
    """

    def kind(config):
        return (
            *(
                str(config[key])
                for key in ("measure", "model", "norm", "batch_size", "precision", "augment", "evaluation")
            ),
            min(config.stack, 8),
        )

    pace: dict[tuple, float] = {}
    for run in runs:
        result = run.directory.result()
        if result and result["status"] == "finished":
            pace.setdefault(kind(run.config), result["seconds"] / run.images)
    trainings = {kind(run.config): run for run in runs if measurement_of(run.config) == TRAIN}
    if missing := trainings.keys() - pace.keys():
        print(f"normbench: timing {len(missing)} kinds of run that have no finished one", file=sys.stderr)
        from normbench.runs.trial import trial  # with torch, which takes its time to load

        pace |= {one: trial(trainings[one].config) for one in trainings if one in missing}
    return [run.images * pace[kind(run.config)] if kind(run.config) in pace else None for run in runs]
