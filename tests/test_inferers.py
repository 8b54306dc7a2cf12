"""2-D images through the inferer, and the inferer inside MONAI's engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from small_network import (
    COMPOSITE,
    KEYS,
    NOISE,
    PROVEN,
    assert_same,
    rand,
    small_network,
)

from medfuse.diffusion import FusionModel
from medfuse.errors import DegradationError
from medfuse.inferers import FusionInferer, VolumeFusionInferer, as_degradation, uses_bfloat16
from medfuse.physics import (
    Degradation,
    GaussianNoise,
    JointDegradation,
    parse_degradation,
)
from medfuse.training import DegradeBatch


@pytest.fixture(scope="module")
def network() -> FusionModel:
    return small_network()


# ----------------------------------------------------------------------------------------------------------- 2-D images
def test_it_is_called_by_keyword_and_by_position(network):
    inferer, inputs = FusionInferer(NOISE, amp=False), rand(2, 2, 16, 20)
    result = inferer(inputs=inputs, network=network)
    assert_same(result, inferer(inputs, network), atol=0)
    assert set(result) == KEYS | PROVEN
    assert all(result[k].shape == (2, 1, 16, 20) and result[k].dtype == torch.float32 for k in KEYS)
    assert all(torch.equal(result[k].float(), torch.ones(2, 2, 1, 1)) for k in PROVEN)
    assert bool((result["weight"] >= 0).all() & (result["weight"] <= 1).all())
    assert bool((result["std1"] > 0).all() & (result["std2"] > 0).all())


def test_a_meta_tensor_is_taken_and_plain_tensors_are_returned(network):
    inferer, inputs = FusionInferer(NOISE, amp=False), rand(1, 2, 16, 16)
    result = inferer(inputs=MetaTensor(inputs, affine=torch.eye(4)), network=network)
    assert_same(result, inferer(inputs, network), atol=0)
    assert not any(isinstance(v, MetaTensor) for v in result.values())


def test_a_call_changes_nothing_on_the_inferer(network):
    inferer, inputs = FusionInferer(NOISE, amp=False), rand(1, 2, 16, 16)
    before = dict(vars(inferer))
    first = inferer(inputs, network)
    inferer(inputs, network, degradation=COMPOSITE, steps=1)
    assert vars(inferer) == before
    assert_same(first, inferer(inputs, network), atol=0)


def test_a_call_overrides_degradation_and_steps(network):
    inputs = rand(1, 2, 16, 16)
    given = FusionInferer(COMPOSITE, steps=2, amp=False)(inputs, network)
    assert_same(given, FusionInferer(NOISE, amp=False)(inputs, network, degradation=COMPOSITE, steps=2), atol=0)
    assert not torch.allclose(given["fused"], FusionInferer(NOISE, amp=False)(inputs, network)["fused"], atol=1e-3)


def test_intermediates_are_the_states_that_training_sees(network):
    """As MONAI's `DiffusionInferer.sample`: the result, and a list of what was believed on the way, to the last."""
    inputs = rand(1, 2, 17, 19)
    inferer = FusionInferer(NOISE, steps=4, amp=False)
    plain = inferer(inputs, network)
    result, steps = inferer(inputs, network, save_intermediates=True)
    assert_same(plain, result, atol=0)
    assert len(steps) == 4
    states = FusionInferer(NOISE, steps=4, trajectory=True, amp=False)(inputs, network)["states"]
    for step, state in zip(steps, states, strict=True):
        assert list(step) == ["source1", "source2", "fused", "weight", "std1", "std2"]
        assert torch.equal(torch.cat([step["source1"], step["source2"], step["fused"]], 1), state.x)
        assert torch.equal(step["weight"], state.weight)
    assert not torch.allclose(steps[0]["fused"], steps[-1]["fused"], atol=1e-3)
    assert_same(steps[-1], {name: plain[name] for name in steps[-1]}, atol=0)


def test_every_so_many_intermediates_are_kept_and_always_the_last(network):
    inputs, inferer = rand(2, 2, 16, 16), FusionInferer(NOISE, steps=5, amp=False)
    _, every = inferer(inputs, network, save_intermediates=True)
    for count, which in ((2, (0, 2, 4)), (3, (1, 4)), (5, (4,)), (100, (4,))):
        _, some = inferer(inputs, network, save_intermediates=True, intermediate_steps=count)
        assert [s["fused"].tolist() for s in some] == [every[i]["fused"].tolist() for i in which]
    _, early = inferer(inputs, network, save_intermediates=True, until=2)
    assert [s["fused"].tolist() for s in early] == [s["fused"].tolist() for s in every[:2]]
    with pytest.raises(DegradationError, match="intermediate_steps must be 1 or more, got 0"):
        inferer(inputs, network, save_intermediates=True, intermediate_steps=0)


