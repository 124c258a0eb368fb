"""What a leaderboard says in words: its headings, what each kind of suite asks, and how to read its tables."""

from benchmark.scores.columns import USED
from benchmark.tasks.questions import FurtherTraining, LeaveOneOut, Subsets

HEAD = """# Leaderboard

What would a model's query loss be without one training sample? Each row is an estimator's answer, scored against the truth:
the model is really trained again without every sample, from the same initial parameters on the same batches, the sample's
weight 0. Scores are rank correlations with that truth (1 best); cost is time over that of all this retraining.
Computed by loobench from [results/](results); do not edit. To look closer, open [docs/index.html](docs/index.html).
"""
OWN_HEAD = """# Your results beside the published ones

Rows whose name ends in *(yours)* are your results, which nobody has published. They stand where their scores are, in the table
of rows that lack tasks where they lack one. They have no letter, are never on the front, and move no other row: all others are
as in [leaderboard.md]({home}leaderboard.md). Costs were measured on the machine of who computed a row. Written by `loobench
report`; do not edit. To look closer, open [docs/index.html](docs/index.html).
"""
HEADLINE_TEXT = """## Headline

The {} best estimators of each main suite, and what they score in each whose tasks they all answer, with the letter of their tie
group: rows of one letter cannot be told apart in that suite. Rows of the same suites stand together, by their mean over these,
those of the most suites first; the order of rows of different suites says nothing. cost: the median over the suites shown; 1 is
the price of exact retraining. What is not verified is left out.
"""
CHOICE = """\
What a submission is scored on: a fixed choice of {} tasks of other suites, seeds 0 to {} of each, the same for everybody; its
version rises with any change. The scores by task stand with the suites that the tasks are of.
"""
ABOUT = {
    LeaveOneOut.kind: "",
    Subsets.kind: """\
Truth: training on random subsets, the mean over initial parameters. What an estimate says of a subset is its sum over the
samples that the subset lacks.
""",
    FurtherTraining.kind: """\
Truth: the final model trained further with and without a sample, the mean over orders of batches. Estimators see the final
model alone.
""",
    USED: """\
What effects are used for, each judged by really training again. (oracle): the true effects; (random): random ones.
""",
}
TWINS = """\
Each ReLU task beside its twin with softplus: same data, initial parameters and batches. Means over the seeds that both have,
then over pairs. Ceiling: the exact shift, read off to first order.
"""
RENORMALISED = "Counterfactual: a batch is divided by what is left of it, not by its size.\n"
LACKING = """\
Rows that lack tasks, which are compared with no other. {score}: over the tasks that a row has. best there: the highest {score}
over just these, and of which row: among those that have all tasks and are not the truth itself.
"""
LEGEND = """\
**The score.** tau: Kendall's tau-b against the exact effects at the last horizon, the mean over queries, seeds and tasks, with
its 95 % interval by hierarchical bootstrap over seeds, then queries, on the arcsine's scale, so that it ends within the range
of the score; tasks are not drawn. One seed has no interval.

**Groups.** Rows of one letter are a tie: none is told from the best of them by both a Wilcoxon signed-rank test over seeds and
tasks (Holm's correction, .05) and the paired difference. *behind*: that difference, the best row minus this one. Rows are
compared over the same tasks only. Those that lack a task have no letter, are not on the front and stand in a table of their own
(a method for SGD lacks the tasks of Adam: the scores by task, and the tables of single tasks on the page, compare it where it
answers). What is the truth itself (*exact*) has no letter either.

**Claims.** by: who computed the row. *verified*: sent by its submitter and computed again by the maintainers, whose value comes
first. *unverified*: nobody has computed it again, or the word behind it says how that went; such a row stands below all others,
has no letter, is never the best nor on the front, and moves no other row.

**Cost.** cost: processor time over that of exact leave-one-out on the same machine and thread (rows of loobench before 0.6:
wall time); grad, hvp: counted per-sample gradients and Hessian products over the gradients of exact leave-one-out; MB: most
memory at once beyond what was there before, where measured. *Pareto*: the row is told from chance (the interval of its score is
above 0), and no other row, nor exact retraining (score 1, cost 1), is as accurate and as cheap, and better in one.

**Other columns.** Means over seeds, then tasks. rho: Spearman. RMSE/sd: root mean squared error over the standard deviation of
the exact effects, for methods in units of loss; it has no bound, and so it is the median over cells (a seed of a task each).
J10: overlap of the 5 % most harmful and 5 % most helpful samples. n: seeds. Figures have up to six characters: 2.3e7 is 23
million.

**Marks.** *interpretation*: our reading of a method whose formula is known only second-hand; *unsupported*: the method declares
that it does not answer such a task, or asks for states that a task of the final model does not show; *2 of 28 diverged*: in two
of its 28 cells RMSE/sd is above 100 (to predict the mean gets 1); *not converged*: a solver's residual is above what it
promises; *not counted*: it takes derivatives that its counts leave out; *stale*: computed under another protocol, so that its
numbers may not come out again; other words are failures.
[docs/protocol.md]({home}docs/protocol.md) has all definitions.
"""
LEGENDS = {
    Subsets.kind: """\
**Subsets.** LDS, the linear datamodeling score, is Spearman's rho over subsets, the mean over queries. cost, grad and hvp are
over the training of all subsets.
""",
    FurtherTraining.kind: """\
**Further training.** cos, the cosine between estimate and effects averaged over queries, is the mean over all lengths;
cos first and cos last are at the shortest and the longest. cost, grad and hvp are over the further training.
""",
    USED: """\
**Uses.** AUROC and AP for finding wrong labels by the lowest effects. cleansed: change on the test split without the most
harmful samples, mean over how many; fresh: the same from other starts in other orders; coreset: with the most helpful alone.
Lower is better in these. del: Spearman between sums of effects and the truth of deleting groups, random or clustered.
""",
}
LIMITED = """\
**Limits.** of ceiling: the score that ranks the rows over the ceiling of the same task and seed, both at the last
horizon, from the seeds where the ceiling is known and above 0. For leave-one-out the ceiling is the score of the exact
shift of the parameters read off to first order, from at most 50 of the samples: a method that reads its shift off exactly
can be above 1. For subsets and further training it is what the expectation of the truth would score, from two halves of
its repeats. Limits, in brackets below the tasks' scores, are means over seeds at the last horizon: tau with another start
or order says how well the effects in another run agree with these; kinks, how often runs without a sample cross a kink of
ReLU; noise, the error of training anew over the standard deviation of the effects.
"""
CITE = """\
## How to cite

`loobench cite` gives the entry of the benchmark, `loobench cite SUITE/ESTIMATOR` that of a row, with protocol, digest and
commit, so that readers can tell whether the row has changed since. A row's address is `docs/index.html#SUITE/ESTIMATOR`.
"""
SUBMIT = """## How to submit

One file with one function: [CONTRIBUTING.md](CONTRIBUTING.md).
"""
