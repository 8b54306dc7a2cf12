"""A step asks a device for no number, for it would have to wait: counted as calls of `aten::_local_scalar_dense`."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medfuse.diffusion import FusionModel, FusionUNet, sample
from medfuse.physics import Cut, JointObservation, fit, parse_degradation

SPECS = {
    "noise": {"source1": [{"noise": {"sigma": 0.05}}], "source2": [{"noise": {"kind": "rician", "sigma": 0.05}}]},
    "blur": {"source1": [{"blur": {"sigma_px": 1.4}}], "source2": [{"blur": {"sigma_px": 2.0}}]},
    "composite": {
        "source1": [{"blur": {"sigma_px": 1.2}}, {"noise": {"sigma": 0.03}}],
        "source2": [{"downsample": {"factor": 2}}, {"noise": {"sigma": 0.03}}],
    },
}


class Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.asked += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("name", SPECS)
def test_no_step_waits_for_a_number_of_the_device(name, monkeypatch):
    images = torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(0)).sub(0.3).clamp(0, 0.6)
    network = FusionModel(FusionUNet()).eval()
    results = []
    for looks in (True, False):
        if not looks:  # as on another device than a CPU
            monkeypatch.setattr("medfuse.physics.models.source.none_left", lambda active: False)
        with torch.no_grad():
            fitted = fit(parse_degradation({"version": 1, **SPECS[name]}), images)
            steps = sample(network, JointObservation(*fitted.models), steps=2, correct=Cut((None, 1.0)))
            states = [next(steps)]  # what is asked once of the data is known then
            with Counter() as counter:
                states.append(next(steps))
        results.append(states[-1].x)
    assert counter.asked == 0
    torch.testing.assert_close(*results, rtol=0, atol=0)  # iterations that are left change nothing