@pytest.mark.parametrize("rule", ["predicted", "two_scale"])
@pytest.mark.parametrize("std", [True, False])
def test_intermediates_of_a_volume_are_those_of_its_slices(network, std, rule):
    inputs = rand(2, 2, 16, 17, 3)
    inner = FusionInferer(steps=2, amp=False, fusion_rule=rule, balance=2)
    result, steps = VolumeFusionInferer(inner, std=std)(inputs, network, save_intermediates=True)
    assert set(result) >= set(steps[0]) and ("std1" in steps[0]) == std
    _, of_slice = inner(inputs[..., 1], network, save_intermediates=True)
    for step, expected in zip(steps, of_slice, strict=True):
        assert_same({name: v[..., 1] for name, v in step.items()}, {name: expected[name] for name in step})
    assert torch.equal(steps[-1]["fused"], result["fused"])


def test_intermediates_come_where_the_degradation_is_estimated(network):
    inputs = rand(2, 2, 32, 32)
    result, steps = FusionInferer("auto", steps=2, amp=False)(inputs, network, save_intermediates=True)
    assert [tuple(s["fused"].shape) for s in steps] == [(2, 1, 32, 32)] * 2
    assert torch.equal(steps[-1]["source1"], result["source1"])


def test_the_rule_convex_has_one_name():
    with pytest.raises(TypeError, match="convex"):
        FusionInferer(convex=True)


def test_options_reach_the_sampler(network):
    inputs = rand(1, 2, 16, 16)
    convex = FusionInferer(NOISE, fusion_rule="convex", amp=False)(inputs, network)
    expected = convex["weight"] * convex["source1"] + (1 - convex["weight"]) * convex["source2"]
    assert torch.allclose(convex["fused"], expected, atol=1e-6)
    joint = FusionInferer(NOISE, correction="joint", amp=False)(inputs, network)
    assert not torch.allclose(joint["source1"], convex["source1"], atol=1e-5)


def test_training_gets_the_whole_trajectory(network):
    inferer, inputs = FusionInferer(NOISE, trajectory=True, amp=False), rand(1, 2, 16, 16)
    result = inferer(inputs, network, steps=4)
    assert set(result) == KEYS | PROVEN | {"states"}
    assert len(result["states"]) == 4
    assert torch.equal(result["states"][-1].x[:, 2:], result["fused"])


@pytest.mark.parametrize(
    "degradation", [None, NOISE, JointDegradation(Degradation((GaussianNoise(0.1),)))], ids=["none", "spec", "built"]
)
def test_a_degradation_is_taken_in_any_of_its_forms(network, degradation):
    assert isinstance(as_degradation(degradation), JointDegradation)
    assert set(FusionInferer(degradation, amp=False)(rand(1, 2, 8, 8), network)) >= KEYS


