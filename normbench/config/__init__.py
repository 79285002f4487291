"""From what the user typed to a configuration that is known to be right, without torch.

checks      what a value may be: functions that say what is wrong with one
files       the folder conf/: groups and their choices, defaults, comments, studies
keys        every key of a run: its check, what it settles to, whether it names the run
overrides   Hydra's side: both spellings of an override, sweeps expanded into composed configurations
resolve     a composed configuration checked, its keys settled
identity    the name of a run
values      a configuration as plain values, read-only

machine, sizes, rates and methods know what keys settle to: the device, numbers of images, tuned rates and what a
method says of its batch statistics.
"""
