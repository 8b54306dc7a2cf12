"""Volumes through the inferer of volumes, and through those of MONAI itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial, partialmethod
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.transforms import LoadImage, ResampleToMatch
from small_network import (
    BLURRED,
    COMPOSITE,
    KEYS,
    NOISE,
    assert_same,
    rand,
    small_network,
)
from torch import Tensor

from medfuse.bundles import bundle_dir
from medfuse.diffusion import FusionModel, sample
from medfuse.errors import DegradationError, GeometryError
from medfuse.fusion.balance import balanced
from medfuse.inferers import FusionInferer, VolumeFusionInferer, neighbours, volumes
from medfuse.inferers.neighbours import Sampled
from medfuse.physics import (
    GaussianBlur,
    JointObservation,
    KrylovModel,
    collaborated_across,
    parse_degradation,
)
from medfuse.pipeline import load_fusion


@pytest.fixture(scope="module")
def network() -> FusionModel:
    return small_network()


def by_hand(inferer: FusionInferer, volume: Tensor, network: FusionModel, axis: int) -> dict[str, Tensor]:
    """Fuse a volume by a plain loop over slices."""
    slices = [inferer(s, network) for s in volume.unbind(axis + 2)]
    return {key: torch.stack([s[key] for s in slices], axis + 2) for key in KEYS} | {
        "proven_blur": slices[0]["proven_blur"][..., None],
        "proven_noise": torch.stack([s["proven_noise"] for s in slices]).mean(0)[..., None],
        "converged": torch.stack([s["converged"] for s in slices]).all(0)[..., None],
    }


def test_a_volume_does_not_depend_on_the_number_of_slices_at_a_time(network):
    # sums over several slices round otherwise, and bfloat16 made 5e-3 of that
    volume = rand(1, 2, 24, 20, 5)
    results = [
        VolumeFusionInferer(FusionInferer(COMPOSITE, amp=True, settle=(None, 0.3)), slice_batch=n)(volume, network)
        for n in (1, 2, 8)
    ]
    for other in results[1:]:
        assert all(torch.equal(results[0][k], other[k]) for k in other)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("slice_batch", [1, 3, 8])
@pytest.mark.parametrize("spec", [NOISE, COMPOSITE], ids=["noise", "composite"])
def test_a_volume_is_the_loop_over_its_slices(network, axis, slice_batch, spec):
    inner, volume = FusionInferer(spec, steps=2, amp=False), rand(1, 2, 8, 12, 10)
    result = VolumeFusionInferer(inner, spatial_dim=axis, slice_batch=slice_batch)(inputs=volume, network=network)
    assert_same(result, by_hand(inner, volume, network, axis))


def test_a_batch_of_volumes_is_the_volumes_one_by_one(network):
    inferer = VolumeFusionInferer(FusionInferer(NOISE, steps=2, amp=False), slice_batch=4)
    volumes = rand(2, 2, 8, 8, 5)
    whole = inferer(volumes, network)
    for b in range(2):
        assert_same(sample_of(whole, b), inferer(volumes[b : b + 1], network))


def with_its_neighbours(sampled: list[Sampled], rounds: int, patches: int) -> list[list[Tensor]]:
    """Filter the sources of slices with those beside them, round by round, by a plain loop."""
    images = [list(one.states[-1].images[:2]) for one in sampled]
    for _ in range(rounds):
        windows = [[k, *(j for j in (k - 1, k + 1) if 0 <= j < len(images))] for k in range(len(images))]
        images = [
            [collaborated_across([images[j][i] for j in w], [sampled[j].known[i] for j in w], patches) for i in (0, 1)]
            for w in windows
        ]
    return images


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("slab", [1, 2, 16])
def test_patches_are_filtered_together_with_those_of_the_slices_beside(network, monkeypatch, depth, slab):
    """Twice."""
    monkeypatch.setattr(volumes, "SLAB", slab)
    volume = rand(1, 2, 24, 20, depth)
    inner = FusionInferer(NOISE, steps=2, amp=False, patches=2)
    found = VolumeFusionInferer(inner)(volume, network, misfit=True)
    plain = FusionInferer(NOISE, steps=2, amp=False)
    sampled = []
    for image in volume.unbind(4):
        observation = JointObservation.from_images(image, parse_degradation(NOISE))
        *_, final = sample(network, observation, steps=2)
        sampled.append(Sampled.of([final], observation))
        assert torch.equal(final.images[0], plain(image, network)["source1"])
    expected = with_its_neighbours(sampled, rounds=2, patches=2)
    for k, sources in enumerate(expected):
        for i in (0, 1):
            assert_same({"x": found[f"source{i + 1}"][..., k]}, {"x": sources[i]})
        observation = JointObservation.from_images(volume[..., k], parse_degradation(NOISE))
        torch.testing.assert_close(found["misfit"][..., k], observation.misfit(sources))


def test_the_fused_image_follows_the_sources_that_were_filtered(network):
    volume = rand(1, 2, 24, 20, 3)
    inner = [FusionInferer(NOISE, steps=1, amp=False, patches=patches) for patches in (0, 4)]
    plain, found = (VolumeFusionInferer(one)(volume, network) for one in inner)
    moved = [found[f"source{i}"] - plain[f"source{i}"] for i in (1, 2)]
    assert float(moved[0].abs().max()) > 0.01
    torch.testing.assert_close(found["fused"] - plain["fused"], torch.lerp(moved[1], moved[0], plain["weight"]))


def test_slices_of_two_volumes_are_no_neighbours(network):
    inferer = VolumeFusionInferer(FusionInferer(NOISE, steps=1, amp=False, patches=4))
    pair = rand(2, 2, 24, 20, 3)
    whole = inferer(pair, network)
    for b in range(2):
        assert_same(sample_of(whole, b), inferer(pair[b : b + 1], network))


def test_equal_slices_with_equal_neighbours_are_filtered_once(network, monkeypatch):
    calls = []

    def counted(*words: Any) -> Tensor:
        calls.append(1)
        return collaborated_across(*words)

    volume = rand(1, 2, 24, 20, 9)
    volume[..., :6] = 0.0  # around a head
    inferer = VolumeFusionInferer(FusionInferer(NOISE, steps=1, amp=False, patches=4))
    expected = inferer(volume, network)
    monkeypatch.setattr(neighbours, "collaborated_across", counted)
    found = inferer(volume, network)
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    # of each source; first the empty ones at the end, within and beside the head, and three others; these moved, then
    # so are their neighbours
    assert len(calls) == 2 * (6 + 8)
    more = inferer(torch.cat([volume[..., :1], volume], -1), network)
    assert torch.equal(more["source1"][..., 3:], found["source1"][..., 2:])


@pytest.mark.parametrize("patches", [0, 4])
@pytest.mark.parametrize("inference", [False, True])
def test_a_volume_does_not_depend_on_the_number_of_threads(network, inference, patches):
    """Slices are computed side by side, each by one thread, in which gradients are as off as where it was asked."""
    spec = NOISE if patches else COMPOSITE
    inferer, volume = VolumeFusionInferer(FusionInferer(spec, amp=True, patches=patches)), rand(1, 2, 24, 20, 5)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.inference_mode(inference), torch.no_grad():
                results.append(inferer(volume, network, misfit=True))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert set(other) == set(results[0])
        assert all(torch.equal(other[name], values) for name, values in results[0].items())
        assert not any(values.requires_grad for values in other.values())


def test_an_error_in_a_slice_is_that_of_the_volume(network):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad(), pytest.raises(DegradationError, match="steps to run"):
            VolumeFusionInferer(FusionInferer(NOISE))(rand(1, 2, 8, 8, 5), network, until=7)
    finally:
        torch.set_num_threads(threads)


def test_slices_that_are_equal_are_computed_once(network):
    volume = rand(1, 2, 8, 12, 7)
    volume[..., [0, 1, 6]] = 0.0  # around a head
    volume[..., 4] = volume[..., 2]
    volume[:, 1, ..., 5] = volume[:, 1, ..., 2]  # source 2 alone
    calls = []
    hook = network.register_forward_pre_hook(lambda *_: calls.append(1))
    inner = FusionInferer(NOISE, steps=1, amp=False)
    result = VolumeFusionInferer(inner)(volume, network, misfit=True, agreement=True)
    hook.remove()
    assert len(calls) == 4  # slices 0, 2, 3 and 5
    each = [inner(image, network, misfit=True, agreement=True) for image in volume.unbind(4)]
    for name in ("source1", "source2", "fused", "weight", "std1", "std2", "misfit", "residual"):
        assert torch.equal(result[name], torch.stack([one[name] for one in each], 4)), name
    for name in ("chi2", "proven_noise"):
        mean = torch.stack([one[name].flatten() for one in each]).mean(0)
        torch.testing.assert_close(result[name].flatten(), mean)


def test_equal_slices_have_each_its_own_gradient(network):
    volume = rand(1, 2, 8, 8, 1).repeat(1, 1, 1, 1, 3).requires_grad_()
    result = VolumeFusionInferer(FusionInferer(NOISE, steps=1, amp=False))(volume, network)
    (slope,) = torch.autograd.grad(result["source2"][..., 2].sum(), volume)
    assert not slope[..., :2].any()
    assert slope[..., 2].any()


def test_a_volume_may_be_bfloat16(network):
    volume = rand(1, 2, 8, 8, 1).repeat(1, 1, 1, 1, 2).bfloat16()
    fused = VolumeFusionInferer(FusionInferer(NOISE, steps=1, amp=True))(volume, network)["fused"]
    assert fused.isfinite().all()
    assert torch.equal(fused[..., 0], fused[..., 1])


def sample_of(result: dict, b: int) -> dict:
    return {k: sample_of(v, b) if isinstance(v, dict) else v[b : b + 1] for k, v in result.items()}


def test_slices_do_not_depend_on_where_the_volume_starts(network):
    inferer, volume = VolumeFusionInferer(FusionInferer(COMPOSITE, amp=False), slice_batch=3), rand(1, 2, 8, 8, 7)
    whole, rest = inferer(volume, network), inferer(volume[..., 2:], network)
    assert_same({k: whole[k][..., 2:] for k in KEYS}, {k: rest[k] for k in KEYS})


def test_odd_slices_with_a_decimation(network):
    result = VolumeFusionInferer(FusionInferer(COMPOSITE, amp=False), spatial_dim=0, slice_batch=2)(
        rand(1, 2, 3, 9, 7), network
    )
    assert result["source2"].shape == (1, 1, 3, 9, 7)


def test_the_balance_moves_the_fused_image_alone(network):
    inputs = rand(2, 2, 24, 24)
    plain, moved = (FusionInferer(NOISE, amp=False, balance=k)(inputs, network) for k in (0, 3))
    assert_same({k: v for k, v in plain.items() if k != "fused"}, {k: v for k, v in moved.items() if k != "fused"})
    restored = torch.cat([plain["source1"], plain["source2"]], 1)
    assert torch.equal(moved["fused"], balanced(plain["fused"], restored, steps=3))
    assert float((moved["fused"] - plain["fused"]).abs().max()) > 0.005
    assert torch.equal(FusionInferer(NOISE, amp=False, balance=3)(inputs, network, balance=0)["fused"], plain["fused"])
    convex = FusionInferer(NOISE, amp=False, balance=3, fusion_rule="convex")
    assert torch.equal(convex(inputs, network)["fused"], convex(inputs, network, balance=0)["fused"])
    assert convex.settings["balance"] == 0 and FusionInferer(balance=3).settings["balance"] == 3


def test_local_means_settle_for_the_sources_that_are_told_to(network):
    inputs = rand(1, 2, 48, 48)
    plain, settled = (FusionInferer(NOISE, amp=False, settle=s)(inputs, network) for s in [(None, None), (None, 0.5)])
    assert torch.equal(plain["source1"], settled["source1"])
    assert not torch.equal(plain["source2"], settled["source2"])


@pytest.mark.parametrize("settle", [None, 0.5, (None,), (-0.1, None), (None, 1e3), (None, float("nan")), (None, "0.5")])
def test_an_impossible_settling_is_refused(settle):
    with pytest.raises(DegradationError, match="settle must be two numbers"):
        FusionInferer(settle=settle)


def test_an_impossible_balance_is_refused(network):
    with pytest.raises(DegradationError, match="balance must be 0 or more, got -1"):
        FusionInferer(balance=-1)
    with pytest.raises(DegradationError, match="balance must be 0 or more, got -2"):
        FusionInferer(NOISE, amp=False)(rand(1, 2, 16, 16), network, balance=-2)


def test_images_pass_straight_to_the_inner_inferer(network):
    inner, inputs = FusionInferer(NOISE, amp=False), rand(2, 2, 16, 16)
    assert_same(VolumeFusionInferer(inner)(inputs, network), inner(inputs, network), atol=0)


def test_keyword_arguments_reach_every_slice(network):
    inner, volume = FusionInferer(amp=False), rand(1, 2, 8, 8, 4)
    result = VolumeFusionInferer(inner)(volume, network, degradation=NOISE, steps=1)
    assert_same(result, by_hand(FusionInferer(NOISE, steps=1, amp=False), volume, network, 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_blur_is_undone_alike_in_all_slices_of_a_volume(network, axis):
    sharp, blurred = (GaussianBlur(sigma).forward(rand(5, 2, 48, 48)) for sigma in (1.0, 2.5))
    slices = torch.stack([(sharp, blurred)[k in (0, 3)][k] for k in range(5)])
    volume = torch.stack([slices, blurred]).movedim(1, axis + 2)  # [2, 2, X, Y, Z]
    inner = FusionInferer(BLURRED, amp=False)
    result = VolumeFusionInferer(inner, spatial_dim=axis, slice_batch=3)(volume, network, misfit=True)
    each = inner(slices, network)["proven_blur"][:, 0, 0, 0]
    assert torch.equal(each == 1, torch.tensor([True, False, False, True, False]))
    share = torch.tensor([[float(each[each < 1].median()), 1], [1, 1]])
    assert torch.equal(result["proven_blur"], share[..., None, None, None])
    narrowed = {"version": 1, "source1": [{"blur": {"sigma_px": 2.5 * float(share[0, 0])}}]}
    expected = inner(slices, network, degradation=narrowed)
    at = expected["proven_blur"][:, 0, 0, 0] == 1  # of the others the data allow even less when asked by themselves
    assert int(at.sum()) >= 3
    torch.testing.assert_close(
        result["source1"][0].movedim(axis + 1, 0)[at], expected["source1"][at], atol=1e-5, rtol=0
    )
    assert result["misfit"].shape == volume.shape and float(result["misfit"].abs().max()) > 0


def test_a_meta_tensor_volume_is_taken(network):
    inferer, volume = VolumeFusionInferer(FusionInferer(NOISE, amp=False)), rand(1, 2, 8, 8, 3)
    assert_same(inferer(MetaTensor(volume), network), inferer(volume, network), atol=0)


def test_repeated_calls_with_other_shapes_agree(network):
    inferer = VolumeFusionInferer(FusionInferer(NOISE, amp=False), spatial_dim=1)
    first = inferer(rand(1, 2, 8, 3, 8), network)
    inferer(rand(1, 2, 12, 2, 6), network)
    inferer(rand(1, 2, 16, 16), network)
    assert_same(first, inferer(rand(1, 2, 8, 3, 8), network), atol=0)


@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 3, 16, 16), (1, 2, 8, 8, 8)])
def test_images_of_another_shape_are_refused(network, shape):
    with pytest.raises(GeometryError, match=r"must have the shape \[B, 2, H, W\]"):
        FusionInferer(NOISE)(torch.zeros(shape), network)


@pytest.mark.parametrize("size", [(24, 24), (23, 27)])
@pytest.mark.parametrize(
    "settings", [{}, {"correction": "none"}, {"fusion_rule": "convex"}, {"trajectory": True}, {"until": 2}]
)
def test_the_misfit_is_what_the_result_leaves_of_the_data(network, size, settings):
    degradation, until = parse_degradation(COMPOSITE), {k: settings[k] for k in settings if k == "until"}
    inferer = FusionInferer(COMPOSITE, amp=False, **{k: v for k, v in settings.items() if k != "until"})
    inputs = rand(2, 2, *size)
    result = inferer(inputs, network, misfit=True, **until)
    restored = torch.cat([result["source1"], result["source2"]], 1)
    inside = slice(0, 16 if size[0] % 2 else None)  # what was cut off at the end tells on its neighbours
    observation = JointObservation.from_images(degradation.continued(inputs), degradation)
    expected = observation.misfit(degradation.continued(restored).split(1, 1))[..., inside, inside]
    torch.testing.assert_close(result["misfit"][..., inside, inside], expected, atol=1e-4, rtol=0)
    assert result["misfit"].shape == (2, 2, *size) and float(result["misfit"].abs().max()) > 0.01
    assert "misfit" not in inferer(inputs, network, **until)


def test_the_convex_form_adds_nothing_that_is_in_neither_source(network):
    inputs = rand(1, 2, 16, 20)
    result = FusionInferer(COMPOSITE, fusion_rule="convex", trajectory=True, amp=False)(inputs, network)
    x1, x2, f, m = (result[key] for key in ("source1", "source2", "fused", "weight"))
    assert torch.allclose(f, m * x1 + (1 - m) * x2, rtol=1e-6)
    assert bool((f >= torch.minimum(x1, x2) - 1e-6).all() & (f <= torch.maximum(x1, x2) + 1e-6).all())
    assert torch.equal(result["states"][-1].x[:, 2:], f)
    free = FusionInferer(COMPOSITE, amp=False)(inputs, network)
    assert torch.equal(free["source1"], x1) and torch.equal(free["source2"], x2)


def test_findings_tell_of_a_solve_that_stopped_at_its_limit(network, monkeypatch):
    motion = {"version": 1, "source1": [{"motion": {"length_px": 9}}, {"noise": {"sigma": 0.05}}]}
    solved = FusionInferer(motion, amp=False, steps=1)(rand(1, 2, 24, 24), network)["converged"]
    assert solved.flatten().tolist() == [True, True]
    stopped = partialmethod(KrylovModel.__init__, max_iterations=1)
    monkeypatch.setattr(KrylovModel, "__init__", stopped)
    volume = rand(1, 2, 24, 24, 2)
    inferer = VolumeFusionInferer(FusionInferer(motion, amp=False, steps=1))
    assert inferer(volume, network)["converged"].flatten().tolist() == [False, True]


@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 2, 4, 4, 4, 4)])
def test_other_numbers_of_axes_are_refused(network, shape):
    with pytest.raises(GeometryError, match=r"must be \[B, 2, H, W\] or \[B, 2, X, Y, Z\]"):
        VolumeFusionInferer(FusionInferer())(torch.zeros(shape), network)


# ------------------------------------------------------------------------------------------------ MONAI's own inferers
def real_volume() -> Tensor:
    """The shipped real PET-MRI case on the grid of its MRI: slices of an odd size, **[1, 2, X, Y, Z]**."""
    demo = bundle_dir("pet_mri_fusion") / "demo" / "sts_case"
    load = LoadImage(reader="NibabelReader", ensure_channel_first=True)
    mri, pet = load(demo / "mri.nii.gz"), load(demo / "pet.nii.gz")
    pair = torch.cat([mri, ResampleToMatch()(pet, mri)]).as_tensor()[..., 10:15]
    return (pair / pair.amax((1, 2, 3), keepdim=True))[None]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_inferer_of_monai_over_the_fusion_of_slices_is_the_fusion_of_volumes(network, axis):
    """Equal where each slice is on its own: with noise, decimation, and a blur that is not wider than the data show."""
    inner, volume = FusionInferer(COMPOSITE, steps=2, amp=False), real_volume()
    roi = [n for k, n in enumerate(volume.shape[2:]) if k != axis]
    few = volume.narrow(axis + 2, 0, 5)
    ours = VolumeFusionInferer(inner, spatial_dim=axis, slice_batch=3)(few, network)
    for window in (roi, (-1, -1)):
        slices = SliceInferer(roi_size=window, spatial_dim=axis, sw_batch_size=3)
        theirs = slices(MetaTensor(few), partial(inner, network=network))
        shares = theirs.pop("proven_blur").as_tensor()
        assert_same({k: theirs[k].as_tensor() for k in KEYS}, {k: ours[k] for k in KEYS})
        assert bool((theirs["converged"] == 1).all()) and bool(ours["converged"].all())
        assert shares.shape[axis + 2] == 5 and bool((shares == ours["proven_blur"]).all())
    assert theirs["source2"].shape == (1, 1, *few.shape[2:]) and ours["source2"].std() > 0.01


def test_the_slice_inferer_of_monai_works_over_one_output_and_over_the_loaded_bundle():
    """Under noise patches share those of the slices beside them, which MONAI's inferer does not show us."""
    fusion, volume = load_fusion(device="cpu"), real_volume()
    fusion.inferer.told = replace(fusion.inferer.told, patches=0)
    ours = fusion(volume, degradation="noise", steps=1)
    call = partial(fusion, degradation="noise", steps=1)
    slices = SliceInferer(roi_size=volume.shape[2:4], spatial_dim=2, sw_batch_size=8)
    torch.testing.assert_close(slices(volume, call)["fused"], ours["fused"], atol=1e-2, rtol=0)  # bfloat16, see `amp`
    torch.testing.assert_close(slices(volume, lambda x: call(x)["weight"]), ours["weight"], atol=1e-2, rtol=0)