def test_a_power_of_the_values_is_undone_and_changes_nothing_else(network):
    y = rand(2, 2, 16, 20)
    steps = [{"noise": {"sigma": 0.05}}, {"gamma": {"exponent": 0.8}}]
    told = parse_degradation({"version": 1, "source1": steps, "source2": [{"gamma": {"exponent": 2.0}}]})
    plain = JointDegradation(*(replace(part, gamma=1.0) for part in told))
    stored = torch.cat([y[:, :1].sign() * y[:, :1].abs() ** 0.8, y[:, 1:].sign() * y[:, 1:].abs() ** 2.0], 1)
    first, second = FusionInferer(plain, amp=False)(y, network), FusionInferer(told, amp=False)(stored, network)
    assert_same(first, second, atol=1e-4)
    torch.testing.assert_close(second["source2"], y[:, 1:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("degradation", ["noise", 3, ["noise"]])
def test_other_forms_are_refused(network, degradation):
    with pytest.raises(DegradationError, match="must be a specification"):
        FusionInferer(degradation)(rand(1, 2, 8, 8), network)
    with pytest.raises(DegradationError, match="must be a specification"):
        FusionInferer()(rand(1, 2, 8, 8), network, degradation=degradation)


@pytest.mark.parametrize("shape", [(1, 2, 151, 203), (3, 2, 64, 50)])
def test_a_limit_changes_nothing_but_the_size_of_what_the_network_sees(network, shape):
    sizes = []
    hook = network.denoiser.register_forward_pre_hook(lambda _, given: sizes.append(given[0][:, 0].numel()))
    try:
        whole = FusionInferer(COMPOSITE, amp=False)(rand(*shape), network)
        assert sizes == [shape[0] * (shape[2] + shape[2] % 2) * (shape[3] + shape[3] % 2)] * 3
        sizes.clear()
        assert_same(FusionInferer(COMPOSITE, amp=False, limit=6400)(rand(*shape), network), whole, atol=1e-4)
        assert len(sizes) > 3
        assert max(sizes) <= 6400
    finally:
        hook.remove()


def test_a_limit_below_one_pixel_is_refused():
    with pytest.raises(DegradationError, match="1 or more, got 0"):
        FusionInferer(limit=0)


def test_the_network_runs_once_a_view_and_step(network):
    runs = []
    hook = network.denoiser.register_forward_hook(lambda *_: runs.append(1))
    try:
        FusionInferer(COMPOSITE, steps=2, views=3)(rand(1, 2, 16, 16), network)
    finally:
        hook.remove()
    assert len(runs) == 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"views": 5}, "1 to 4, got 5"),
        ({"steps": 0}, "at least 1, got 0"),
        ({"correction": "cat"}, "got 'cat'"),
        ({"patches": 3}, r"one of \(0, 1, 2, 4, 8, 16\), got 3"),
        ({"patches": True, "correction": "none"}, "got True"),
    ],
)
def test_an_impossible_setting_is_refused_before_anything_runs(setting, message):
    with pytest.raises(DegradationError, match=message):
        FusionInferer(**setting)


def test_settings_are_those_that_a_result_depends_on():
    inferer = FusionInferer(correction="joint", fusion_rule="convex", views=2, settle=(None, 0.5), patches=4)
    assert inferer.settings == {
        "correction": "joint",
        "fusion_rule": "convex",
        "views": 2,
        "settle": [None, 0.5],
        "patches": 4,
        "balance": 0,
    }
    assert VolumeFusionInferer(inferer).settings == inferer.settings


def test_an_unknown_argument_is_refused(network):
    with pytest.raises(TypeError, match="unexpected keyword"):
        FusionInferer()(rand(1, 2, 8, 8), network, timesteps=3)


def test_bfloat16_is_a_choice():
    cpu = torch.device("cpu")
    assert uses_bfloat16(True, cpu) is True
    assert uses_bfloat16(False, cpu) is False
    assert uses_bfloat16("auto", cpu) in (True, False)
    assert uses_bfloat16("auto", torch.device("meta")) is False
    with pytest.raises(DegradationError, match="must be true, false or `auto`"):
        uses_bfloat16("yes", cpu)


@pytest.mark.parametrize("amp", [True, False])
def test_physics_stay_in_float32(network, amp):
    result = FusionInferer(NOISE, amp=amp)(rand(1, 2, 16, 16), network)
    assert all(v.dtype == torch.float32 for k, v in result.items() if k in KEYS)


# --------------------------------------------------------------------------------------------------------- MONAI engine
def test_it_works_inside_a_supervised_evaluator(network):
    data = [{"image": rand(2, 16, 16, seed=i), "label": rand(2, 16, 16, seed=i)} for i in range(3)]
    outputs = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=network,
        inferer=VolumeFusionInferer(FusionInferer(NOISE, amp=False)),
    )
    evaluator.add_event_handler(
        IterationEvents.MODEL_COMPLETED, lambda e: outputs.append([o["pred"] for o in e.state.output])
    )
    evaluator.run()
    single = [pred for batch in outputs for pred in batch]
    assert len(single) == 3
    for pred, item in zip(single, data, strict=True):
        alone = FusionInferer(NOISE, amp=False)(item["image"][None], network)
        assert_same(pred, {k: v[0] for k, v in alone.items()})


def test_a_prepared_batch_brings_its_own_degradation(network):
    data = [{"image": rand(2, 16, 16, seed=i), "scenario": "composite"} for i in range(2)]
    seen = []

    class Recorder(FusionInferer):
        def __call__(self, inputs, network, **kwargs):
            seen.append(kwargs)
            return super().__call__(inputs, network, **kwargs)

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=network,
        inferer=Recorder(amp=False),
        prepare_batch=DegradeBatch(scenarios={"composite": COMPOSITE}),
    )
    evaluator.run()
    (kwargs,) = seen
    assert isinstance(kwargs["degradation"], JointDegradation)
    assert len(kwargs["degradation"].source2.steps) == 2
