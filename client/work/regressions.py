"""The regressions that a model over a prior is compared with: the prior that came without its network, which is the
federation's pooled one, and the site's own. A simulation scores the same (`simulations.baselines`)."""

from dataclasses import replace

from agi_core import evaluation
from agi_core.errors import ProtocolError
from agi_core.metric_table import METRIC_NAMES, PERSONAL_METRIC_NAMES
from agi_core.protocol import Reply
from agi_core.ridge import Vector, solve_own
from agi_core.run import progress
from agi_core.voxel_regression import AlignedRegression
from client.work.evaluation import means_of_all, personal_means, score_everybody, told_tests
from client.work.job import Job


def tell_regressions(job: Job) -> Reply:
    """The figures of the prior that came on the test subjects; as `personal_` figures those of the site's own.

    In private training all are held back: tests of several predictors would tell of single subjects, and the site's own
    prior would be solved without noise.

    Raises:
        ProtocolError: the model has no prior. PolicyError, DataError, RunError: see `client.site.told`.
    """
    common = _prior_of(job)
    if job.private:
        job.held_back.extend((*METRIC_NAMES, *PERSONAL_METRIC_NAMES))
        return job.reply(num_examples=0, metrics={})
    own = solve_own([*job.scans.prior_statistics.values()], towards=common)
    whole, on_session = told_tests(job), progress.steps_of("test", job.site.site)
    pooled_scores, own_scores = (
        evaluation.evaluate(AlignedRegression(job.network, prior), whole, on_session=on_session)
        for prior in (common, own)
    )
    metrics = means_of_all(job, pooled_scores) | personal_means(job, own_scores)
    return job.reply(num_examples=len(pooled_scores), metrics=metrics)


def tell_regression_of_all(job: Job) -> Reply:
    """The figures of the prior that came on all subjects, at a site that does not train.

    Raises:
        ProtocolError: the model has no prior. PolicyError: see `client.work.evaluation.score_everybody`.
    """
    reply = score_everybody(job, AlignedRegression(job.network, _prior_of(job)))
    return replace(reply, metrics={name: value for name, value in reply.metrics.items() if name in METRIC_NAMES})


def _prior_of(job: Job) -> Vector:
    if (prior := job.network.prior) is None:
        raise ProtocolError("a request asks for regressions, and its model has no prior")
    return prior
