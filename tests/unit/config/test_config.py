import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agi_core.config.load import from_dict, load_config, read_task, read_yaml, task_json, to_yaml
from agi_core.config.schema import RunConfig, Task
from agi_core.errors import ConfigError


def load(*assignments: str, path: Path | None = None, **overrides: object) -> RunConfig:
    return load_config(path, overrides=overrides, assignments=assignments)


def test_later_sources_win(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rounds: 7\nseed: 7\ntraining: {local_steps: 7, batch_size: 7}\n")
    config = load("training.local_steps=9", path=path, rounds=8)
    assert (config.rounds, config.seed, config.training.local_steps, config.training.batch_size) == (8, 7, 9, 7)


def test_a_private_run_takes_few_steps_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("privacy: {epsilon: 8}\n")
    few, usual = 4, RunConfig().training.local_steps
    assert few < usual == load().training.local_steps
    for config in (load("privacy.epsilon=8"), load(path=path), load(**{"privacy.epsilon": 8.0})):
        assert config.training.local_steps == few
    assert load("privacy.epsilon=8", "training.local_steps=7").training.local_steps == 7
    stored = load_config(None, overrides={}, assignments=["privacy.epsilon=8"], base=RunConfig())
    assert stored.training.local_steps == usual  # a run goes on with what it was started with


def test_volumes_are_trained_with_smaller_steps_unless_told_otherwise() -> None:
    usual = RunConfig().training.learning_rate
    assert load().training.learning_rate == usual
    assert load("model.dims=3").training.learning_rate == 1e-3 < usual
    assert load("model.dims=3", "training.learning_rate=0.002").training.learning_rate == 0.002


@pytest.mark.parametrize(
    ("settings", "alignment", "neighbours"),
    [
        ([], "dense", 1),
        (["model.conv=plain"], "dense", 1),
        (["model.neighbours=0"], "dense", 0),
        (["model.alignment=global"], "global", 1),
        (["model.alignment=none"], "none", 0),
        (["training.adversarial=true"], "dense", 0),
        (["model.dims=3"], "affine", 0),
        (["model.dims=3", "model.alignment=none"], "none", 0),
        (["model.dims=3", "data.layout=brats"], "none", 0),
        (["data.layout=brats"], "none", 0),
        (["data.layout=brats", "model.alignment=affine"], "affine", 1),
    ],
)
def test_a_new_run_aligns_its_sources_unless_told_otherwise(
    settings: list[str], alignment: str, neighbours: int
) -> None:
    model = load(*settings).model
    assert (model.alignment, model.neighbours) == (alignment, neighbours)


def test_a_run_goes_on_with_the_alignment_that_it_was_started_with() -> None:
    assert load_config(None, overrides={}, base=RunConfig()).model.alignment == "none"


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = load("grid.spacing_mm=[1,1,5]", "federation.sites=[a,b]", "reference=T2")
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load(path=path) == config


def test_the_task_travels_as_json_without_what_stays_home() -> None:
    config = load("training.local_steps=3", **{"data.dir": "/secret/hospital"})
    text = task_json(config.task)
    assert "secret" not in text
    assert from_dict(Task, json.loads(text)) == config.task


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("training.local_step=3", "local_step"),
        ("training.local_steps=three", "local_steps"),
        ("training.local_steps=0", "local_steps"),
        ("training.local_steps=1000001", "training.local_steps=1000001 must be at most 1000000"),
        ("training.batch_size=200000000", "batch_size"),
        ("training.learning_rate=-1", "learning_rate"),
        ("training.learning_rate=1.1", "learning_rate"),
        ("training.learning_rate=.nan", "learning_rate"),
        ("training.warmup=2", "warmup"),
        ("training.weight_decay=.inf", "weight_decay"),
        ("rounds=0", "rounds"),
        ("rounds=1000001", "rounds"),
        ("training.misalign.source=FLAIR", "no source of T1,T2:PD; choose T1, T2"),
        ("training.misalign.kind=bend", "'translation', 'rotation'"),
        ("training.misalign.kind=rigid", "model.dims=2"),
        ("training.misalign.size=-1", "misalign.size"),
        ("data.register=affine", "'none', 'rigid'"),
        ("grid.crop=[96]", "grid.crop"),
        ("grid.crop=[96,1028]", "grid.crop"),
        ("grid.crop=[90,96]", "multiple of 4"),
        ("grid.crop=[96,96,32]", "two sizes of 16 to 1024 voxels with model.dims=2"),
        ("grid.spacing_mm=[1,1]", "spacing_mm"),
        ("grid.spacing_mm=[1,1,-1]", "spacing_mm"),
        ("scenario=T1,T2", "T1,T2"),
        ("reference=FLAIR", "T1, T2"),
        ("model.conv=fancy", "conv"),
        ("model.groups=5", "groups"),
        ("partition=random", "'site', 'iid'"),
        ("engine=spark", "'processes', 'in-process', 'ray'"),
        ("gpus_per_client=0", "gpus_per_client=0 must be a part of a GPU"),
        ("gpus_per_client=1.5", "gpus_per_client=1.5 must be a part of a GPU"),
        ("data.layout=dicom", "'ixi', 'brats', 'bids'"),
        ("federation.quorum=0", "quorum"),
        ("federation.wait_s=-1", "wait_s"),
        ("federation.retries=-1", "retries"),
        ("privacy.epsilon=0", "privacy.epsilon"),
        ("privacy.epsilon=.nan", "privacy.epsilon"),
        ("privacy.noise_multiplier=1", "set privacy.epsilon too"),
        ("privacy.max_grad_norm=-1", "privacy.max_grad_norm"),
        ("privacy.learning_rate=.inf", "privacy.learning_rate"),
        ("privacy.learning_rate=1.1", "privacy.learning_rate"),
        ("privacy.delta=1", "privacy.delta"),
        ("privacy.lot_rate=0", "privacy.lot_rate"),
        ("privacy.trainable=adapters", "set model.adapters"),
        ("privacy.lot_rate=1.5", "privacy.lot_rate"),
        ("privacy.slices_per_subject=0", "slices_per_subject"),
        ("privacy.slices_per_subject=4611686018427387904", "slices_per_subject"),
        ("federation.server_momentum=1", "server_momentum"),
        ("federation.server_learning_rate=0", "server_learning_rate"),
        ("federation.deadline_s=0", "deadline_s"),
        ("threads=0", "threads=0 must lie between 1 and 1024"),
        ("threads=1025", "threads"),
        ("seed=-1", "seed"),
        ("seed=9223372036854775808", "seed"),
        ("training=4", "setting training: 4 stands where settings of its own are expected, such as training.KEY"),
        ("grid.spacing_mm=[1,1,a]", "setting grid.spacing_mm"),
        ("no-equals-sign", "key=value"),
    ],
)
def test_bad_settings_are_named(assignment: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace("[", r"\[")):
        load(assignment)


