"""Render the example of the infrared-visible bundle: a street at dusk, as a camera and as a thermal camera see it.

    python tests/make_demo_street.py DEMO_DIR

DEMO_DIR: where `visible/street.png` and `infrared/street.png` go, and under `noisy/` both with the noise of the
    bundle's preset `noise`.

Nothing is photographed. A street lamp lights a brick wall, a car and a walker; the engine of the car, its tyres, the
lamp and people are warm. In the dark under the tree stands a second person, whom the visible image does not show.
Bricks, sign and wall are of one temperature: the infrared image does not tell them apart. Everything random comes from
SEED; with the same versions of the libraries every run gives the same bytes.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

SEED = 7
SIZE = (240, 320)  # rows, columns
SHARP = 4  # drawn so many times as large, then averaged
NOISE = 0.003**0.5  # of the preset `noise`
LAMP = (118.0, 62.0)  # x, y


class Scene:
    """Layers from back to front: what each reflects, emits and how warm it is, on the fine grid."""

    def __init__(self) -> None:
        self.shape = tuple(SHARP * n for n in SIZE)
        self.y, self.x = (np.indices(self.shape) + 0.5) / SHARP
        self.rng = np.random.default_rng(SEED)
        self.albedo = np.zeros((*self.shape, 3))
        self.emission = np.zeros((*self.shape, 3))
        self.heat = np.zeros(self.shape)

    def texture(self, size: float) -> np.ndarray:
        """Random texture of a grain in px, mean 0, std 1."""
        grain = ndimage.gaussian_filter(self.rng.normal(size=self.shape), size * SHARP)
        return grain / grain.std()

    def mask(self, kind: str, *points: tuple[float, float]) -> np.ndarray:
        canvas = Image.new("1", self.shape[::-1])
        corners = [(SHARP * x, SHARP * y) for x, y in points]
        getattr(ImageDraw.Draw(canvas), kind)(corners, fill=1)
        return np.asarray(canvas)

    def paint(self, mask: np.ndarray, albedo, heat, *, emission=(0.0, 0.0, 0.0), grain=0.0, size=0.8) -> None:
        """Cover what lies behind; `grain` is the relative contrast of the paint's texture."""
        texture = 1 + grain * self.texture(size)[..., None] if grain else 1.0
        self.albedo = np.where(mask[..., None], np.asarray(albedo) * texture, self.albedo)
        self.emission = np.where(mask[..., None], emission, self.emission)
        self.heat = np.where(mask, heat, self.heat)

    def visible(self) -> np.ndarray:
        """Light of the dusk and of the lamp, **[H, W, 3]**."""
        far = np.hypot(self.x - LAMP[0], 0.8 * (self.y - LAMP[1]))
        open_sky = 1 / (1 + np.exp((self.x - 236) / 7))[..., None]  # the tree keeps all light from the corner
        light = 0.16 * np.array([0.75, 0.85, 1.2]) + 1.25 / (1 + (far / 62) ** 3)[..., None] * np.array(
            [1.0, 0.88, 0.62]
        )
        light = light * open_sky + 0.005
        glow = np.exp(-far / 9)[..., None] * np.array([1.0, 0.9, 0.7])
        return np.clip(self._averaged(self.albedo * light + self.emission + 0.5 * glow), 0, 1) ** (1 / 1.8)

    def infrared(self) -> np.ndarray:
        """Heat through the lens of a thermal camera, **[H, W]**."""
        uneven = self.heat * (1 + 0.04 * self.texture(2.0))
        return np.clip(self._averaged(ndimage.gaussian_filter(uneven, 0.7 * SHARP)), 0, 1)

    def _averaged(self, fine: np.ndarray) -> np.ndarray:
        return fine.reshape(SIZE[0], SHARP, SIZE[1], SHARP, -1).mean((1, 3)).squeeze()


def draw_street(scene: Scene) -> None:
    """Sky, house, road, lamp post."""
    dusk = np.clip(scene.y / 110, 0, 1)[..., None] * np.array([0.10, 0.07, 0.08]) + np.array([0.015, 0.03, 0.10])
    scene.paint(scene.y < 999, (0, 0, 0), 0.05 + 0.05 * scene.y / 110, emission=dusk)
    row = np.floor(scene.y / 6)
    mortar = (scene.y % 6 < 1) | ((scene.x + 5 * (row % 2)) % 13 < 1)
    wall = scene.mask("rectangle", (0, 22), (212, 168))
    scene.paint(wall, (0.50, 0.22, 0.15), 0.30, grain=0.16, size=1.5)
    scene.paint(wall & mortar, (0.62, 0.58, 0.52), 0.30)
    for x, lit in ((16, True), (62, False), (166, False)):
        scene.paint(scene.mask("rectangle", (x - 3, 43), (x + 29, 91)), (0.75, 0.75, 0.72), 0.36)
        pane = scene.mask("rectangle", (x, 46), (x + 26, 88))
        scene.paint(pane, (0.05, 0.06, 0.08), 0.48 if lit else 0.20, emission=(0.75, 0.52, 0.18) if lit else (0, 0, 0))
        cross = (np.abs(scene.x - x - 13) < 1) | (np.abs(scene.y - 67) < 1)
        scene.paint(pane & cross, (0.75, 0.75, 0.72), 0.36)
    scene.paint(scene.mask("rectangle", (60, 108), (104, 122)), (0, 0, 0), 0.30, emission=(0.02, 0.34, 0.24))
    for k in range(5):  # letters of a kind
        stroke = scene.mask("rectangle", (65 + 8 * k, 111), (69 + 8 * k, 119 - 2 * (k % 3)))
        scene.paint(stroke, (0, 0, 0), 0.30, emission=(0.85, 0.85, 0.75))
    scene.paint(scene.y > 168, (0.30, 0.29, 0.27), 0.40, grain=0.14, size=0.5)
    road = scene.y > 182
    scene.paint(road, (0.17, 0.17, 0.18), 0.34 + 0.10 * (scene.y - 182) / 58, grain=0.20, size=0.4)
    dash = road & (np.abs(scene.y - 224) < 2.5) & ((scene.x + 0.6 * scene.y) % 56 < 32)
    scene.paint(dash, (0.80, 0.80, 0.70), 0.34 + 0.10 * (scene.y - 182) / 58, grain=0.1)
    scene.paint(scene.mask("rectangle", (126, 60), (130, 178)), (0.12, 0.14, 0.13), 0.22)
    scene.paint(scene.mask("rectangle", (110, 57), (130, 60)), (0.12, 0.14, 0.13), 0.45)
    scene.paint(scene.mask("ellipse", (111, 59), (125, 66)), (0, 0, 0), 0.97, emission=(1.0, 0.93, 0.75))


