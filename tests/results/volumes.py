"""Experiments on phantoms of whole heads: every method on the same scans, with twins, and with what is told wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from results.volume_measures import figures, interval, lesions, rmse, seeds_interval
from results.volume_peers import METHODS
from results.volume_pictures import SHOWN, planes
from results.volume_scenes import SETTINGS, SHAPE, SPACING, TEXTURES, brain_mask, brains, head, problem
from tqdm import tqdm

from medfuse.training.brains import COLIN27, Brain
from medfuse.training.volumes import Head

SENSITIVE = ("medfuse", "medfuse, rule", "Van Cittert", "iterative Yang, MRI")
HARD = ("medfuse", "medfuse, rule", "resampled", "Van Cittert", "iterative Yang, MRI", "iterative Yang, true")
WRONG: dict[str, dict[str, Any]] = {
    "as it is": {},
    "1 mm off": {"misplaced_mm": (1.0, 0.0, 0.0)},
    "2 mm off": {"misplaced_mm": (2.0, 0.0, 0.0)},
    "3 mm off": {"misplaced_mm": (3.0, 0.0, 0.0)},
    "PSF 10 % too wide": {"psf_error": 0.1},
    "PSF 20 % too wide": {"psf_error": 0.2},
    "PSF 10 % too narrow": {"psf_error": -0.1},
    "PSF 20 % too narrow": {"psf_error": -0.2},
}


def volumes(
    data: Path,
    *,
    colin: Path = COLIN27,
    picture: Path | None = None,
    seeds: Sequence[int] = range(len(SETTINGS)),
    known: Mapping[str, Any] | None = None,
    again: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Run all methods on a head of each seed, with each texture; yield all figures after each of these scenes.

    Args:
        data: Folder of the research data.
        colin: Colin27.
        picture: Where the picture of the first scene is written.
        seeds: Of the heads.
        known: Figures that were yielded before, whose scenes are not run again.
        again: Methods that are run again on these scenes; the figures of the others stay.
    """
    found = brains(data, colin)
    known = known or {}
    rows: list[dict[str, Any]] = [row for row in known.get("rows", ()) if row["method"] in (*METHODS, "truth")]
    spots: list[dict[str, Any]] = [spot for spot in known.get("lesions", ()) if spot["method"] in METHODS]
    told: dict[str, Any] = dict(known.get("wrong", {}))
    kept = known.get("hard", {})
    hard = tuple([row for row in kept.get(k, ()) if row["method"] in (*HARD, "truth")] for k in ("rows", "lesions"))
    done = {(row["seed"], row["texture"]) for row in rows if not again}
    for texture in TEXTURES:
        for seed in tqdm([s for s in seeds if (s, texture) not in done], desc=f"heads, texture {texture:g}"):
            brain = found[seed % len(found)]
            drawn = picture if seed == seeds[0] and texture == TEXTURES[0] else None
            more = scene(head(brain, seed), seed, texture, picture=drawn, methods=again or tuple(METHODS))
            rows, spots = (_merged(a, b, brain.name) for a, b in zip((rows, spots), more, strict=True))
            yield collected(rows, spots, told, hard)
        if not told or (again and texture == TEXTURES[-1]):
            for case, values in wrong(found[seeds[0] % len(found)], seeds[0], again or SENSITIVE).items():
                told[case] = {**told.get(case, {}), **values}
            yield collected(rows, spots, told, hard)
    for seed in tqdm(seeds, desc="heads, borders along voxels"):
        known_of = {row["method"] for row in hard[0] if row["seed"] == seed}
        chosen = [name for name in HARD if name in again or name not in known_of]
        if not chosen:
            continue
        brain = found[seed % len(found)]
        more = scene(head(brain, seed, fine=1), seed, TEXTURES[0], methods=chosen)
        hard = tuple(_merged(a, b, brain.name) for a, b in zip(hard, more, strict=True))
        yield collected(rows, spots, told, hard)


