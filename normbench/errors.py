"""Mistakes that a user can mend: told in one line, without a traceback."""

from difflib import get_close_matches


class UserError(Exception):
    """Something that the user, not the developer, has to mend; `str(error)` is the one line that the user reads."""


class InputError(UserError, ValueError):
    """A bad value of an option.

    key: the option's name (`num_groups`); prefix it with its config group through `within`.
    value: what was given. text: what is wrong, and which values would do.
    """

    def __init__(self, key: str, value, text: str):
        super().__init__(f"{key}={_as_typed(value)}: {text}")
        self.key, self.value, self.text = key, value, text

    def within(self, group: str) -> "InputError":
        """The same error with its key inside a config group: `num_groups` becomes `norm.num_groups`."""
        return InputError(f"{group}.{self.key}", self.value, self.text)


def _as_typed(value) -> str:
    """A value as a user types it on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def require_choice(key: str, value, choices) -> None:
    """Raises InputError, with the choices, for a value that is none of them."""
    if value not in choices:
        raise InputError(key, value, choices_text(value, choices))


def choices_text(value, choices) -> str:
    """'did you mean group? choices: batch, group, …' for a value that is none of the choices."""
    choices = sorted(str(choice) for choice in choices)
    close = get_close_matches(str(value), choices, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choices: {', '.join(choices)}"