def draw_tree(scene: Scene) -> None:
    hedge = scene.y > 100 + 2 * scene.texture(3.0)
    scene.paint(hedge & (scene.y < 176) & (scene.x > 213), (0.10, 0.20, 0.07), 0.20, grain=0.35, size=0.9)
    scene.paint(scene.mask("rectangle", (238, 90), (250, 186)), (0.20, 0.13, 0.08), 0.24, grain=0.25)
    crown = np.zeros(scene.shape, bool)
    for _ in range(60):
        x, y = 262 + 22 * scene.rng.normal(), 62 + 18 * scene.rng.normal()
        r = scene.rng.uniform(7, 15)
        crown |= scene.mask("ellipse", (x - r, y - r), (x + r, y + r))
    scene.paint(crown & (scene.texture(1.2) > -1.1), (0.16, 0.34, 0.10), 0.17, grain=0.35, size=0.9)


def draw_car(scene: Scene) -> None:
    body = [(142, 196), (144, 180), (164, 176), (178, 163), (210, 163), (222, 177), (234, 180), (235, 196)]
    scene.paint(scene.mask("polygon", *body), (0.62, 0.05, 0.06), 0.42)
    hood = [(143, 192), (145, 180), (164, 176), (167, 192)]
    warm = 0.55 + 0.4 * np.exp(-(((scene.x - 154) / 9) ** 2) - ((scene.y - 184) / 7) ** 2)
    scene.paint(scene.mask("polygon", *hood), (0.62, 0.05, 0.06), warm)
    for pane in ([(168, 175), (179, 165), (192, 165), (192, 175)], [(195, 175), (195, 165), (208, 165), (217, 175)]):
        scene.paint(scene.mask("polygon", *pane), (0.08, 0.10, 0.13), 0.26)
    for x in (160, 216):
        scene.paint(scene.mask("ellipse", (x - 9, 187), (x + 9, 205)), (0.04, 0.04, 0.04), 0.62)
        scene.paint(scene.mask("ellipse", (x - 4, 192), (x + 4, 200)), (0.60, 0.60, 0.62), 0.50)
    scene.paint(scene.mask("ellipse", (142, 181), (147, 186)), (0, 0, 0), 0.70, emission=(1.0, 0.95, 0.70))
    scene.paint(scene.mask("rectangle", (231, 182), (235, 186)), (0, 0, 0), 0.45, emission=(0.65, 0.03, 0.02))


def draw_person(scene: Scene, x: float, foot: float, jacket, trousers) -> None:
    """A person of 58 px; the face and hands are the warmest."""
    for side in (-1, 1):
        leg = [(x + side, foot - 28), (x + 6 * side, foot - 28), (x + 7 * side, foot), (x + 2.5 * side, foot)]
        scene.paint(scene.mask("polygon", *leg), trousers, 0.68, grain=0.1)
        arm = [
            (x + 6 * side, foot - 46),
            (x + 9 * side, foot - 44),
            (x + 11 * side, foot - 25),
            (x + 8 * side, foot - 25),
        ]
        scene.paint(scene.mask("polygon", *arm), jacket, 0.70, grain=0.1)
        hand = scene.mask("ellipse", (x + 9.5 * side - 2, foot - 26), (x + 9.5 * side + 2, foot - 21))
        scene.paint(hand, (0.70, 0.48, 0.38), 0.90)
    torso = [(x - 7, foot - 47), (x + 7, foot - 47), (x + 6.5, foot - 26), (x - 6.5, foot - 26)]
    scene.paint(scene.mask("polygon", *torso), jacket, 0.74, grain=0.1)
    scene.paint(scene.mask("ellipse", (x - 5, foot - 59), (x + 5, foot - 46)), (0.70, 0.48, 0.38), 0.95)
    hair = [(x - 5, foot - 54), (x - 3.5, foot - 59), (x + 3.5, foot - 59), (x + 5, foot - 54)]
    scene.paint(scene.mask("polygon", *hair), (0.10, 0.07, 0.05), 0.72)


def save(folder: Path, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(folder / "street.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    demo = parser.parse_args().demo

    scene = Scene()
    draw_street(scene)
    draw_tree(scene)
    draw_car(scene)
    draw_person(scene, 94, 190, (0.08, 0.22, 0.55), (0.15, 0.14, 0.13))
    draw_person(scene, 286, 192, (0.10, 0.10, 0.09), (0.08, 0.08, 0.09))
    rng = np.random.default_rng(SEED)
    for name, image in (("visible", scene.visible()), ("infrared", scene.infrared())):
        save(demo / name, image)
        save(demo / "noisy" / name, image + rng.normal(0, NOISE, image.shape))


if __name__ == "__main__":
    main()