def scene(
    one: Head, seed: int, texture: float, *, picture: Path | None = None, methods: Sequence[str] = tuple(METHODS)
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run methods on the twins of one scan; return a row of figures a method, and a row a lesion and method."""
    p = problem(one, SETTINGS[seed], texture=texture, seed=seed)
    where = {"seed": seed, "texture": texture}
    true = torch.from_numpy(p.phantoms["all"].pet)
    rows: list[dict[str, Any]] = [{**where, "method": "truth", "chi-square": p.model.at(true).chi2(true)}]
    spots: list[dict[str, Any]] = []
    shown = {}
    for name in methods:
        method = METHODS[name]
        start = time.process_time()
        stack, said = method(p)
        seconds = (time.process_time() - start) / len(stack)
        rows.append({**where, "method": name, **figures(p, stack), **said, "CPU seconds": seconds})
        spots += [{**where, "method": name, **row} for row in lesions(p, stack)]
        shown[name] = stack[0].numpy()
    if picture is not None and set(SHOWN) <= set(methods):
        planes(picture, p, shown)
    return rows, spots


def collected(
    rows: list[dict[str, Any]],
    spots: list[dict[str, Any]],
    told_wrong: dict[str, Any],
    hard: Sequence[list[dict[str, Any]]] = ((), ()),  # type: ignore[assignment]
) -> dict[str, Any]:
    """Return all figures: means with intervals, and the single values that they are of; `hard` are rows and lesions."""
    return {
        "grid": {"shape": list(SHAPE), "spacing_mm": SPACING},
        "brains": sorted({row["brain"] for row in rows}),
        "methods": _by_method(rows, spots),
        "wrong": told_wrong,
        "hard": {"methods": _by_method(*hard).get(f"{TEXTURES[0]:g}", {}), "rows": hard[0], "lesions": hard[1]},
        "rows": rows,
        "lesions": spots,
    }


def wrong(brain: Brain, seed: int, methods: Sequence[str] = SENSITIVE) -> dict[str, dict[str, float]]:
    """Return the RMSE of single restorations that are told what is not so, and of one with a T2 in place of the T1."""
    results = {}
    one = head(brain, seed)
    cases = {name: (one, SETTINGS[seed].told(**told), "t1") for name, told in WRONG.items()}
    cases["T2 in place of T1"] = (head(brain, seed, contrast="t2"), SETTINGS[seed], "t2")
    for case, (drawn, setting, contrast) in cases.items():
        p = problem(drawn, setting, texture=TEXTURES[0], seed=seed, contrast=contrast).first()
        mask, truth = p.operator.seen.numpy() & brain_mask(p.labels), p.phantoms["all"].pet
        results[case] = {name: rmse(METHODS[name](p)[0][0].numpy(), truth, mask) for name in methods}
    return results


def _merged(old: list[dict[str, Any]], new: list[dict[str, Any]], brain: str) -> list[dict[str, Any]]:
    """Return rows with those of a scene and its methods in place of what was there, by texture, seed and method."""
    keys, order = ("texture", "seed", "method"), ["truth", *METHODS]
    places = {tuple(row[k] for k in keys) for row in new}
    rows = [row for row in old if tuple(row[k] for k in keys) not in places]
    rows += [{"brain": brain, **row} for row in new]
    return sorted(rows, key=lambda row: (row["texture"], row["seed"], order.index(row["method"])))


def _by_method(rows: Sequence[Mapping[str, Any]], spots: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means and intervals by texture and method: over seeds, and over lesions by kind and radius."""
    result: dict[str, Any] = {}
    for texture in TEXTURES:
        for method in dict.fromkeys(row["method"] for row in rows):
            mine = [r for r in rows if r["method"] == method and r["texture"] == texture]
            if not mine:
                continue
            numbers = [k for k in mine[0] if k not in ("seed", "brain", "texture", "method")]
            found: dict[str, Any] = {k: seeds_interval([r[k] for r in mine]) for k in numbers}
            balls = [s for s in spots if s["method"] == method and s["texture"] == texture]
            for kind, radius in dict.fromkeys((s["kind"], s["radius"]) for s in balls):
                same = [s for s in balls if (s["kind"], s["radius"]) == (kind, radius)]
                for key in ("contrast", "changed", "error"):
                    if key in same[0]:
                        found[f"{key} {kind} {radius:g} mm, %"] = interval([s[key] for s in same])
            result.setdefault(f"{texture:g}", {})[method] = found
    return result
