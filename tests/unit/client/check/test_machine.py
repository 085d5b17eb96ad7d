import dataclasses
import socket
from pathlib import Path

import numpy as np
import pytest

from agi_core.segmentation.segmenter import Segmenter, SegmenterSettings
from agi_core.segmentation.visits import MODALITIES
from agi_core.voxel_regression import VoxelRegression
from client.check.machine import check_machine
from client.check.rows import CheckState
from client.site.file import DeployedSite, read_deployed_site
from client.site.new_site import write_site
from tests.support.health_services import health_service


@pytest.fixture
def site(tmp_path: Path) -> DeployedSite:
    site_path = tmp_path / "sites" / "hospitalA.yaml"
    site_path.parent.mkdir()
    write_site(site_path, site="hospitalA", data_dir=tmp_path, layout="ixi", address=None, ca_path=None)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    site_path.write_text(site_path.read_text().replace("9094 ", f"{port} "))
    return read_deployed_site(site_path)


def test_a_port_in_use_is_no_fault_of_a_node_that_is_alive(site: DeployedSite) -> None:
    """Beside two services (docs/hospital.md, step 6) no client runs that would hold the lock."""
    states = []
    with socket.create_server(("127.0.0.1", site.runtime_port)):
        states += [row.state for row in check_machine(site) if row.what == "local ports"]
        with health_service(port=site.health_port):
            states += [row.state for row in check_machine(site) if row.what == "local ports"]
    states += [row.state for row in check_machine(site) if row.what == "local ports"]
    assert states == [CheckState.FAILED, CheckState.PASSED, CheckState.PASSED]


def test_the_port_of_the_nodes_health_must_be_free_too(site: DeployedSite) -> None:
    with socket.create_server(("127.0.0.1", site.health_port)):
        (row,) = (row for row in check_machine(site) if row.what == "local ports")
    assert (row.state, row.found) == (CheckState.FAILED, f"127.0.0.1:{site.health_port}: Address already in use")
    assert "runtime_port" in row.fix


def test_a_segmentation_network_is_told_by_its_fingerprint(site: DeployedSite, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    segmenter = Segmenter(SegmenterSettings(channels=(4, 8), patch=(16, 16, 16)))
    segmenter.regressions = {modality: VoxelRegression(np.zeros(20)) for modality in MODALITIES}
    segmenter.write(path)

    def rows(site: DeployedSite) -> list[tuple[CheckState, str]]:
        return [(row.state, row.found) for row in check_machine(site) if row.what == "segmenter"]

    assert rows(site) == []
    with_it = dataclasses.replace(site, segmenter=str(path))
    assert rows(with_it) == [(CheckState.PASSED, f"{path} is the segmentation network {segmenter.hash}")]
    path.write_bytes(b"no network")
    ((state, found),) = rows(with_it)
    assert state == CheckState.FAILED
    assert f"{path} is no segmentation network" in found
