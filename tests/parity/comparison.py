"""When two runs count as the same."""

import dataclasses
import os

import numpy

from reference import Images

# A GPU adds in another order still, and has exponentials and sines of its own; the runtime takes it where EMULSION_DEVICE says so.
ON_GPU = os.environ.get("EMULSION_DEVICE", "cpu").startswith("cuda")
# Below this share of the largest latent a difference is the order of f32 additions; a wrong coefficient shows far above.
LATENTS_TOLERANCE = 1e-3 if ON_GPU else 1e-4
# Two steps of an 8-bit channel.
IMAGE_TOLERANCE = (4 if ON_GPU else 2) / 255


@dataclasses.dataclass
class Distance:
    """How far a run is from its reference; a value that is not a number is infinitely far."""

    latents: list[float]  # max |Δ| ÷ max |reference latent| after each solver call
    image: float  # max |Δ|, of 1

    def complaints(self):
        """One sentence for each limit that does not hold; empty when the runs agree."""
        found = [
            f"latents after solver call {call} differ by {share:.2e} of their largest (limit {LATENTS_TOLERANCE:.0e})"
            for call, share in enumerate(self.latents)
            if not share <= LATENTS_TOLERANCE
        ]
        if not self.image <= IMAGE_TOLERANCE:
            found.append(f"the image differs by {self.image * 255:.2f}/255 (limit {IMAGE_TOLERANCE * 255:.0f}/255)")
        return found


def largest_difference(reference, ours):
    difference = numpy.abs(reference.astype(numpy.float64) - ours.astype(numpy.float64))
    return float(numpy.max(numpy.nan_to_num(difference, nan=numpy.inf)))


def measure(reference: Images, step_latents: numpy.ndarray, image: numpy.ndarray) -> Distance:
    """Compares every solver call's latents and the picture; another shape or dtype is an error at once."""
    for name, expected, found in [("step_latents", reference.step_latents, step_latents), ("image", reference.image, image)]:
        assert found.shape == expected.shape, f"{name} is {list(found.shape)}, expected {list(expected.shape)}"
        assert found.dtype == numpy.float32, f"{name} is {found.dtype}, expected float32"
    latents = [
        largest_difference(expected, found) / float(numpy.max(numpy.abs(expected)))
        for expected, found in zip(reference.step_latents, step_latents)
    ]
    return Distance(latents, largest_difference(reference.image, image))
