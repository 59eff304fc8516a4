import pytest

import suffice
from suffice.runs import networks
from tests.runs import modules

NETWORK = "tests.runs.modules:network"


@pytest.fixture
def run_folder(tmp_path):
    """Folder of a run with a network, its calibration and a policy."""
    network, loader = modules.network(), modules.sets().validation
    calibrated = suffice.calibrate(network, None, loader, structure=None)
    networks.save(network, NETWORK, tmp_path / "run" / "network")
    suffice.save(calibrated, tmp_path / "run" / "calibrated")
    suffice.save(suffice.allocate(calibrated, loader, 0.7), tmp_path / "run" / "policy")
    return tmp_path / "run"
