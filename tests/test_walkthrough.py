"""A newcomer's way from `loobench new` to a verified row on the board, with the commands of docs/submitting.md alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic

ROOT = Path(__file__).resolve().parents[1]
NAME = "walked-through"


def commands() -> list[str]:
    """The command lines that the page shows."""
    return re.findall(r"^    (loobench .*?)(?: +#.*)?$", (ROOT / "docs/submitting.md").read_text(), re.M)


@pytest.mark.slow
def test_a_newcomer_gets_a_verified_row_with_the_documented_commands(tmp_path: Path, hub: str) -> None:
    place = {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "hf"),
        "LOOBENCH_CACHE": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        **{
            f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "A"), ("EMAIL", "a@b.c"))
        },
    }

    def do(command: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=folder, env={**os.environ, **place}, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    shown = [line.replace("my-estimator", NAME).replace("my_estimator", NAME.replace("-", "_")) for line in commands()]
    new, check, run, submit, verify = shown[:5]
    here = tmp_path / "work"
    here.mkdir()
    do(new, here)
    synthetic.authored(here / f"{NAME.replace('-', '_')}.py")
    assert "all rules are kept" in do(check, here)
    assert "28 cells computed" in do(run, here)
    printed = do(f"{submit} --by 'A Newcomer'", here)
    assert "verified" in do(verify, here)

    fork = tmp_path / "fork"
    do(f"git clone --quiet --shared {ROOT} {fork}", here)
    for command in re.findall(r"^    ((?:git|cp) .*)$", printed, re.M):
        if not command.startswith("git push"):
            do(command.replace("submission/", f"{here}/submission/"), fork)
    do(f"make verify-pr BASE=HEAD~1 BIN={Path(sys.executable).parent} READY=", fork)
    assert "every check holds" in (fork / "verdict.md").read_text()

    place["PYTHONPATH"] = str(fork)
    row = rf"{NAME}\]\(estimators/{NAME.replace('-', '_')}\.py\).*"
    do("loobench report --publish", fork)
    assert re.search(row + "unverified", (fork / "leaderboard.md").read_text())
    do(f"loobench verify results/*/{NAME}.json --write --publish", fork)
    do("loobench report --publish && loobench report --check", fork)
    assert re.search(row + r"verified \d\.\d+ \(claimed \d\.\d+\)", (fork / "leaderboard.md").read_text())
    shutil.rmtree(fork)
