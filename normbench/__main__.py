"""`python -m normbench [-m] key=value …`: overrides in, runs out."""

import io
import os
import shlex
import signal
import sys
from contextlib import nullcontext, redirect_stderr, suppress

from normbench.errors import UserError
from normbench.processes import check_launched, first
from normbench.terminal import any_terminal


def main() -> int:
    """Run what the command line says. Exit status: 0 done, 1 a run failed, 2 a mistake in the input, 128+n signal n."""
    command = sys.argv[1:]
    os.environ.setdefault("NORMBENCH_COMMAND", shlex.join(["python", "-m", "normbench", *command]))
    placed = False  # whether torchrun's variables are known to say which process speaks
    try:
        with any_terminal():
            check_launched()
            placed = True
            return _main(command)
    except UserError as error:
        if not placed or first():
            print(f"normbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the first run; a run under way writes its checkpoint first
        return 130


def _main(command: list[str]) -> int:
    if command[:1] == ["power"]:
        from normbench.cli import power

        return power(command[1:])
    from hydra.errors import HydraException

    from normbench.cli import help_text, parse_flags
    from normbench.config.overrides import check_hydras, check_once, is_search, normalize, plan

    arguments = parse_flags(command)
    if arguments.help:
        print(help_text())
        return 0
    check_once(arguments.overrides)
    if is_search(arguments.overrides):
        return _search(arguments)
    overrides = normalize(arguments.overrides)
    flags = [word for word in command if word not in arguments.overrides]
    if arguments.hydra_help or arguments.shell_completion:
        _hydra(flags + overrides, lambda config: None)
        return 0

    jobs, multirun, for_hydra = plan(overrides, arguments.multirun)
    if arguments.cfg or arguments.info:
        try:
            with redirect_stderr(io.StringIO()) if arguments.package else nullcontext():
                _hydra(flags + overrides, lambda config: None)
        except HydraException as error:
            raise UserError(" ".join(str(error).split())) from None
        except SystemExit:  # Hydra's own word for it is not ours
            raise UserError(f"--package={arguments.package}: no section of the configuration") from None
        return 0

    check_hydras(for_hydra, multirun)
    from normbench.runs.forced import forced, since
    from normbench.runs.halving import Halving, rungs_of
    from normbench.runs.planned import at_work, check_networks, looks_of
    from normbench.runs.report import print_plan, print_run, print_sweep, print_to_come
    from normbench.runs.sweep import prepared, run_alone, run_sweep
    from normbench.signals import Stopped

    looks, rungs = (looks_of(jobs), rungs_of(jobs)) if multirun else ((), ())
    runs, reuse = prepared(jobs)
    halving = Halving(runs, rungs, reuse) if rungs else None
    planned = at_work(runs)
    check_networks(planned, since(planned))  # every mistake of a sweep shows before its first run
    sweep = [(planned, runs)]
    if looks:
        from normbench.runs.stages import stages  # with scipy, which takes its time to load

        sweep = stages(runs, looks, reuse)
    if halving:
        sweep = halving.stages()
    try:
        if arguments.dry_run:
            from normbench.runs.estimate import estimates

            for _, so_far in sweep if multirun else ():
                runs = so_far
            reused = sum(len(run.reused or ()) for run in runs)
            print_plan(at_work(runs), estimates(at_work(runs)), reused, since(planned))
            for rung, to_come in enumerate(halving.to_come() if halving else (), 2):
                print_to_come(rung, to_come, estimates(to_come))
            return 0
        with forced(planned) as began:
            if not multirun:
                [run] = runs
                print_run(run_alone(run, began), run.config, [part.directory.path for part in run.work()])
                return 0
            for todo, so_far in sweep:
                runs = so_far
                run_sweep(todo, for_hydra, began)
        return print_sweep(runs)
    except (Stopped, KeyboardInterrupt) as error:
        return _stopped(error)


def _stopped(error: BaseException) -> int:
    """Say what stopped the command, and how it goes on. Returns the exit status."""
    from normbench.signals import Stopped

    stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
    with suppress(OSError):  # of a terminal that was closed
        if isinstance(stopped.__cause__, UserError) and first():  # met while it was stopping
            print(f"normbench: {stopped.__cause__}", file=sys.stderr)
        if first():
            print(f"normbench: stopped by {stopped}; to go on: {os.environ['NORMBENCH_COMMAND']}", file=sys.stderr)
    return stopped.exit_status


def _search(arguments) -> int:
    """Let a sweeper of Hydra's choose the runs, by the validation accuracy of those before."""
    from normbench.config.overrides import normalize_search, plan
    from normbench.runs.planned import runs_of
    from normbench.runs.search import MAXIMIZE, NOTHING, begin, objective, print_best
    from normbench.signals import Stopped

    if not arguments.multirun:
        raise UserError("hydra/sweeper: is for a sweep, and one run would ignore it: add -m")
    if arguments.dry_run:
        raise UserError("--dry-run: the runs of a search follow from one another, and cannot be told beforehand")
    overrides, one = normalize_search(arguments.overrides)
    [run] = runs_of(plan(one, False)[0])
    begin(run)
    try:
        _hydra(["-m", *overrides, MAXIMIZE], objective)
    except (Stopped, KeyboardInterrupt) as error:
        return _stopped(error)
    except ValueError as error:
        if not str(error).startswith(NOTHING):
            raise
        print("normbench: every run of the search failed", file=sys.stderr)
        return 1
    print_best(run.config.output)
    return 0


def _hydra(arguments: list[str], task) -> None:
    """Hand over to Hydra, with its whole traceback for what goes wrong."""
    import hydra

    from normbench.config.files import conf_dir

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv = ["normbench", *arguments]
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()


if __name__ == "__main__":
    sys.exit(main())
