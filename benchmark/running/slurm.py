"""The workers of one truth as an array of SLURM jobs, which the library submitit submits."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmark.base.errors import LoobenchError

LONGEST = 24 * 60  # minutes of a job, where nothing else is said


def submitted(command: Sequence[str], workers: int, folder: Path, settings: Iterable[str] = ()) -> list[str]:
    """Submit a command once for each worker, with its ``--part``, as one array; the numbers of the jobs.

    `settings` are ``NAME=VALUE``, as submitit's `update_parameters` takes them: ``timeout_min=60``, ``gpus_per_node=1``,
    ``slurm_partition=gpu``; with ``cluster=local``, jobs are processes of this machine. Logs go to `folder`.
    Raises LoobenchError without submitit, without SLURM, and for settings that it does not take.
    """
    if workers < 1:
        raise LoobenchError(f"--slurm takes a number of workers, 1 or more, got {workers}")
    given = _settings(settings)
    cluster = str(given.pop("cluster", "slurm"))
    try:
        from submitit import AutoExecutor
        from submitit.helpers import CommandFunction
    except ImportError as error:
        raise LoobenchError(
            "--slurm needs submitit, which is not installed here: pip install 'loobench[slurm]', or submit an array with "
            "--part by a script, as docs/workers.md has it"
        ) from error
    calls = [CommandFunction([*command, "--part", f"{number}/{workers}"]) for number in range(1, workers + 1)]
    try:
        return _submitted(AutoExecutor(folder=folder, cluster=cluster), calls, given)
    except Exception as error:  # submitit raises whatever kind
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise LoobenchError(
            f"submitit cannot submit to {cluster} here: {what}; mend --slurm-set, or see docs/workers.md"
        ) from error


def _submitted(executor: Any, calls: Sequence[Any], given: dict[str, Any]) -> list[str]:
    executor.update_parameters(**{"name": "loobench", "timeout_min": LONGEST, **given})
    with executor.batch():
        jobs = [executor.submit(call) for call in calls]
    return [str(job.job_id) for job in jobs]


def _settings(settings: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name.isidentifier() and equals):
            raise LoobenchError(f"--slurm-set takes NAME=VALUE, as in slurm_partition=gpu, got {setting!r:.60}")
        found[name] = int(value) if value.isdecimal() else value
    return found
