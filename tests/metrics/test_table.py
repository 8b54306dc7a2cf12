"""What holds for every metric of the table, and the page that shows it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medfuse.errors import GeometryError, ImageError, MedfuseError
from medfuse.metrics import (
    METRICS,
    PRIMARY,
    Images,
    Metric,
    available,
    floors,
    measure,
    regional_quantitation,
    residual_statistics,
    total_ratio,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"
OF_IMAGES = [m.name for m in METRICS.values() if not {"residual", "regions"} & set(m.needs)]
PLAIN = [name for name in OF_IMAGES if not METRICS[name].needs]
STEPS = {"EN", "MI", "QMI", "NCIE", "QCB", "QCV", "uptake_rank"}  # rounded to bins, levels or ranks: no gradient
ROLES = {"anatomy_corr", "anatomy_gain", "function_gain", "uptake_rank"}  # source 1 is anatomy, source 2 function
CONTRAST = {"EN", "SD", "SF", "AG"}


def noise(like: Tensor, seed: int, std: float) -> Tensor:
    return std * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def everything(a: Tensor, b: Tensor, fused: Tensor, *, data_range: float = 255.0) -> Images:
    """Return images of which every metric can be computed."""
    unit = data_range / 255
    degraded = (a + noise(a, 1, 9 * unit), b + noise(b, 2, 9 * unit))
    tinted = torch.cat([b, 0.4 * b, data_range - b], 1)
    return Images.of(
        fused,
        a,
        b,
        data_range=data_range,
        degraded=degraded,
        restored=((2 * a + degraded[0]) / 3, (a + degraded[1]) / 2),
        colours=(tinted, torch.cat([fused, 0.5 * fused, data_range - fused], 1)),
    )


def test_every_metric_states_direction_range_reference_and_what_it_cannot_see():
    assert len(METRICS) > 60
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.direction in (-1, 0, 1)
        assert metric.range[0] < metric.range[1]
        assert all((metric.definition, metric.reference, metric.blind))
    assert set(PRIMARY) <= set(METRICS)


@pytest.mark.parametrize("kind", ["noisy", "inverted", "first", "black", "random"])
def test_values_lie_in_the_range_that_is_stated(pair, kind):
    a, b = pair
    fused = {
        "noisy": (a + b) / 2 + noise(a, 0, 30),
        "inverted": 255 - a,
        "first": a,
        "black": a * 0,
        "random": 255 * torch.rand(a.shape, generator=torch.Generator().manual_seed(0), dtype=a.dtype),
    }[kind]
    for name, value in measure(everything(a, b, fused)).items():
        low, high = METRICS[name].range
        known = value[~value.isnan()]
        assert bool(((known >= low - 1e-9) & (known <= high + 1e-9)).all()), (name, known)


def test_metrics_of_residuals_and_regions_are_those_of_their_functions(pair):
    a, b = pair
    labels = (a > 60).long() + (a > 100).long()
    tables = {
        "residual": (residual_statistics(a - b, 3.0), (a - b, 3.0)),
        "regions": (regional_quantitation(a, b, labels), (a, b, labels)),
    }
    tables["regions"][0]["total_ratio"] = total_ratio(a, b)
    for need, (values, arguments) in tables.items():
        for metric in (m for m in METRICS.values() if m.needs == (need,)):
            function = metric.function
            result = function(a, b) if metric.name == "total_ratio" else function(*arguments)
            assert torch.equal(result.nan_to_num(), values[metric.name].nan_to_num()), metric.name
            low, high = metric.range
            known = result[~result.isnan()]
            assert bool(((known >= low) & (known <= high)).all()), metric.name


def test_a_batch_gives_what_its_samples_give(pair):
    a, b = pair
    fused = torch.stack([a[0], (a[1] + b[1]) / 2])
    images = everything(a, b, fused)
    together = measure(images)
    assert set(together) == set(OF_IMAGES)
    for i in range(2):
        own = slice(i, i + 1)
        first, second, third, fourth = (x[own] for x in (*images.degraded, *images.restored))
        colours = tuple(x[own] for x in images.colours)
        alone = measure(
            Images.of(
                fused[own], a[own], b[own], data_range=255.0,
                degraded=(first, second), restored=(third, fourth), colours=colours,
            )
        )  # fmt: skip
        for name, value in alone.items():
            assert torch.allclose(together[name][own], value, rtol=1e-10, atol=1e-12, equal_nan=True), name


def test_one_pair_of_sources_serves_a_batch_of_fusions(pair):
    a, b = (x[:1] for x in pair)
    fused = torch.cat(list(floors(a, b).values()))
    shared = measure(everything(a, b, fused))
    repeated = measure(Images.of(fused, a.expand(3, -1, -1, -1), b.expand(3, -1, -1, -1), data_range=255.0))
    for name, value in repeated.items():
        assert torch.allclose(shared[name], value, equal_nan=True), name
    assert all(value.shape == (3,) for value in shared.values())


def test_the_scale_of_the_images_does_not_matter(pair):
    """What 8 bits hold gives the same on 0..1 in float32."""
    a, b = pair
    fused = torch.maximum(a, b) // 2 + a // 2
    whole = measure(Images.of(fused.to(torch.uint8), a.to(torch.uint8), b.to(torch.uint8), data_range=255.0))
    unit = measure(Images.of((fused / 255).float(), (a / 255).float(), (b / 255).float(), data_range=1.0))
    for name, value in whole.items():
        assert torch.allclose(unit[name], value, rtol=1e-4, atol=1e-7), name


def test_exchanged_sources_exchange_their_values_and_leave_all_others(pair):
    a, b = pair
    fused = (2 * a + b) / 3
    one, other = (measure(everything(*sources, fused), PLAIN) for sources in ((a, b), (b, a)))
    for name in (n for n in PLAIN if n not in ROLES):
        twin = {"1": f"{name[:-1]}2", "2": f"{name[:-1]}1"}.get(name[-1], name)
        assert torch.allclose(one[name], other[twin], rtol=1e-9), name


def test_the_worse_source_is_the_minimum_or_for_an_error_the_maximum(pair):
    a, b = pair
    values = measure(everything(a, b, (2 * a + b) / 3))
    worst = [name for name in values if name.endswith(("_min", "_max"))]
    assert {"SSIM_min", "PSNR_min", "edge_min", "VIF_min", "gain_min", "leak_max"} == set(worst)
    for name in worst:
        stem, end = name.rsplit("_", 1)
        both = torch.stack([values[f"{stem}_1"], values[f"{stem}_2"]])
        assert torch.equal(values[name], both.amin(0) if end == "min" else both.amax(0))
        assert METRICS[name].direction == (1 if end == "min" else -1)


def test_the_worse_of_two_leaves_out_what_is_not_defined(pair):
    a, _ = pair
    values = measure(Images.of(a, a, a * 0, data_range=255.0), ["edge_2", "edge_1", "edge_min"])
    assert values["edge_2"].isnan().all()
    assert torch.equal(values["edge_min"], values["edge_1"])


def test_a_copy_of_one_source_wins_sums_and_loses_the_minimum(pair):
    a, b = pair
    values = measure(Images.of(torch.stack([a[0], (a[0] + b[0]) / 2]), a[:1], b[:1], data_range=255.0))
    for name in ("VIF", "QP", "Qabf"):
        assert values[name][0] > values[name][1], name
    for name in ("edge_min", "PSNR_min", "SSIM_min"):
        assert values[name][0] < values[name][1], name


def test_the_more_noise_the_worse_except_for_what_only_describes(pair):
    a, b = pair
    clean = torch.maximum(a, b)
    values = [measure(Images.of(clean + noise(a, 4, s), a, b, data_range=255.0)) for s in (0, 12, 40)]
    for name in ("SSIM", "QMI", "QG", "VIF", "QCB", "QP", "PSNR_1", "MSSSIM", "QY"):
        assert bool((values[0][name] > values[1][name]).all() and (values[1][name] > values[2][name]).all()), name
    for name in CONTRAST:
        assert METRICS[name].direction == 0
        assert bool((values[2][name] > values[0][name]).all())


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in STEPS])
def test_gradients_are_finite_on_black_and_at_equal_images(pair, name):
    a, b = pair
    for fused in (torch.maximum(a, b), a.clone() * 0.5, (a + b) / 2 + noise(a, 0, 3)):
        f = fused.clone().requires_grad_()
        value = METRICS[name].function(Images.of(f, a, b, data_range=255.0))
        value.nansum().backward()
        assert bool(f.grad.isfinite().all())
    assert float(f.grad.abs().max()) > 0


def test_what_was_not_given_is_not_computed(pair):
    a, b = pair
    plain = Images.of(a, a, b, data_range=255.0)
    assert available(plain) == PLAIN
    half = Images.of(a, a, b, data_range=255.0, restored=(None, b))
    assert set(available(half)) - set(PLAIN) == {"r2_PSNR", "r2_SSIM"}
    for name in ("leak_1", "gain_2", "dE00", "chi2", "CRC"):
        with pytest.raises(MedfuseError, match=f"{name} must be given"):
            measure(plain, [name])
    with pytest.raises(MedfuseError, match="must be one of"):
        measure(plain, ["sharpness"])


def test_inputs_are_not_changed(pair):
    a, b = pair
    fused = (a + b) / 2
    before = [x.clone() for x in (a, b, fused)]
    measure(everything(a, b, fused))
    for x, y in zip((a, b, fused), before, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, b, f: (a, b, f[:, 0]), GeometryError, "fused must be \\[B, 1, H, W\\]"),
        (lambda a, b, f: (a.expand(-1, 3, -1, -1), b, f), GeometryError, "source1 must be \\[B, 1, H, W\\]"),
        (lambda a, b, f: (a, b[..., :-1], f), GeometryError, "fit each other"),
        (lambda a, b, f: (a, b.repeat(2, 1, 1, 1), f), GeometryError, "fit each other"),
        (lambda a, b, f: (a, b, f[:1]), GeometryError, "a sample for each"),
        (lambda a, b, f: (a[..., :9], b[..., :9], f[..., :9]), GeometryError, "at least 17 x 17"),
        (lambda a, b, f: (a, b, f / 0), ImageError, "fused must be finite"),
    ],
)
def test_wrong_images_are_refused(pair, change, error, message):
    a, b, f = change(*pair, pair[0] + 1)
    with pytest.raises(error, match=message):
        Images.of(f, a, b, data_range=255.0)


# ---------------------------------------------------------------------------------------------------------- the page
def line(metric: Metric) -> str:
    """Return the line of a metric in the table of the page."""
    better = {1: "higher", -1: "lower", 0: "-"}[metric.direction]
    low, high = (None if math.isinf(v) else f"{v:.3g}" for v in metric.range)
    bounds = "any" if low is None else f"{low} or more" if high is None else f"{low} to {high}"
    cells = (f"`{metric.name}`", metric.definition, better, bounds, metric.reference, metric.blind)
    return f"| {' | '.join(cells)} |"


def test_the_page_shows_the_table_as_it_is():
    text = PAGE.read_text(encoding="utf-8")
    for metric in METRICS.values():
        assert line(metric) in text, line(metric)
    assert len(re.findall(r"^\| `\w+` \|.*\|.*\|.*\|.*\|.*\|$", text, flags=re.MULTILINE)) == len(METRICS)


def test_the_page_holds_every_reference():
    text = PAGE.read_text(encoding="utf-8")
    for reference in {m.reference for m in METRICS.values()} - {"-", "medfuse"}:
        if not reference.startswith("as "):
            assert f"- {reference}:" in text, reference
