"""normbench: which normalization method, at which batch size, and how sure is that?"""

__version__ = "0.1.0"


def run(*overrides: str) -> dict:
    """What `python -m normbench OVERRIDES` does, from Python: one run, or what is left of it.

    overrides: `key=value`, as on the command line. Returns the content of result.json; a finished run is not repeated.
    Raises normbench.errors.UserError for a mistake.
    """
    from normbench.config.overrides import normalize, plan
    from normbench.errors import InputError
    from normbench.runs.forced import forced
    from normbench.runs.sweep import prepared, run_alone

    jobs, _, _ = plan(normalize(list(overrides)), multirun=False)
    if len(jobs) > 1:
        raise InputError("overrides", " ".join(overrides), f"{len(jobs)} runs; a sweep is for the command line")
    [planned], _ = prepared(jobs)
    with forced([planned]) as since:
        return run_alone(planned, since)


def load(run, *, device: str = "auto", root: str | None = None):
    """The networks of a finished training, by its folder, with their input normalization.

    `load(run).predict(images)` tells the classes that they see in uint8 images N×H×W×3; see normbench.training.kept.
    device: auto, cpu, cuda or cuda:N. root: the folder of the data, where it is no longer the one of the run. Raises
    normbench.errors.UserError for a folder without networks.
    """
    from normbench.training import kept

    return kept.load(run, device=device, root=root)
