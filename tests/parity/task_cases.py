"""What is compared of the tasks that begin with pictures: one line a case, as in cases.py."""

import dataclasses

from cases import DDIM, EULER, EULER_ANCESTRAL, Case

IMAGE_TO_IMAGE, INPAINT = "image_to_image", "inpaint"


@dataclasses.dataclass(frozen=True)
class TaskCase(Case):
    """A case with an image, and with a mask where the task is to inpaint."""

    task: str = IMAGE_TO_IMAGE
    strength: float | None = None
    mask_blur: int | None = None
    image_size: tuple[int, int] = (128, 64)  # width and height of the image that is sent
    mask_size: tuple[int, int] | None = None  # of the mask; None is the image's
    mask_is_soft: bool = False  # gray all over instead of black and white
    width: int | None = None
    height: int | None = None
    guidance_rescale: None = None  # diffusers' pipelines of these tasks have none

    def request(self):
        """The request as JSON values; the pictures are no part of it."""
        said = super().request()
        for key in ["image_size", "mask_size", "mask_is_soft"]:
            said.pop(key, None)
        return said


def inpaint(name, **said):
    return TaskCase(f"inpaint: {name}", task=INPAINT, **said)


def inpaint_nine(name, **said):
    return TaskCase(f"9 channels: {name}", task=INPAINT, pipeline="inpainting", **said)


TASK_CASES = [
    TaskCase("image: ddim, default strength"),
    TaskCase("image: euler, strength 0.5", sampler=EULER, strength=0.5),
    TaskCase("image: euler a, strength 0.7, two images", sampler=EULER_ANCESTRAL, strength=0.7, samples=2),
    TaskCase("image: strength 1 still begins with the image", sampler=EULER, strength=1.0),
    TaskCase("image: ddim, eta, trailing", sampler=DDIM, eta=0.6, strength=0.6, sampler_options={"timestep_spacing": "trailing"}),
    TaskCase("image: 7 steps of 0.29 are 2", num_inference_steps=7, strength=0.29),
    TaskCase("image: one step", num_inference_steps=10, strength=0.1),
    TaskCase("image: karras, no guidance", sampler=EULER, sampler_options={"use_karras_sigmas": True}, guidance_scale=1.0, strength=0.5),
    TaskCase("image: sides rounded down", image_size=(141, 79), strength=0.5),
    TaskCase("image: shrunk", image_size=(333, 250), width=128, height=64, strength=0.5),
    TaskCase("image: enlarged, portrait", sampler=EULER, image_size=(40, 30), width=64, height=128, strength=0.5),
    TaskCase("image: deep, as the folder says", pipeline="deep", strength=0.6, negative_prompt="ugly", clip_skip=1),
    TaskCase("image: half precision files", pipeline="half", strength=0.5, sampler=EULER_ANCESTRAL),
    TaskCase("image: 1024 pixels are one tile", image_size=(64, 1024), sampler=EULER, strength=0.3),
    TaskCase("image: tiles", image_size=(1032, 72), sampler=EULER, strength=0.3),
    TaskCase("image: tiles, portrait, deep", pipeline="deep", image_size=(64, 1048), strength=0.2),
    inpaint("ddim, default strength"),
    inpaint("euler, strength 0.6", sampler=EULER, strength=0.6),
    inpaint("euler a, two images", sampler=EULER_ANCESTRAL, samples=2),
    inpaint("euler a, two images, strength 0.8", sampler=EULER_ANCESTRAL, samples=2, strength=0.8),
    inpaint("ddim, eta", sampler=DDIM, eta=0.5, strength=0.9),
    inpaint("no guidance", guidance_scale=1.0, strength=0.5),
    inpaint("one step", num_inference_steps=10, strength=0.1),
    inpaint("tiles", image_size=(1032, 64), sampler=EULER, num_inference_steps=3),
    inpaint("mask of another size", mask_size=(50, 70)),
    inpaint("mask of another size, blurred", mask_size=(250, 150), mask_blur=9, sampler=EULER),
    inpaint("soft mask is made black and white", mask_is_soft=True),
    inpaint("image and mask scaled", image_size=(333, 250), width=128, height=64, mask_blur=3, strength=0.8),
    inpaint("deep, as the folder says", pipeline="deep", strength=0.6),
    inpaint_nine("ddim, default strength"),
    inpaint_nine("euler, strength 0.6", sampler=EULER, strength=0.6),
    inpaint_nine("euler a, two images, strength 0.8", sampler=EULER_ANCESTRAL, samples=2, strength=0.8),
    inpaint_nine("ddim, eta, portrait", sampler=DDIM, eta=0.5, image_size=(64, 128)),
    inpaint_nine("no guidance", guidance_scale=0.0, sampler=EULER),
    inpaint_nine("mask of another size, blurred", mask_size=(250, 150), mask_blur=9),
]