def test_private_training_has_no_proximal_term() -> None:
    with pytest.raises(ConfigError, match=r"training\.proximal=0\.1 has no effect in private training; leave it out"):
        load("privacy.epsilon=8", "training.proximal=0.1")


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "bulyan"])
def test_a_secure_sum_has_no_updates_to_compare(rule: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"secure_sum=true shows no single update, and .*aggregation={rule} compares"
    ):
        load("federation.secure_sum=true", f"federation.aggregation={rule}")
    with pytest.raises(
        ConfigError, match=r"secure_sum=true sums 64-bit numbers; leave federation.transport at float32"
    ):
        load("federation.secure_sum=true", "federation.transport=float16")


@pytest.mark.parametrize(
    ("assignments", "crop"),
    [
        ((), (96, 96)),
        (("grid.crop=[64,48]",), (64, 48)),
        (("model.dims=3",), (48, 48, 32)),
        (("model.dims=3", "grid.crop=[64,96]"), (64, 96, 32)),
        (("model.dims=3", "grid.crop=[64,96,20]"), (64, 96, 20)),
    ],
)
def test_crops_follow_the_dimensions(assignments: tuple[str, ...], crop: tuple[int, ...]) -> None:
    assert load(*assignments).crop == crop


def test_a_grace_is_of_a_quorum() -> None:
    assert load("federation.quorum=2", "federation.grace_s=60").federation.grace_s == 60
    for assignments in (["federation.grace_s=60"], ["federation.quorum=2", "federation.grace_s=0"]):
        with pytest.raises(ConfigError, match="grace_s"):
            load(*assignments)
    with pytest.raises(ConfigError, match="whose sums need every reply"):
        load("federation.quorum=3", "federation.grace_s=60", "federation.secure_sum=true")


def test_a_server_with_adam_takes_small_steps_unless_told_otherwise() -> None:
    adam = "federation.server_optimizer=adam"
    assert load().federation.server_learning_rate == 1
    assert load(adam).federation.server_learning_rate == 1e-3
    assert load(adam, "federation.server_learning_rate=0.01").federation.server_learning_rate == 0.01


