"""A composed configuration checked, key by key and as a whole, and settled.

Every check ends in an InputError that names the key, the value and the choices, before any work starts.
"""

from functools import cache

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.config.files import choices, flatten, unknown_key
from normbench.config.keys import KEYS, Key, measure_keys, method_keys, model_keys
from normbench.config.sizes import IMAGES, MOST_INTEGER, samples_per_epoch, train_images
from normbench.config.values import STANDS_IN, Values, plain
from normbench.errors import InputError, UserError, choices_text
from normbench.facts import facts_of
from normbench.words import typed

# What an experiment file says beside the configuration of its runs.
OF_A_STUDY = ("grids", "claims", "figure", "published", "tunes", "rungs", "looks")
OF_A_STUDY += ("validation_only", "exploratory", "formerly")


def resolve(config, processes: int = 1) -> Values:
    """Check a composed configuration, and replace what depends on the machine or on other keys by its value.

    config: as it is composed, of plain values or OmegaConf's. processes: how many of torchrun's share each batch.
    Returns one in which every key has settled (normbench.config.keys), less what an experiment file says about its
    study; resolving it again changes nothing. Whether the network can be built shows normbench.tasks.build. Raises
    InputError.
    """
    config = _interpolated(config)
    keys = _keys(*(_chosen(config, group) for group in ("norm", "measure", "model")))
    leaves = flatten(config)
    _check_keys(leaves, keys)
    _check_data(config)
    _check_batch(config, processes)
    if config.optim.get("nesterov") and config.optim.momentum == 0:
        raise InputError("optim.nesterov", True, "needs optim.momentum > 0")
    for key in keys.values():
        if key.settles and key.name in leaves:
            value = key.settled(config, processes)
            if (type(value), value) != (type(leaves[key.name]), leaves[key.name]):  # 0 is written otherwise than 0.0
                config = config.with_value(key.name, value)
    return config


def _interpolated(config) -> Values:
    """What is the runs', its interpolations replaced by what they stand for. Raises UserError for those that cannot."""
    if not isinstance(config, Values):
        config = Values(plain(config))
    config = Values({key: value for key, value in config.items() if key not in OF_A_STUDY})
    if not any(STANDS_IN.search(str(value)) for value in flatten(config).values() if isinstance(value, str | list)):
        return config
    try:
        whole = OmegaConf.create(plain(config))
        return Values(OmegaConf.to_container(whole, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:  # one that the user wrote
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError("the configuration: an interpolation ${…} stands for itself") from None


@cache
def _keys(norm: str, measure: str, model: str) -> dict[str, Key]:
    """The keys that a configuration with these choices has, in the order in which they settle."""
    return KEYS | method_keys(norm) | measure_keys(measure) | model_keys(model)


def _chosen(config, group: str) -> str:
    """The choice of a group. Raises InputError for one without a file."""
    name = config.get(group, {}).get("name")
    if name not in choices(group):
        raise InputError(f"{group}.name", name, choices_text(name, choices(group)))
    return name


def _check_keys(leaves: dict[str, object], keys: dict[str, Key]) -> None:
    for name, value in leaves.items():
        if name not in keys:
            _check_section(name, leaves, keys)
            raise unknown_key(name, value, keys)
        if wrong := keys[name].check(value):
            raise InputError(name, value, wrong)


def _check_section(name: str, leaves: dict[str, object], keys: dict[str, Key]) -> None:
    """Raise InputError if a key that has one value was given keys of its own, `name` among them."""
    if section := next((known for known in keys if name.startswith(f"{known}.")), None):
        inside = {leaf.removeprefix(f"{section}."): leaf for leaf in leaves if leaf.startswith(f"{section}.")}
        given = {inner: leaves[leaf] for inner, leaf in inside.items()}
        raise InputError(section, typed(given), keys[section].check(given))


def _check_data(config) -> None:
    data, (train, test) = config.data, IMAGES[config.data.name]
    if data.name == "cifar10" and data.root is None:
        raise InputError("data.root", None, "must be the folder of the data")
    if data.val_size >= train:
        raise InputError(
            "data.val_size", data.val_size, f"{data.name} has {train} training images; at most {train - 1}"
        )
    if (data.train_size or 1) > train - data.val_size:
        raise InputError(
            "data.train_size", data.train_size, f"the training split has {train - data.val_size} images, or null"
        )
    if (data.test_size or 1) > test:
        raise InputError("data.test_size", data.test_size, f"{data.name} has {test} test images, or null")
    if config.seed > MOST_INTEGER - config.replicates:
        highest = MOST_INTEGER - config.replicates
        raise InputError("seed", config.seed, f"must be at most {highest} with replicates={config.replicates}")
    if config.batch_size > train_images(config):
        raise InputError("batch_size", config.batch_size, f"the training split has {train_images(config)} images")
    total = config.epochs * samples_per_epoch(config)
    if (config.optim.warmup_samples or 0) >= total:
        raise InputError("optim.warmup_samples", config.optim.warmup_samples, f"training sees {total} samples in all")


def _check_batch(config, processes: int) -> None:
    if config.batch_size % processes:
        raise InputError("batch_size", config.batch_size, f"must be divided by the {processes} processes that share it")
    if processes > 1 and config.evaluation.suggest_lr:
        raise InputError("evaluation.suggest_lr", True, "is for a single process")
    for name in ("mixup", "cutmix"):
        if config.batch_size // processes == 1 and config.augment[name] > 0:
            raise InputError(
                f"augment.{name}", config.augment[name], "mixes the images of a batch: needs batch_size ≥ 2"
            )
    option, share = facts_of(config.norm.name).images_option, config.batch_size // processes
    if option is not None and (config.norm[option] < 1 or share % config.norm[option]):
        raise InputError(f"norm.{option}", config.norm[option], f"must divide batch_size={share}")