def test_each_slice_has_the_blur_of_its_own_under_the_slice_inferer_of_monai(network):
    """Ours shares one among the slices of a volume, hence the two differ there."""
    inner = FusionInferer(BLURRED, amp=False)
    volume = torch.stack([GaussianBlur(s).forward(rand(1, 2, 48, 48, seed=3))[0] for s in (1.0, 2.5)], -1)[None]
    shares = SliceInferer(roi_size=(48, 48), spatial_dim=2)(volume, partial(inner, network=network))["proven_blur"]
    assert shares.shape == (1, 2, 1, 1, 2)
    assert float(shares[0, 0, 0, 0, 0]) < 0.7 and float(shares[0, 0, 0, 0, 1]) == 1


def test_windows_of_monai_smaller_than_the_slice_are_fused_one_by_one_and_averaged(network):
    inner, image = FusionInferer(NOISE, steps=1, amp=False), rand(1, 2, 48, 64)
    result = SlidingWindowInferer(roi_size=(48, 32), overlap=0.5)(image, partial(inner, network=network))
    total, count = torch.zeros(1, 1, 48, 64), torch.zeros(64)
    for start in (0, 16, 32):
        total[..., start : start + 32] += inner(image[..., start : start + 32], network)["fused"]
        count[start : start + 32] += 1
    torch.testing.assert_close(result["fused"], total / count, atol=1e-5, rtol=0)


def test_the_slice_inferer_of_monai_works_over_the_network_itself(network):
    """The network alone is a MONAI network: its 12 channels in, its 6 out, slice by slice."""
    volume = rand(1, 12, 16, 20, 3)
    out = SliceInferer(roi_size=(16, 20), spatial_dim=2, sw_batch_size=2)(volume, network)
    torch.testing.assert_close(out, torch.stack([network(s) for s in volume.unbind(-1)], -1))