@pytest.mark.parametrize("crop", ["[48]", "[48,48,8]", "[48,48,32,16]"])
def test_bad_patches_are_named(crop: str) -> None:
    with pytest.raises(ConfigError, match=r"two or three sizes of 16 to 1024 voxels .* for example \[48, 48, 32\]"):
        load("model.dims=3", f"grid.crop={crop}")


def test_config_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load(path=tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("rounds: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load(path=broken)


def test_what_a_run_folder_holds_is_not_guessed_anew(tmp_path: Path) -> None:
    """A setting that the file lacks is of an older release: the schema's default, no preset of a new run."""
    path = tmp_path / "config.yaml"
    path.write_text("rounds: 3\n")
    read = read_yaml(path)
    assert (read.rounds, read.model.alignment) == (3, RunConfig().model.alignment)
    path.write_text("\n")
    with pytest.raises(ConfigError, match=r"config\.yaml is empty; restore it"):
        read_yaml(path)


@pytest.mark.parametrize("name", ["da${ta}", "${data.layout}", "???", "001", "no", "1e3", "a\\${b}"])
def test_folders_are_called_as_the_user_writes_them(name: str) -> None:
    config = load(**{"data.dir": name})
    assert config.data.dir == name
    assert load(f"data.sites={name}").data.sites == name
    assert load_config(None, overrides={}, base=config).data.dir == name


@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "???"])
@pytest.mark.parametrize(
    "place",
    [
        ("scenario",),
        ("reference",),
        ("training", "misalign", "source"),
        ("training", "local_steps"),  # the reply would name so many steps
        ("model", "conv"),
    ],
)
def test_a_request_cannot_look_anything_up(place: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "2")
    values = json.loads(task_json(load().task))
    section = values
    for name in place[:-1]:
        section = section[name]
    section[place[-1]] = text
    with pytest.raises(ConfigError, match=re.escape(text)):
        read_task(json.dumps(values))


TASK = dataclasses.asdict(load().task)


@settings(deadline=None)
@given(st.floats(), st.sampled_from(["learning_rate", "warmup", "weight_decay", "ssim_weight"]))
def test_no_number_slips_through(value: float, name: str) -> None:
    """Whatever is accepted is finite and in range (NaN fails every comparison, so it must be asked for)."""
    values = {**TASK, "training": {**TASK["training"], name: value}}
    try:
        accepted = getattr(from_dict(Task, values).training, name)
    except ConfigError:
        return
    assert 0 <= accepted < float("inf")


@pytest.mark.parametrize(
    ("settings", "personal"),
    [
        ([], "head"),
        (["privacy.epsilon=8"], "head"),
        (["privacy.epsilon=8", "personal=none"], "none"),
        (["privacy.epsilon=8", "model.dims=3"], "none"),
        (["model.prior=none"], "none"),
    ],
)
def test_a_last_layer_of_ones_own_costs_no_epsilon_and_is_the_default(settings: list[str], personal: str) -> None:
    assert load_config(None, overrides={}, assignments=settings).personal == personal


@pytest.mark.parametrize(
    ("offers", "setting"),
    [
        ("T1", "federation.offers"),
        ("[T1,T2]", "federation.offers"),
        ("", "federation.offers"),
        ("{A: T1}", "federation.offers.A"),
        ("{A: [[T1]]}", "federation.offers.A"),
    ],
)
def test_offers_of_another_type_are_told_by_example(offers: str, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides={}, assignments=[f"federation.offers={offers}"])
    said = "needs a list of modalities for each site, for example federation.offers='{SITE: [T1,T2]}'"
    assert str(caught.value).startswith(f"setting {setting}: {said}")


@pytest.mark.parametrize("its", ["0123456789abcdef", "1234567890123456", "12e4567890123456", "0000000000000000"])
def test_a_segmentation_network_is_named_by_its_fingerprint(its: str) -> None:
    assert load(f"evaluation.segmenter={its}").evaluation.segmenter == its


@pytest.mark.parametrize("its", ["net.safetensors", "0123456789ABCDEF", "0123"])
def test_a_segmentation_network_is_not_named_by_its_file(its: str) -> None:
    with pytest.raises(ConfigError, match=r"must be the 16 digits .* takes it as data\.segmenter=FILE"):
        load(f"evaluation.segmenter={its}")


def test_a_private_run_asks_for_no_figures_in_tumours() -> None:
    with pytest.raises(ConfigError, match="which no private run tells"):
        load("evaluation.segmenter=0123456789abcdef", "privacy.epsilon=8")
