"""Estimators called over a Ray cluster: a run is sent once for each case, questions to it come back answered, as bytes."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmark.base import machine
from benchmark.base.errors import Failure, LoobenchError, tell
from benchmark.base.files import digest, pack, unpack
from benchmark.base.means import Means
from benchmark.core.calculus import Count
from benchmark.core.declaration import Estimator
from benchmark.retraining.chunks import FREE
from benchmark.running import cluster
from benchmark.running.cell import Answer, Answers, Case, Question, Setup, asked, elsewhere
from benchmark.running.cluster import Cluster, Here
from benchmark.running.evaluate import Estimate
from benchmark.sandbox import carried
from benchmark.tasks.definition import AnyTask
from benchmark.truths import truth
from benchmark.truths.counterfactuals import design

Asked = tuple[Case, Estimator]


# ---- here ------------------------------------------------------------------------------------------------------------
def spread(nodes: Cluster, setup: Setup) -> Answers:
    """Answers of a cluster, whose nodes are asked all questions at once; one whose node died is asked elsewhere.

    Raises what `Cluster.done` raises, where a question fails in another way than by its estimator's fault.
    """
    clocks = Clocks(nodes, setup)

    def answers(questions: Iterable[Asked]) -> Iterator[tuple[int, Case, Answer]]:
        cases: list[Case] = []
        for number, content in nodes.done(call, _sent(nodes, setup, questions, cases)):
            answer, facts = _answer(content)
            yield number, clocks.case(cases[number], facts), answer

    return answers


def _sent(nodes: Cluster, setup: Setup, questions: Iterable[Asked], cases: list[Case]) -> Iterator[tuple[Any, ...]]:
    """The arguments of the call for each question, whose case is noted."""
    for case, estimator in questions:
        cases.append(case)
        question, made = case.question, (setup.command, setup.device, case.task.dtype)
        about = question.seed, question.everyone, question.gradients
        held, name = nodes.given(question.run, whole=True)
        yield cluster.here(), held, name, carried.encode(estimator), about, setup.means.memory, made


def _answer(content: bytes) -> tuple[Answer, dict[str, Any]]:
    """An answer, whose traceback is shown where it is a failure, and the facts of the machine that gave it."""
    tensors, facts = unpack(content, "an answer from the cluster")
    if "failure" in facts:
        failure = Failure(*facts["failure"])
        tell(failure.traceback)
        return failure, facts
    found = Estimate(tensors["effect"], facts["seconds"], Count(**facts["count"]), facts["memory"])
    return (found, (tensors["numbers"], tensors["own"]) if "own" in tensors else None), facts


@dataclass(frozen=True, eq=False)
class Clocks:
    """The times of exact retraining on the machines of a cluster, each taken once for a task and seed."""

    nodes: Cluster
    setup: Setup
    known: dict[tuple[str, int, str], float] = field(default_factory=dict)  # by task, seed and machine

    def case(self, case: Case, facts: dict[str, Any]) -> Case:
        """The case as it stands for an answer with such facts."""
        return elsewhere(self.setup, case, facts["provenance"], self._seconds(case, facts["machine"], facts["node"]))

    def _seconds(self, case: Case, where: str, node: str) -> float:
        if where == case.exact.machine:
            return case.exact.seconds
        place = case.task.digest(), case.seed, where
        if place not in self.known:
            self.known[place] = self._timed(case.task, case.seed, where, node)
        return self.known[place]

    def _timed(self, task: AnyTask, seed: int, where: str, node: str) -> float:
        """Seconds of the truth on a node: those of one chunk, scaled to all by sample visits."""
        means = self.setup.means
        run = truth.begun(task, seed, self.setup.cache, self.setup.device, means, shared=False).run
        question = design(task, run, seed)
        problem = question.problems[0]
        _, parts = truth.parted(problem, question.keep, means)
        mask = pack({"keep": question.keep[parts[len(parts) // 2].to(question.keep.device)]}, {})
        given = self.nodes.given(truth.run_of(problem, run, means))
        spent = unpack(self.nodes.on(node, clock, cluster.here(), *given, mask, self.setup.device), "a time")[1]
        if spent["machine"] != where:
            raise LoobenchError("the node that answered is another machine by now: what was done is kept, repeat the command")
        each: float = spent["seconds"] / spent["visits"]
        return each * truth.trained_in(question, means)


# ---- on a node -------------------------------------------------------------------------------------------------------
_known: dict[str, Estimator] = {}  # by the digest of what was sent
_warm: set[str] = set()  # names of those that this process has called
About = tuple[int, bool, int | None]  # of a question: its seed, whether all samples are charged, gradients of the truth


def call(
    driver: Here, held: list[Any], name: str, sent: bytes, about: About, memory: int | None, made: tuple[str, str, str]
) -> bytes:
    """What an estimator answers to a run that is held, as bytes with time, machine and provenance; or how it failed."""
    with _named(), machine.one_thread():
        device = made[1]
        run, estimator = cluster.run_of(driver, held, name, device), _estimator(sent)
        answer = asked(Question(run, *about), estimator, device, Means(memory), _warm)
        node = cluster.node()
        facts = {"machine": machine.timed_on(device), "node": node, "provenance": machine.provenance(*made)}
        return _packed(answer, facts)


def clock(driver: Here, held: list[Any], name: str, mask: bytes, device: str) -> bytes:
    """A chunk of a truth as `cluster.chunk` trains it, after a step that does not count."""
    with machine.one_thread():
        truth.warm_up(cluster.run_of(driver, held, name, device), FREE)
    return cluster.chunk(driver, held, name, mask, device)


def _packed(answer: Answer, facts: dict[str, Any]) -> bytes:
    if isinstance(answer, Failure):
        return pack({}, {**facts, "failure": [answer.status, str(answer), answer.traceback]})
    found, own = answer
    tensors = {"effect": found.effect, **({"numbers": own[0], "own": own[1]} if own else {})}
    return pack(tensors, {**facts, "seconds": found.seconds, "count": asdict(found.count), "memory": found.memory})


def _estimator(sent: bytes) -> Estimator:
    if (key := digest(sent)) not in _known:
        _known[key] = carried.decode(sent)
    return _known[key]


@contextmanager
def _named() -> Iterator[None]:
    """Let errors of the block say which node they are of."""
    try:
        yield
    except LoobenchError as error:
        raise LoobenchError(f"node {socket.gethostname()}: {error}") from error
