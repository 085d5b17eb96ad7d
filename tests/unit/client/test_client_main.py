"""What a hospital engineer types, from `--init` to Ctrl-C."""

import io
import re
import stat
import sys
from pathlib import Path

import pytest
from torch import nn

from agi_core.config.load import load_config
from agi_core.errors import PolicyError
from agi_core.host.keys import fingerprint
from agi_core.layouts import LAYOUTS
from agi_core.signatures import public_line
from client.__main__ import main
from client.border import consent
from client.process.lock import only_client
from client.site.file import read_deployed_site
from client.site.keys import public_key
from client.site.policy import check_task
from tests.support.requests_by_hand import KEY, small_task, training_request
from tests.support.small_data import write_ixi


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def init(*options: str) -> Path:
    assert main(["--site", "hospitalA", "--init", *options]) == 0
    return Path("sites/hospitalA.yaml")


def test_init_writes_a_site_file_that_can_be_read_and_says_what_to_send(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = tmp_path / 'my "scans": #1'
    (tmp_path / "coordinator.pub").write_text(f"{public_line(KEY)} coordinator\n")
    address = ("--coordinator", "agi.example.org:443", "--ca", "pki/ca.crt", "--coordinator-key", "coordinator.pub")
    path = init("--data", str(scans), "--layout", "bids", *address)
    site = read_deployed_site(path)
    assert (site.site, site.data.dir, site.data.layout) == ("hospitalA", str(scans), "bids")
    assert f"one of: {', '.join(LAYOUTS)}\n" in path.read_text()
    assert site.coordinator.address == "agi.example.org:443"
    assert site.coordinator.ca_file == str(tmp_path / "pki" / "ca.crt")
    assert site.coordinator.public_key == f"{public_line(KEY)} coordinator"
    key_path = Path(site.key_file)
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_path.resolve().parent.stat().st_mode) == 0o700
    out = capsys.readouterr().out
    assert public_key(key_path) in out
    assert fingerprint(public_key(key_path)) in out
    assert f"coordinator.pub {fingerprint(public_line(KEY))}\n" in out
    assert "--site hospitalA --check" in out
    assert "fill in" not in out


@pytest.mark.parametrize("settings", [(), ("model.dims=3",), ("privacy.epsilon=8",), ("grid.spacing_mm=[1.5,1.75,5]",)])
def test_a_new_site_allows_what_a_new_run_asks(settings: tuple[str, ...]) -> None:
    config = load_config(None, overrides={"reference": "T1"}, assignments=settings)
    check_task(config.task, read_deployed_site(init()).policy)


@pytest.mark.parametrize(
    "setting",
    [
        "grid.spacing_mm=[2.001,2.001,2.001]",  # each would fill a cache of its own
        "grid.spacing_mm=[0.3,0.3,0.3]",
        "training.batch_size=4096",
        "training.local_steps=100000",
        "training.learning_rate=1",
        "privacy.slices_per_subject=4096",
        "model.widths=[1024,1024]",
        "evaluation.validation_slices=100000000",
        "rounds=1000000",
    ],
)
def test_a_new_site_has_upper_bounds(setting: str) -> None:
    task = load_config(None, overrides={"reference": "T1"}, assignments=[setting]).task
    with pytest.raises(PolicyError, match=f"policy.settings.{setting.partition('=')[0]}: the request asks for"):
        check_task(task, read_deployed_site(init()).policy)


@pytest.mark.parametrize("site", ["001", "0012", "no", "1e3"])
def test_a_site_is_called_as_it_was_named(site: str) -> None:
    assert main(["--site", site, "--init"]) == 0
    assert read_deployed_site(Path(f"sites/{site}.yaml")).site == site


