"""The data of a configuration on its device, kept for the next run of a sweep."""

from dataclasses import replace
from functools import lru_cache

import torch
from omegaconf import OmegaConf

from normbench.data import Dataset, load_dataset, prepare
from normbench.errors import InputError

LOADING = ("name", "root", "train_size", "val_size", "test_size", "split_seed")


@lru_cache(maxsize=1)
def dataset(device: str, options: str) -> Dataset:
    """The prepared data on the training device. options: a resolved configuration's `data`, as YAML.

    Raises InputError, its key within `data`, and UserError as `load_dataset` does.
    """
    options = OmegaConf.create(options)
    try:
        data = load_dataset(**{key: options[key] for key in LOADING})
        tensors = {name: value.to(device) for name, value in vars(data).items() if torch.is_tensor(value)}
        return prepare(replace(data, **tensors), options)
    except InputError as error:
        raise error.within("data") if "." not in error.key else error from None
