"""What diffusers makes of a case that begins with pictures, and those pictures."""

import dataclasses

import numpy
import PIL.Image
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from diffusers.models.autoencoders import vae
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img, pipeline_stable_diffusion_inpaint

import reference
from task_cases import INPAINT, TaskCase

LONGEST_WHOLE_SIDE = 1024  # pixels

reference.DRAWING_MODULES += [vae, pipeline_stable_diffusion_img2img, pipeline_stable_diffusion_inpaint]


@dataclasses.dataclass
class Pictures:
    """What is sent."""

    image: PIL.Image.Image
    mask: PIL.Image.Image | None

    def tensors(self):
        """As `trace` takes them: in 0…1, of bytes."""
        named = {"image": self.image, "mask_image": self.mask}
        return {name: numpy.asarray(picture, numpy.float32) / 255 for name, picture in named.items() if picture is not None}


def pictures(case: TaskCase, seed: int) -> Pictures:
    """Coarse noise with fine noise over it, so that both shapes and edges count; the mask a ragged blob."""
    generator = numpy.random.default_rng(seed)
    width, height = case.image_size
    coarse = PIL.Image.fromarray(generator.integers(0, 256, (4, 6, 3), numpy.uint8)).resize((width, height), PIL.Image.BICUBIC)
    fine = generator.integers(-40, 41, (height, width, 3))
    image = PIL.Image.fromarray((numpy.asarray(coarse).astype(int) + fine).clip(0, 255).astype(numpy.uint8))
    if case.task != INPAINT:
        return Pictures(image, None)
    gray = generator.integers(0, 256, (5, 7), numpy.uint8)
    gray[1:4, 2:6] |= 0xA0
    mask = PIL.Image.fromarray(gray).resize(case.mask_size or case.image_size, PIL.Image.BICUBIC)
    return Pictures(image, mask if case.mask_is_soft else mask.point(lambda value: 255 * (value > 140)))


def run(loaded, case: TaskCase, sent: Pictures, seed: int) -> reference.Images:
    """Runs `case` with the parts of the pipeline `loaded`, whose scheduler is its folder's own."""
    kind = StableDiffusionInpaintPipeline if case.task == INPAINT else StableDiffusionImg2ImgPipeline
    pipeline = kind(**loaded.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    # Only now: the constructor changes some schedulers' options.
    scheduler = getattr(reference.diffusers, case.sampler) if case.sampler else type(loaded.scheduler)
    pipeline.scheduler = scheduler.from_config(loaded.scheduler.config, **case.sampler_options)
    width, height = (
        asked or own // pipeline.vae_scale_factor * pipeline.vae_scale_factor
        for asked, own in zip((case.width, case.height), case.image_size)
    )
    named = {"guidance_scale", "eta", "clip_skip", "negative_prompt", "strength"}
    said = {key: value for key, value in case.request().items() if key in named}
    if case.task == INPAINT:
        mask = sent.mask if case.mask_blur is None else pipeline.mask_processor.blur(sent.mask, case.mask_blur)
        said |= {"image": sent.image, "mask_image": mask, "width": width, "height": height}
    else:
        # This pipeline takes the image's own size.
        said |= {"image": pipeline.image_processor.resize(sent.image, height, width)}
    # The runtime's rule of when there are tiles; how they are cut is the autoencoder's own.
    pipeline.vae.use_tiling = max(width, height) > LONGEST_WHOLE_SIDE
    drawn, steps, image = reference.call(pipeline, case, seed, prompt=case.prompt, **said)
    pipeline.vae.use_tiling = False
    return reference.Images(reference.for_each_image(drawn, case), steps, image)
