"""What is planned is what Hydra composes of the same overrides, whole configurations compared."""

import pytest
from hydra import compose as hydras
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from normbench.config import overrides
from normbench.config.files import conf_dir, study_names
from normbench.config.values import plain

# A row each: of every kind of value, of keys at every depth, and of what only Hydra understands.
ROWS = [
    [
        "batch_size=7",
        "seed=-3",
        "epochs=007",
        "optim.lr=1e-3",
        "checkpoint_seconds=.5",
        "logging.grad_norm_steps=1_0",
        "optim.momentum=0.",
    ],
    ["study=null", "study=NULL", "force=true", "force=FALSE", "threads=+2", "optim.clip_norm=inf", "study=a"],
    ["study='a, b'", 'output="x y"', "output=a/b-c.d", "output='null'", "output='1'", "output=a:b", "output="],
    [
        "optim=adamw",
        "optim.betas=[0.5,0.9]",
        "augment.resize=[[0,16],[0.5,32]]",
        "optim.milestones=[]",
        "reuse=[a,'b c',null,1]",
    ],
    ["optim=adamw", "data.train_size=100", "data.train_size=null", "optim.betas=1", "optim.lr=[1]", "epochs=text"],
    ["optim.lr=0.3", "optim=adamw"],  # a group after a value
    ["experiment=noise", "optim.lr=0.3", "data.noise_strength=0.2"],  # keys that an experiment says as well
    ["norm=group", "norm.num_groups=4", "model=vgg", "data=patterns", "augment=none"],
    ["output=${study}", "study=x"],
    ["output='${study}'", "epochs=${batch_size}"],
    ["optim={lr: 1, momentum: 0}", "norm.momentum=0.5"],
    ["output=???"],
    ["study=a\\,b"],
    ["study=nan", "data.val_size=1e400"],
]


@pytest.fixture
def composed():
    """Overrides → what Hydra composes and what is planned, both as text, which tells 1 from 1.0."""

    def both(row):
        base = lambda chosen: overrides.Values(plain(hydras("config", list(chosen))))  # noqa: E731
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            whole, mine = hydras("config", row), overrides._composed(tuple(row), base)
        return repr(OmegaConf.to_container(whole)), repr(plain(mine))

    return both


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_values_put_in_directly_are_hydras(row, composed):
    whole, mine = composed(row)
    assert mine == whole


@pytest.mark.parametrize("name", study_names())
def test_every_studys_grid_is_hydras(name):
    jobs, _, _ = overrides.plan([f"experiment={name}"], True)
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        for job in [*jobs[:3], *jobs[-3:]]:
            assert repr(plain(job.config)) == repr(OmegaConf.to_container(hydras("config", list(job.overrides))))


def test_hydra_composes_once_a_choice_of_groups(monkeypatch):
    rows, compose = [], overrides._compose
    monkeypatch.setattr(overrides, "_compose", lambda row, whole=False: rows.append(row) or compose(row, whole))
    jobs, _, _ = overrides.plan(["norm=batch,group", "optim.lr=0.1,0.2", "seed=range(0,50)"], True)
    assert len(jobs) == 200
    assert rows == [["norm=batch"], ["norm=group"]]
