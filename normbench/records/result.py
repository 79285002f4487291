"""result.json and env.json as they are read: what a run writes, or Damaged."""

import json
import sys
from pathlib import Path

from normbench.config.checks import is_integer
from normbench.config.identity import same_run
from normbench.config.sizes import MOST_INTEGER
from normbench.records.damage import Damaged, content_of
from normbench.records.metrics import OVER, Outcome, flags, outcomes

ENDED = (*OVER, "failed")  # what a result says of its run
# What env.json says, where it does.
KINDS = {
    "packages": dict,
    "commit": str,
    "dirty": bool,
    "device": str,
    "threads": int,
    "processes": int,
    "command": str,
}


def result_of(path: Path, seeds: range | None = None) -> dict | None:
    """What result.json says; None where there is none. Raises Damaged.

    seeds: those that it must have, where they are known.
    """
    said = _object(path)
    if said is not None and (wrong := _wrong(said, path.parent.name, seeds)):
        raise Damaged(path, wrong)
    return said


def environment_of(path: Path) -> dict:
    """What env.json says; nothing where there is none. Raises Damaged."""
    said = _object(path) or {}
    for key, kind in KINDS.items():
        value = said.get(key)
        if not isinstance(value, kind | None) or (kind is int and not 0 <= (value or 0) <= MOST_INTEGER):
            raise Damaged(path, f"{key}={value}")
    if not isinstance((said.get("packages") or {}).get("torch"), str | None):
        raise Damaged(path, "the version of torch")
    return said


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)


def _object(path: Path) -> dict | None:
    """What a JSON file says, or None where there is none. Raises Damaged for one that holds no object."""
    if (content := content_of(path)) is None:
        return None
    try:
        said = _JSON.decode(content.decode())
    except (ValueError, RecursionError) as error:
        raise Damaged(path, error) from None
    if not isinstance(said, dict):
        raise Damaged(path, "no object")
    return said


def _wrong(said: dict, name: str, seeds: range | None) -> str | None:
    """What is wrong with what a result says, or None. name: of the run's folder."""
    if said.get("status") not in ENDED:
        return f"status {said.get('status')}"
    if not same_run(str(said.get("run_id", name)), name):
        return f"of another run, {said['run_id']}"
    if said["status"] == "failed":
        return None if isinstance(said.get("error"), str | None) else "an error that is no text"
    entries = said.get("replicates")
    if not (isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries)):
        return "no replicates"
    known = outcomes()
    for part in (said, *entries):
        if not _is_finite(part.get("seconds")):
            return "no seconds"
        for key, value in part.items():
            if key in known and not _may_be(known[key], value):
                return f"{key}={value}"
    return _wrong_entries(entries, seeds)


def _wrong_entries(entries: list[dict], seeds: range | None) -> str | None:
    if not all(is_integer(entry.get("seed")) and entry.get("status") in OVER for entry in entries):
        return "a replicate without its seed or status"
    found = [entry["seed"] for entry in entries]
    if len(set(found)) < len(found) or (seeds is not None and found != list(seeds)):
        return f"seeds {', '.join(map(str, found))}"
    if any(entry.keys() != entries[0].keys() for entry in entries):
        return "replicates with different outcomes"
    return None


def _may_be(outcome: Outcome, value) -> bool:
    """Whether it is null; true or false; a finite number, and an integer where the outcome is one."""
    if value is None or isinstance(value, bool):
        return value is None or outcome.name in flags()
    return is_integer(value) and abs(value) <= MOST_INTEGER if outcome.whole else _is_finite(value)


def _is_finite(value) -> bool:
    """Of an integer of any size, too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