@pytest.mark.parametrize("stem", ["a b", "K\u00f8ge", "${x}", "x: y", "\udcff"])
def test_a_site_file_of_another_name_is_refused(stem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--site-file", f"{stem}.yaml", "--init"]) == 2
    assert "cannot be a site's name: 1 to 64 letters" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_names_of_folders_are_text_in_the_site_file(tmp_path: Path) -> None:
    scans = tmp_path / "da${ta}\nsite: x \udcff"
    site_path = tmp_path / "a\nsite: y" / "hospitalA.yaml"
    assert main(["--site-file", str(site_path), "--init", "--data", str(scans)]) == 0
    site = read_deployed_site(site_path)
    assert (site.site, site.data.dir) == ("hospitalA", str(scans))


def test_init_refuses_to_overwrite_and_keeps_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    path = init()
    path.write_text(path.read_text() + "# mine\n")
    key_path = Path(read_deployed_site(path).key_file)
    key = key_path.read_bytes()
    assert main(["--site", "hospitalA", "--init"]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert "# mine" in path.read_text()
    path.unlink()
    init()
    assert key_path.read_bytes() == key


def test_a_new_key_is_made_while_no_client_runs(capsys: pytest.CaptureFixture[str]) -> None:
    site = read_deployed_site(init())
    key_path = Path(site.key_file)
    before = public_key(key_path)
    with only_client(Path(site.state_dir)):
        assert main(["--site", "hospitalA", "--new-key"]) == 2
    assert "a client of this site is already running" in capsys.readouterr().err
    assert public_key(key_path) == before
    assert main(["--site", "hospitalA", "--new-key"]) == 0
    out = capsys.readouterr().out
    assert public_key(key_path) != before
    assert fingerprint(public_key(key_path)) in out
    assert "python -m server unregister hospitalA" in out


def test_a_study_waits_for_a_yes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    site = read_deployed_site(init())
    request = training_request(*small_task())
    with pytest.raises(PolicyError):
        consent.check_agreed(Path(site.state_dir), request)
    for typed, said in (
        ("", "1 studies wait for an answer"),  # nobody is there to answer
        ("\n", "1 studies wait for an answer"),
        ("yes\n", "no study waits for an answer"),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert main(["--site", "hospitalA", "--studies"]) == 0
        assert said in capsys.readouterr().out
    consent.check_agreed(Path(site.state_dir), request)


def test_a_no_forgets_a_study_and_an_old_one_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state_dir = Path(read_deployed_site(init()).state_dir)
    with pytest.raises(PolicyError):
        consent.check_agreed(state_dir, training_request(*small_task()))
    old_path = state_dir / "studies" / "old.json"
    old_path.write_text('{"run": "old", "task": "{}x"}')
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    assert main(["--site", "hospitalA", "--studies"]) == 0
    out = capsys.readouterr().out
    assert "forgotten; it is shown again if the coordinator asks again" in out
    assert f"{old_path} cannot be read: it is damaged, or of another release; delete it" in out
    assert consent.studies(state_dir) == []


def test_init_alone_gives_placeholders_that_the_check_names(capsys: pytest.CaptureFixture[str]) -> None:
    init("--ca", "ca.crt")
    assert "Next: fill in data.dir, coordinator.address, coordinator.public_key, read" in capsys.readouterr().out
    assert main(["--site", "hospitalA", "--check"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"FAILED +scans .*/path/to/scans", out)
    assert re.search(r"FAILED +CA file .*ca\.crt", out)
    assert "not ready" in out
    assert "-> " in out


def test_mistakes_are_sentences_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--check", "--dry-run", None):
        assert main(["--site", "nobody", *([option] if option else [])]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: site file sites/nobody.yaml does not exist")
        assert "--init" in error
    init()
    assert main(["--site", "hospitalA"]) == 2  # no ca.crt yet
    assert "coordinator.ca_file" in capsys.readouterr().err


def test_a_command_of_another_user_touches_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one of root, whose files the site's user could not read."""
    state_dir = Path(read_deployed_site(init()).state_dir)
    owner, before = state_dir.owner(), sorted(state_dir.rglob("*"))
    monkeypatch.setattr("os.geteuid", lambda: state_dir.stat().st_uid + 1)
    for option in ([], ["--check"], ["--dry-run"], ["--studies"], ["--audit"], ["--new-key"], ["--gallery", "a.zip"]):
        assert main(["--site", "hospitalA", *option]) == 2
        error = capsys.readouterr().err
        assert f"{state_dir} belongs to user {owner}, who runs this site: type sudo -u {owner} " in error
    assert sorted(state_dir.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--check"], "--site"),
        (["--site", "../../etc", "--check"], "letters, digits"),
        (["--site", "a", "--init", "--coordinator", "https://x"], "HOST:PORT"),
        (["--site", "a", "--init", "--check"], "not allowed with"),
    ],
)
def test_the_command_line_explains_itself(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "told"),
    [("nothing", "cannot be read (No such file or directory)"), (__file__, "is not the coordinator's file")],
)
def test_another_file_than_the_coordinators_key_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--site", "a", "--init", "--coordinator-key", path]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"error: {path} {told}")
    assert not [*tmp_path.iterdir()]


def test_help_gives_the_usual_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for words in ("--init once", "send node.pub", "Exit codes: 0 done, 1 a check failed", "Ctrl-C"):
        assert words in out


def test_a_dry_run_measures_and_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init("--data", str(write_ixi(tmp_path / "ixi", {"Guys": 3})))
    assert main(["--site", "hospitalA", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for what in ("reading", "first training step", "next training step", "own prior and last layer", "evaluation of"):
        assert re.search(rf"{what}.* \d+\.\d\d s  peak +\d+\.\d\d GB", out), out
    assert re.search(r"a round of 40 steps trains for \d+ s", out)


def test_a_dry_run_where_all_test_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = init("--data", str(write_ixi(tmp_path / "ixi", {"Guys": 1})))
    path.write_text(path.read_text().replace("data:\n", "data:\n  test_subjects: [IXI100]\n"))
    assert main(["--site", "hospitalA", "--dry-run"]) == 2
    assert "nobody who trains has all modalities of T1,T2:PD" in capsys.readouterr().err


@pytest.mark.parametrize(("settings", "networks"), [((), 1), (("privacy.epsilon=8",), 0)])
def test_a_dry_run_is_compiled_where_the_sites_training_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], networks: int
) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: asked.append(module))
    monkeypatch.setenv("CXX", sys.executable)  # a compiler that is there
    path = init("--data", str(write_ixi(tmp_path / "ixi", {"Guys": 3})))
    path.write_text(f"{path.read_text()}\ncompile: true\n")
    assert main(["--site", "hospitalA", "--dry-run", "model.widths=[4,8]", *settings]) == 0
    assert len(asked) == networks


def test_a_dry_run_takes_the_coordinators_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init("--data", str(write_ixi(tmp_path / "ixi", {"Guys": 3})))
    volumes = ("model.dims=3", "model.widths=[4,8]", "grid.crop=[16,16,16]", "grid.spacing_mm=[8,8,8]")
    assert main(["--site", "hospitalA", "--dry-run", *volumes, "training.local_steps=7"]) == 0
    out = capsys.readouterr().out
    assert "model.dims=3" in out
    assert re.search(r"a round of 7 steps trains for \d+ s", out)
    assert main(["--site", "hospitalA", "--check", "model.dims=3"]) == 2
    assert "settings are for --dry-run" in capsys.readouterr().err
