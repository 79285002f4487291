"""How long runs take, before they are run."""

from normbench.config.overrides import normalize, plan
from normbench.runs.estimate import estimates
from normbench.runs.planned import runs_of
from normbench.runs.report import print_plan


def test_what_is_no_training_is_timed_by_no_training(tmp_path, capsys):
    words = ["measure=axes,invariances", "model=resnet8", "data=patterns", "device=cpu", f"output={tmp_path}"]
    runs = runs_of(plan(normalize(words), multirun=True)[0])
    assert estimates(runs) == [None, None]
    print_plan(runs, estimates(runs))
    told = " ".join(capsys.readouterr().out.split())
    assert "2 runs: 2 missing; 2 runs left whose time is not known. Nothing was run." in told
