"""How the models of a report were trained, in words: what a step looks at, its loss, and what a site makes its own."""

from agi_core.config.schema import DEPLOYMENT, RunConfig, Task
from agi_core.keys import FINE_TUNED, rounds_alone
from agi_core.privacy.trainable import PARTS
from agi_core.report.markup import plural
from agi_core.run.initial_weights import is_public, weights_file

ALONE_ELSEWHERE = "the mean over the models that the training sites trained alone"
_SIZES = {"translation": "voxels", "rotation": "degrees", "scale": "times its size", "elastic": "mm RMS"}
_ITS_OWN = {
    "norms": "norms, biases, first and last convolution of its own",
    "finetune": "a model fine-tuned on its own subjects",
}


def each_step(task: Task) -> str:
    """What one step of training at a site looks at."""
    if not task.privacy.on:
        return plural(task.training.batch_size, "crop")
    privacy = task.privacy
    crops = plural(privacy.slices_per_subject, "crop")
    return f"random lots of {privacy.lot_rate:.0%} of the subjects, each with {crops}"


def optimiser(task: Task) -> str:
    """Which weights the steps change, and how fast."""
    if not task.privacy.on:
        return f"AdamW, peak learning rate {task.training.learning_rate:g}"
    privacy = task.privacy
    return (
        f"private AdamW on the {PARTS[privacy.trainable]}: each subject's gradient is clipped to norm"
        f" {privacy.max_grad_norm:g} and noise is added; peak learning rate {privacy.learning_rate:g}"
    )


def loss(task: Task) -> str:
    """The loss of a step."""
    training = task.training
    told = "L1" + (f" + {training.ssim_weight:g} (1 - SSIM)" if training.ssim_weight else "")
    if training.proximal:  # refused in private training
        told += f" + {training.proximal:g} / 2 |w - w0|^2 (FedProx)"
    return told + (" + adversarial (pix2pix)" if training.adversarial else "")


def moved(task: Task) -> str:
    """Which source is moved in training; "" for none."""
    misalign = task.training.misalign
    if misalign.source is None:
        return ""
    return f"{misalign.source}, {misalign.kind} of up to {misalign.size:g} {_SIZES[misalign.kind]} in each crop"


def held_back(anatomy: str | None) -> str:
    """Who is tested in a run with `data.unseen_anatomy`; "" in any other."""
    if anatomy is None:
        return ""
    return (
        f"Held back for the test: the anatomy {anatomy}, on which nobody trained or validated in this run."
        " A site with few such subjects is tested on others too."
    )


def start(config: RunConfig) -> str:
    """The weights before the first round."""
    path = weights_file(config)
    if path is None:
        return "random"
    return f"pre-trained on public synthetic data ({path.name})" if is_public(path) else f"of the file {path.name}"


def server_step(config: RunConfig) -> str:
    """How the server makes the next weights of those that come back."""
    federation = config.federation
    rate = f"learning rate {federation.server_learning_rate:g}"
    if federation.server_optimizer == "adam":
        how = f", FedAdam with {rate}"
    elif federation.server_momentum:
        how = f", momentum {federation.server_momentum:g} and {rate}"
    else:
        how = "" if federation.server_learning_rate == 1 else f", {rate}"
    return federation.aggregation.replace("_", " ") + " of the sites' weights" + how


def its_own(task: Task) -> str:
    """What a site has of its own in a run that lets each have something: "With ... each site has"."""
    return _ITS_OWN.get(task.personal, "a last layer of its own")


def personal_model(task: Task) -> str:
    """What the model is that a site has made its own."""
    if part := FINE_TUNED.get(task.personal):
        return (
            f"the common model after one more round of the {PARTS[part]} on the site's own training subjects, with a"
            " last layer solved on them"
        )
    return "the common model with a last layer that the site solved on its own training subjects"


def how_trained(config: RunConfig) -> dict[str, str]:
    """{method of a comparison: how its model was made}."""
    n, batch = len(config.federation.sites), config.training.batch_size
    rounds, steps = config.rounds, config.training.local_steps
    trained = f"{plural(rounds, 'round')} of {plural(steps, 'local step')}"
    private = ", without privacy" if config.privacy.on else ""
    deployed = config.engine == DEPLOYMENT
    pooled = "which is the federation's prior" if deployed else "solved from all training subjects alike, without noise"
    unseen = "" if deployed else " and on the unseen sites' (mean over the models)"
    looks_at = each_step(config) if config.privacy.on else f"batch {batch}"
    return {
        "federated": f"{trained} at each site, {looks_at}; scans stay at their sites",
        "personal": personal_model(config),
        "initial_weights": f"the weights that the run started from, {start(config)}, before its first round",
        "voxel_regression": "one cubic polynomial of the sources at each voxel, fitted once on the pooled scans",
        "regression_pooled": f"one cubic polynomial of the aligned sources at each voxel, {pooled}",
        "regression_per_site": "the same of each site's own scans, shrunk to the pooled one",
        "public_own_last_layer": "the public initial weights, and a last layer that each site solved; no epsilon",
        "local_only": f"one model per site{private}, {_budget(rounds_alone(config), steps)} on its own scans,"
        f" batch {batch}; scored on its own test subjects{unseen}",
        "centralised": f"one model{private}, {_budget(rounds, steps)} on the pooled training scans, batch {n} x {batch}"
        f" = {n * batch}",
        "without_privacy": "the same federation from the same weights: all of them trained, nothing clipped, no noise,"
        " as many crops in a round",
    }


def _budget(rounds: int, steps: int) -> str:
    return f"{rounds} x {steps} = {plural(rounds * steps, 'step')}"
