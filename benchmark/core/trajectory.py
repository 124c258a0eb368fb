"""The trajectory of a training run, and how its states are held: all of them, every so many, or the last alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from threading import local
from typing import Any

import torch
from torch import Tensor

from benchmark.base.errors import LoobenchError, Withheld
from benchmark.base.files import stack_digest, tensor_digest
from benchmark.core.problem import Problem, Record, beginning


@dataclass(frozen=True, eq=False)
class Replay(Record):
    """States (T + 1, S, P) of a run, kept every so many steps: those between are computed again when asked for, bit for bit.

    About ``T/every + every`` states are held at a time, by each thread that reads them, fewest where `every` is sqrt(T). Each
    pass over all of them, forward or backward, costs one more training run. It is indexed by a step, by a step and more, or up
    to one, ``[:n]``.
    """

    problem: Problem
    kept: Tensor  # (C, S, P), before steps 0, every, 2 every ...
    every: int
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_held", local())  # of each thread, the states from one that is kept to the next

    @property
    def shape(self) -> torch.Size:
        """(T + 1, S, P)"""
        return torch.Size((self.steps + 1, *self.kept.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes held, the states between two that are kept included."""
        return self.kept.nbytes + self.kept[0].nbytes * self.every

    def __len__(self) -> int:
        return self.steps + 1

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            if at.start or at.step:
                raise LoobenchError(
                    "states that are replayed are read by step, or up to one: take run.params(t) or run.whole()"
                )
            steps = range(self.steps + 1)[at][-1]
            return self.until(steps, self.problem.until(steps))
        t, *rest = at if isinstance(at, tuple) else (at,)
        return self._state(range(self.steps + 1)[t]).clone()[tuple(rest)]

    def until(self, steps: int, problem: Problem) -> "Replay":
        """The first `steps` steps, of the problem that ends with them."""
        return Replay(problem, beginning(self.kept, steps // self.every + 1), self.every, steps)

    def _state(self, t: int) -> Tensor:
        if t % self.every == 0:  # kept, perhaps by a machine on which the steps before it do not lead to its last bits
            return self.kept[t // self.every]
        start, states = getattr(self._held, "between", (0, []))  # type: ignore[attr-defined]
        if not start <= t < start + len(states):
            self._held.between = 0, []  # type: ignore[attr-defined]  # the old ones go before the new ones come
            start = t - t % self.every
            states = [self.kept[start // self.every]]
            for step in range(start, min(start + self.every, self.problem.steps)):
                states.append(self.problem.stepped(step, states[-1], self.problem.weights(step)))
            self._held.between = start, states  # type: ignore[attr-defined]
        found: Tensor = states[t - start]
        return found


@dataclass(frozen=True, eq=False)
class FinalState(Record):
    """States (T + 1, S, P) of a run of which only the last is shown: to ask for another raises Withheld, and is noted."""

    last: Tensor  # (S, P)
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_asked", [])  # of this record alone: a copy begins with none

    @property
    def refused(self) -> bool:
        """Whether a state that is not shown was asked for."""
        return bool(self._asked)  # type: ignore[attr-defined]

    @property
    def shape(self) -> torch.Size:
        """(T + 1, S, P)"""
        return torch.Size((self.steps + 1, *self.last.shape))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.last.nbytes)

    def __len__(self) -> int:
        return self.steps + 1

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice) and range(self.steps + 1)[at] == range(self.steps + 1):
            return self
        first, *rest = at if isinstance(at, tuple) else (at,)
        if not isinstance(first, int) or range(self.steps + 1)[first] != self.steps:
            self._asked.append(at)  # type: ignore[attr-defined]
            raise Withheld("this task shows the final model alone, not the states before it")
        return self.last.clone()[tuple(rest)]


def between(steps: int) -> int:
    """Steps between the states that are kept of a run of so many steps, where not all are: about sqrt(T)."""
    every: int = ceil(steps**0.5)
    return every


def replayed(problem: Problem, kept: Tensor, every: int) -> "Trajectory":
    """A run of which every so many states (C, S, P) are kept, from the first on."""
    states: Any = kept if every == 1 else Replay(problem, kept, every, problem.steps)
    return Trajectory(problem, states)


@dataclass(frozen=True, eq=False)
class Trajectory(Record):
    """The reference run: all that an estimator may look at.

    A state (S, P) is what the optimiser goes on from. Its row 0 holds the parameters. The rows after it hold the moments: none
    for SGD (S = 1), the velocity for momentum (S = 2), the first and the second moment for Adam and AdamW (S = 3). Where memory
    is short, some states are not kept but computed again when they are read.
    """

    problem: Problem  # what was trained: model, optimiser, samples, batches
    states: Tensor  # (T + 1, S, P), before each step and after the last; read it by step, `states[t]` or `states[t, 0]`
    key: str = ""  # of random numbers, where the initial parameters are not shown

    def params(self, t: int) -> Tensor:
        """Parameters (P,) before step t; at t = T the final ones."""
        return self.states[t, 0]

    @property
    def final(self) -> Tensor:
        """Parameters (P,) after the last step."""
        return self.params(self.problem.steps)

    @property
    def final_alone(self) -> bool:
        """Whether no state but the last is shown."""
        return isinstance(self.states, FinalState)

    @property
    def refused(self) -> bool:
        """Whether a state that is not shown was asked for, of this record or a cut of it, not of a copy."""
        return self.final_alone and self.states.refused  # type: ignore[attr-defined]

    def until(self, steps: int) -> "Trajectory":
        """The run cut after `steps` steps: what a run with that one horizon would have been, and nothing of what came after."""
        problem, states = self.problem.until(steps), self.states
        begun: Any = states.until(steps, problem) if isinstance(states, Replay) else beginning(states, steps + 1)
        return replace(self, problem=problem, states=begun)

    def at_horizons(self) -> Iterator["Trajectory"]:
        """The run cut at each of its horizons."""
        return map(self.until, self.problem.horizons)

    def segments(self, count: int) -> list[range]:
        """The T steps in `count` stretches of nearly equal length, T of them where there are fewer steps."""
        steps, count = self.problem.steps, min(count, self.problem.steps)
        cuts = [steps * k // count for k in range(count + 1)]
        return [range(*ends) for ends in pairwise(cuts)]

    def final_only(self) -> "Trajectory":
        """The run with no state but the last to be seen, nor what the others could be computed from.

        The problem's initial parameters are the final ones, and its batches go through the samples by number. Random numbers
        stay those of the whole run: the last bits of final parameters are not the same on every processor.
        """
        last = self.states[self.problem.steps].clone()
        hidden: Any = FinalState(last, self.problem.steps)
        samples, size = len(self.problem.train), self.problem.batches.shape[1]
        epoch = -(-samples // size)
        rows = torch.arange(epoch * size, device=self.final.device)
        once = torch.where(rows < samples, rows, -1).view(epoch, size)
        problem = replace(self.problem, initial=last[0].clone(), batches=once[torch.arange(self.problem.steps) % epoch])
        return replace(self, problem=problem, states=hidden, key=self._key())

    def query_gradients(self) -> Tensor:
        """Gradients (Q, P) of the query losses at the final parameters."""
        return self.problem.query_gradients(self.final)

    def random(self) -> torch.Generator:
        """A fresh generator on the CPU for the estimator's own random numbers, keyed by the initial parameters."""
        return torch.Generator().manual_seed(int(self._key()[:15], 16))

    def _key(self) -> str:
        return self.key or tensor_digest([self.problem.initial])

    def whole(self) -> Tensor:
        """All states (T + 1, S, P) as one tensor."""
        return torch.stack([self.states[t] for t in range(self.problem.steps + 1)])

    def digest(self) -> str:
        """Content digest of the states, as of one tensor."""
        return stack_digest((self.states[t] for t in range(self.problem.steps + 1)), self.problem.steps + 1)
