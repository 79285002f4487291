"""A study: its experiment file, read once, and tables of this version and of earlier ones."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy import stats

from normbench.analysis.claims import decide
from normbench.analysis.figures import curves_figure, sweep_figure
from normbench.analysis.study import AFTER, BEFORE, NEEDED, About, other_primaries, study_of
from normbench.analysis.tables import summary
from normbench.analysis.tables_io import read, write
from normbench.errors import InputError, UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Writes the experiment file of a study of this test's own, named mine."""
    path = tmp_path / "conf" / "experiment" / "mine.yaml"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr("normbench.config.files.conf_dir", lambda: tmp_path / "conf")
    return path


def test_the_experiment_file_has_the_title_the_claims_and_more(experiment):
    experiment.write_text("""# @package _global_
# make study STUDY=mine
# Does GroupNorm care?
study: mine
tunes: lr
data: {root: "${oc.env:NOWHERE}"}
claims:
  - name: flat
    statement: >
      GroupNorm does not care
      for the batch size
    source: Wu & He 2018, arXiv 1803.08494
    kind: spread
    where: {method: none, batch_size: [2, 8]}
    over: batch_size
    margin: 1.5
  - name: both
    statement: The noise matters more to raw inputs.
    source: nobody
    kind: interaction
    where: {augment.mixup: 0, data.noise: [none, rician]}
    over: [data.noise, data.input]
""")
    study = study_of("mine", None)
    flat, both = study.claims
    assert flat.statement == "GroupNorm does not care for the batch size"
    assert (flat.kind.word, flat.metric, flat.kind.over, flat.kind.margin) == ("spread", "test_acc", "batch_size", 1.5)
    assert flat.kind.where == {"method": "none", "batch_size": [2, 8]}
    assert both.kind.over == ["data.noise", "data.input"]
    assert both.kind.where == {"augment.mixup": 0, "data.noise": ["none", "rician"]}
    assert study.title == "Does GroupNorm care?"
    assert (study.says("tunes"), study.says("figure")) == ("lr", None)
    experiment.write_text("study: mine\n")
    assert study_of("mine", None).claims == []


def test_a_file_that_is_no_yaml_is_one_line(experiment):
    experiment.write_text("claims: [{name: a\n")
    with pytest.raises(UserError, match=re.escape("experiment mine: ")) as error:
        study_of("mine", None)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="choices: mine"):
        study_of("mien", None)


def test_a_folder_says_nothing(tmp_path):
    study = study_of(str(tmp_path), None)
    assert (study.folder, study.claims, study.says("figure")) == (tmp_path, [], None)
    assert study.title == f"The runs in the folder {tmp_path.name}."


CLAIM = {"name": "it", "statement": "So.", "source": "S", "kind": "level", "a": {"method": "batch", "batch_size": 2}}
CLAIM |= {"direction": "greater", "level": 40}


def studied(experiment, **said):
    experiment.write_text(yaml.safe_dump({"study": "mine", "claims": [CLAIM]} | said))
    return study_of("mine", experiment.parent)


@pytest.mark.parametrize(
    ("checked", "told"),
    [
        ({"it": {"fixed": True, "text": CLAIM}}, {"it": BEFORE}),
        ({"it": {"fixed": True, "text": CLAIM | {"level": 39}}}, {"it": AFTER}),
        ({"it": {"fixed": False, "text": CLAIM}}, {"it": AFTER}),
        ({"it": {"fixed": None, "text": CLAIM}}, {}),
        ({}, {}),
        (None, {}),
    ],
)
def test_a_claim_is_fixed_before_the_runs_only_where_git_shows_it(experiment, checked, told):
    study = studied(experiment, looks=[5, 10], exploratory="why")
    if checked is not None:
        (study.folder / "claims.json").write_text(json.dumps(checked))
    (study.folder / "configurations.json").write_text(json.dumps({"common": {"data.test_size": 7}, "runs": {}}))
    assert study.about == About(told, (5, 10), "why", {"data.test_size": 7})
    (study.folder / "claims.json").write_text("{")
    with pytest.raises(UserError, match=r"claims\.json: not what"):
        _ = study.about


@pytest.mark.parametrize("said", [{"tunes": "lr"}, {"validation_only": True}, {}])
def test_what_tunes_shows_nothing_of_the_test_images(experiment, said):
    study = studied(experiment, **said)
    real = read(ROOT / "results" / "techniques" / "runs.csv")
    write(real, study.folder / "runs.csv")
    gone = set(real) - set(study.runs)
    assert not said or ({"test_acc", "test_ece", "test_acc_tta", "tta_gained"} <= gone)
    assert not {name for name in gone if name.startswith("val_")}
    assert bool(gone) == bool(said)


def test_primary_claims_are_corrected_together_with_those_of_other_studies(experiment, monkeypatch):
    real = read(ROOT / "results" / "batch_size_short" / "runs.csv")
    monkeypatch.chdir(experiment.parents[2])
    primary = CLAIM | {"primary": True}
    for name, claims, said in (
        ("decided", [primary, CLAIM | {"name": "b"}], {}),
        ("planned", [primary], {}),
        ("explored", [primary], {"exploratory": "why"}),
        ("secondary", [CLAIM], {}),
    ):
        experiment.with_name(f"{name}.yaml").write_text(yaml.safe_dump({"claims": claims} | said))
    write(real, Path("results", "decided", "runs.csv"))
    study = studied(experiment, claims=[primary])
    write(real, study.folder / "runs.csv")
    values = real[(real.method == "batch") & (real.batch_size == 2)].test_acc
    p = stats.ttest_1samp(values, 40).pvalue
    assert other_primaries(study) == [pytest.approx(p), 1.0]
    [verdict] = study.verdicts()
    assert (verdict.p, verdict.p_holm) == pytest.approx((p, 3 * p))


def test_tables_of_earlier_versions_still_give_a_summary_and_figures(tmp_path):
    """Those had fewer outcomes; what the study names has to be there all the same."""
    study = study_of("batch_size_short", None)
    named = [*NEEDED, "norm.ghost_size", "test_acc_precise"]
    write(study.runs[[column for column in study.runs if column in named]], tmp_path / "runs.csv")
    write(study.curves, tmp_path / "curves.csv")
    old = study_of("batch_size_short", tmp_path)
    verdicts = decide(old.claims, old.runs)
    assert verdicts == decide(study.claims, study.runs)
    assert summary("a", "b", old.runs, verdicts) == summary("a", "b", study.runs, verdicts)
    wanted = old.says("figure")
    assert sweep_figure(old.runs, wanted["panels"][:1]).axes
    assert curves_figure(old.curves, old.runs, **wanted["curves"]).axes
    plain = old.runs.drop(columns="test_acc_precise")
    assert "test, precise statistics" not in summary("a", "b", plain, [])
    (tmp_path / "runs.csv").write_text(pd.DataFrame(columns=NEEDED[:-1]).to_csv())
    with pytest.raises(UserError, match=re.escape(f"(without {NEEDED[-1]})")):
        _ = study_of("batch_size_short", tmp_path).runs
