"""Metrics as MONAI metrics, in MONAI's engine."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from torch import Tensor, nn

from medfuse.errors import GeometryError, MedfuseError
from medfuse.metrics import FusionMetric, Images, measure, regional_quantitation, residual_statistics


class Average(nn.Module):
    """Fuses by averaging; returns both sources and their fusion, as the sampler's state has them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        fused = self.gain * x.mean(1, keepdim=True)
        return fused if self.channels == 1 else torch.cat([x, fused], 1)


def cases(pair: tuple[Tensor, Tensor]) -> list[dict[str, Tensor]]:
    sources = (torch.cat(pair, 1) / 255).float()
    generator = torch.Generator().manual_seed(0)
    degraded = (sources + 0.1 * torch.rand(sources.shape, generator=generator)).clamp(0, 1)
    return [{"image": d, "label": torch.cat([s, d])} for s, d in zip(sources, degraded, strict=True)]


@pytest.mark.parametrize("decollate", [True, False])
def test_metrics_run_in_monais_evaluator(pair, decollate):
    data = cases(pair)
    both = from_engine(["pred", "label"])
    handlers = {
        "SSIM_min": FusionMetric("SSIM_min", data_range=1.0),
        "leaks": FusionMetric(["leak_1", "leak_2", "gain_min"], data_range=1.0),
    }
    first, second = ({k: IgniteMetricHandler(v, output_transform=both)} for k, v in handlers.items())
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=Average(3),
        key_val_metric=first,
        additional_metrics=second,
        decollate=decollate,
    )
    evaluator.run()
    degraded, target = (torch.stack([c[k] for c in data]) for k in ("image", "label"))
    images = Images.of(
        degraded.mean(1, keepdim=True), target[:, :1], target[:, 1:2], data_range=1.0,
        degraded=(degraded[:, :1], degraded[:, 1:]), restored=(degraded[:, :1], degraded[:, 1:]),
    )  # fmt: skip
    expected = measure(images, ["SSIM_min", "leak_1", "leak_2", "gain_min"])
    assert evaluator.state.best_metric == pytest.approx(float(expected["SSIM_min"].mean()))
    means = torch.tensor([float(expected[k].mean()) for k in ("leak_1", "leak_2", "gain_min")])
    assert torch.allclose(evaluator.state.metrics["leaks"].float(), means, atol=1e-5)
    assert evaluator.state.metric_details["leaks"].shape == (2, 3)


def test_batches_accumulate_and_reset_forgets(pair):
    a, b = (x / 255 for x in pair)
    target, fused = torch.cat([a, b], 1), (a + b) / 2
    metric = FusionMetric("QabfW", data_range=1.0)
    whole = metric(fused, target)
    assert whole.shape == (2, 1)
    assert float(metric.aggregate()) == pytest.approx(float(whole.mean()))
    metric.reset()
    for i in range(2):
        metric(MetaTensor(fused[i : i + 1]), target[i : i + 1])
    assert torch.allclose(metric.aggregate(reduction="none"), whole)
    metric.reset()
    metric(list(fused), list(target))
    assert torch.allclose(metric.get_buffer(), whole)


def test_the_mean_leaves_out_what_is_not_defined(pair):
    a, b = pair
    target, metric = torch.cat([a, b], 1), FusionMetric("SCD", data_range=255.0)
    values = metric(torch.stack([a[0], (a[1] + b[1]) / 2]), target)
    assert values[0].isnan()
    assert float(metric.aggregate()) == pytest.approx(float(values[1]))
    metric.reset()
    metric(a, target)
    assert math.isnan(float(metric.aggregate()))


def test_functions_of_residuals_and_regions_become_metrics():
    generator = torch.Generator().manual_seed(0)
    truth = 1 + torch.rand(3, 1, 24, 24, generator=generator)
    labels = torch.randint(0, 3, truth.shape, generator=generator).float()
    chi2 = FusionMetric(lambda prediction, y: residual_statistics(y - prediction, 0.1)["chi2"])
    chi2(truth, truth + 0.1)
    assert float(chi2.aggregate()) == pytest.approx(1, rel=1e-5)
    recovery = FusionMetric(
        lambda estimate, y: regional_quantitation(y[:, :1], estimate, y[:, 1:], regions=(1, 2), background=0)["CRC"]
    )
    recovery(truth, torch.cat([truth, labels], 1))
    assert recovery.get_buffer().shape == (3, 2)
    assert torch.allclose(recovery.aggregate().float(), torch.ones(2))
    several = FusionMetric(lambda prediction, y: residual_statistics(y - prediction, 0.1))
    assert several(truth, truth + 0.1).shape == (3, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sharpness", 1.0), "must be one of"),
        (("chi2", 1.0), "give a function instead"),
        (("dE00", 1.0), "give a function instead"),
        (("SSIM", None), "data_range must be given"),
        (((), 1.0), "data_range must be given"),
    ],
)
def test_wrong_choices_are_refused(arguments, message):
    with pytest.raises(MedfuseError, match=message):
        FusionMetric(arguments[0], data_range=arguments[1])


def test_wrong_images_are_refused(pair):
    a, b = pair
    target, metric = torch.cat([a, b], 1), FusionMetric("SSIM", data_range=255.0)
    with pytest.raises(MedfuseError, match="reduction must be"):
        FusionMetric("SSIM", data_range=1.0, reduction="sum")
    with pytest.raises(GeometryError, match="The prediction must be"):
        metric(torch.cat([a, b], 1), target)
    with pytest.raises(GeometryError, match="The target must be"):
        metric(a, b)
    with pytest.raises(GeometryError, match="prediction and target alone"):
        metric(a)
    with pytest.raises(MedfuseError, match="must have seen images"):
        metric.aggregate()
    with pytest.raises(MedfuseError, match="leak_1 must be given"):
        FusionMetric("leak_1", data_range=255.0)(a, target)
