"""The table at the end: how far the runtime was from diffusers at most, by family, sampler, and what it read its weights from."""

import dataclasses
import json
import pathlib

from comparison import IMAGE_TOLERANCE, LATENTS_TOLERANCE, Distance

FOLDER, FILE = "folder", "single file"
SOURCES = [FOLDER, FILE]
# Pipelines that are no family of their own.
FAMILIES = {name: "sd15" for name in ["base", "deep", "foreign-keys", "half", "inpainting", "demo", "lcm"]}
FAMILIES |= {"sdxl-inpainting": "sdxl", "sdxl-lcm": "sdxl", "sd3-without-t5": "sd3"}
ORDER = ["sd15", "sd21", "sdxl", "sdxl-refiner", "sd3", "sd35-medium", "sd35-large", "flux-dev", "flux-schnell"]


@dataclasses.dataclass
class Worst:
    """Of several comparisons the largest differences, each from another perhaps."""

    latents: float = 0.0
    image: float = 0.0
    cases: int = 0

    def add(self, distance: Distance):
        self.latents = max(self.latents, *distance.latents)
        self.image = max(self.image, distance.image)
        self.cases += 1


class Table:
    def __init__(self):
        self.cells: dict[tuple[str, str], dict[str, Worst]] = {}

    def add(self, case, folder: pathlib.Path, source: str, distance: Distance):
        """A case without a sampler has its folder's own."""
        sampler = case.sampler or json.loads((folder / "model_index.json").read_text())["scheduler"][1]
        row = self.cells.setdefault((FAMILIES.get(case.pipeline, case.pipeline), sampler), {})
        row.setdefault(source, Worst()).add(distance)

    def lines(self):
        """Largest difference of latents for each source, of the picture for all; a cell that nothing was compared for is a dash."""
        yield f"{'family':<13} {'sampler':<32} {'cases':>5}" + "".join(f" {source:>12}" for source in SOURCES) + f" {'image':>11}"
        for family, sampler in sorted(self.cells, key=lambda row: (ORDER.index(row[0]), row[1])):
            row = self.cells[family, sampler]
            errors = "".join(f" {row[source].latents:>12.1e}" if source in row else f" {'-':>12}" for source in SOURCES)
            image = max(worst.image for worst in row.values())
            yield f"{family:<13} {sampler:<32} {sum(worst.cases for worst in row.values()):>5}{errors} {image * 255:>7.3f}/255"
        everything = [worst for row in self.cells.values() for worst in row.values()]
        latents, image = max(worst.latents for worst in everything), max(worst.image for worst in everything)
        yield f"{sum(worst.cases for worst in everything)} cases, latents {latents:.1e} of their largest at most (limit {LATENTS_TOLERANCE:.0e})"
        yield f"and pictures {image * 255:.3f}/255 (limit {IMAGE_TOLERANCE * 255:.0f}/255)"
