"""What stands beside runs.csv so that others can judge it and go on: configurations.json and claims.json."""

import json
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import yaml
from omegaconf import OmegaConf

from normbench.analysis.evidence import counted
from normbench.config.files import conf_dir, study_file
from normbench.records.files import write_whole

CONFIGURATIONS, CLAIMS = "configurations.json", "claims.json"


def configurations(of: Mapping[str, dict]) -> dict:
    """What all runs have in common, and what each has beside that. of: run_id → dotted key → value.

    A key that most runs have at one value, and the others lack, is none that is common.
    """
    counts = Counter((key, json.dumps(value)) for leaves in of.values() for key, value in leaves.items())
    common = {key: json.loads(value) for (key, value), number in counts.items() if number == len(of)}
    own = {name: {key: value for key, value in leaves.items() if key not in common} for name, leaves in of.items()}
    return {"common": common, "runs": own}


def fixed_claims(study: str, runs: pd.DataFrame) -> dict | None:
    """Claim → whether git shows that it was fixed before the runs, and its text as it stands; None without a checkout.

    It was where the study's file, or that of its former name, has it, word for word, at the commit of every row that
    counts, none of them with uncommitted changes: true. Where git lacks a commit, or a row names none, nobody can say:
    null.
    """
    file = OmegaConf.to_container(study_file(study))
    entries, over, place = file.get("claims") or [], counted(runs), conf_dir() / "experiment"
    commits = over["commit"].dropna().astype(str).unique().tolist()
    told = _at_commits(place, [f"{name}.yaml" for name in (study, file.get("formerly")) if name], commits)
    if told is None:
        return None
    dirty = over["dirty"].map(str).eq("True").any()
    answers = [told[commit] for commit in commits] + [None] * bool(over["commit"].isna().any())

    def fixed(entry) -> bool | None:
        had = [None if claims is None else entry in claims for claims in answers]
        if dirty or False in had:
            return False
        return None if None in had or not had else True

    return {entry["name"]: {"fixed": fixed(entry), "text": entry} for entry in entries}


def _at_commits(place: Path, names: list[str], commits: list[str]) -> dict[str, list | None] | None:
    """Commit → the claims of a file as they stood there, None for a commit that git lacks.

    names: of the file, the present one first; a commit counts by the first that it has. One call of git for them all.
    None where the folder is in no checkout.
    """
    prefix = _git(place, "rev-parse", "--show-prefix")
    if prefix is None:
        return None
    paths = [f":{prefix.decode().strip()}{name}" for name in names]
    asked = "".join(f"{commit}{path}\n" for commit in commits for path in ("", *paths))
    answer, found = _git(place, "cat-file", "--batch", given=asked.encode()) or b"", []
    while answer:
        head, _, answer = answer.partition(b"\n")
        size = None if head.endswith(b"missing") else int(head.split()[-1])
        found.append(None if size is None else answer[:size])
        answer = answer if size is None else answer[size + 1 :]
    each = 1 + len(names)
    if len(found) != each * len(commits):
        return dict.fromkeys(commits)
    told = {}
    for commit, at in zip(commits, range(0, len(found), each), strict=True):
        there, *files = found[at : at + each]
        told[commit] = None if there is None else _claims(next((file for file in files if file is not None), None))
    return told


def _claims(file: bytes | None) -> list:
    """Those of a study's file; none where there is no file, or none that can be read."""
    try:
        return (yaml.safe_load(file or b"") or {}).get("claims") or []
    except (yaml.YAMLError, AttributeError):
        return []


def _git(place: Path, *arguments: str, given: bytes | None = None) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", place, *arguments], input=given, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def write_json(value, path: Path) -> None:
    """Sorted, indented: the same bytes for the same value. Raises UserError."""
    write_whole(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
