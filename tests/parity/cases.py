"""What is compared: one line a case. Everything a line leaves out is what both sides take by default."""

import dataclasses

EULER = "EulerDiscreteScheduler"
EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
DDIM = "DDIMScheduler"

PROMPT = "a large red circle on a blue background"
LONG = "a painting of a quiet harbour, " * 30
# Smart quotes, entities, mojibake, accents, digits, an emoji and runs of white space: what text cleaning is for.
AWKWARD = "  A “Café” &amp; l'été   n°42 — déjà vu… 東京 🚀 it's &lt;3 rIdInG\n\tthe doesn’t  "


@dataclasses.dataclass(frozen=True)
class Case:
    """A pipeline and a request in the words of the canonical image request (`None`: not said)."""

    name: str
    pipeline: str = "base"
    sampler: str | None = None
    sampler_options: dict = dataclasses.field(default_factory=dict)
    prompt: str = PROMPT
    negative_prompt: str | None = None
    width: int | None = 128
    height: int | None = 64
    samples: int = 1
    num_inference_steps: int = 6
    guidance_scale: float | None = 5.0
    guidance_rescale: float | None = None
    eta: float | None = None
    clip_skip: int | None = None

    def request(self):
        """The request as JSON values, without what is not said."""
        said = dataclasses.asdict(self)
        del said["name"], said["pipeline"]
        if not self.sampler_options:
            del said["sampler_options"]
        return {"task": "text_to_image", "prompt_syntax": "plain"} | {
            key: value for key, value in said.items() if value is not None
        }


CASES = [
    # DDIM
    Case("ddim, as the folder says"),
    Case("ddim, default guidance and size", guidance_scale=None, width=None, height=None),
    Case("ddim, eta 0.7", sampler=DDIM, eta=0.7),
    Case("ddim, eta 1, two images", sampler=DDIM, eta=1.0, samples=2),
    Case("ddim, trailing", sampler=DDIM, sampler_options={"timestep_spacing": "trailing"}),
    Case("ddim, linspace", sampler=DDIM, sampler_options={"timestep_spacing": "linspace"}),
    Case("ddim, offset 0, ends at alpha 1", sampler=DDIM, sampler_options={"steps_offset": 0, "set_alpha_to_one": True}),
    Case("ddim, 7 steps do not divide 1000", sampler=DDIM, num_inference_steps=7),
    Case("ddim, one step", sampler=DDIM, num_inference_steps=1),
    Case("ddim, v prediction, eta 0.5", sampler=DDIM, sampler_options={"prediction_type": "v_prediction"}, eta=0.5),
    Case("ddim, linear betas", sampler=DDIM, sampler_options={"beta_schedule": "linear"}),
    Case(
        "ddim, zero terminal snr, rescaled guidance",
        sampler=DDIM,
        sampler_options={
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
        guidance_rescale=0.7,
    ),
    # Euler
    Case("euler", sampler=EULER),
    Case("euler, linspace", sampler=EULER, sampler_options={"timestep_spacing": "linspace"}),
    Case("euler, trailing, two images", sampler=EULER, sampler_options={"timestep_spacing": "trailing"}, samples=2),
    Case("euler, karras", sampler=EULER, sampler_options={"use_karras_sigmas": True}),
    Case(
        "euler, karras, trailing, no guidance",
        sampler=EULER,
        sampler_options={"use_karras_sigmas": True, "timestep_spacing": "trailing"},
        guidance_scale=1.0,
        num_inference_steps=12,
    ),
    Case("euler, v prediction", sampler=EULER, sampler_options={"prediction_type": "v_prediction"}),
    Case("euler, one step", sampler=EULER, num_inference_steps=1),
    # Euler ancestral
    Case("euler a", sampler=EULER_ANCESTRAL),
    Case("euler a, linspace, two images", sampler=EULER_ANCESTRAL, sampler_options={"timestep_spacing": "linspace"}, samples=2),
    Case("euler a, trailing, no guidance", sampler=EULER_ANCESTRAL, sampler_options={"timestep_spacing": "trailing"}, guidance_scale=0.0),
    Case("euler a, v prediction", sampler=EULER_ANCESTRAL, sampler_options={"prediction_type": "v_prediction"}, num_inference_steps=12),
    # Guidance
    Case("guidance 1 is none", guidance_scale=1.0, negative_prompt="blurry"),
    Case("guidance 1.5", sampler=EULER, guidance_scale=1.5),
    Case("guidance 12, rescaled by half", sampler=EULER, guidance_scale=12.0, guidance_rescale=0.5),
    Case("rescale without guidance does nothing", guidance_scale=1.0, guidance_rescale=0.7),
    # Text
    Case("negative prompt", negative_prompt="blurry, low quality"),
    Case("empty negative prompt", negative_prompt=""),
    Case("long negative prompt", sampler=EULER, negative_prompt=LONG),
    Case("long prompt is truncated", prompt=LONG),
    Case("awkward text", prompt=AWKWARD, negative_prompt="<|endoftext|> and <|startoftext|>x"),
    Case("empty prompt", prompt=""),
    Case("clip skip 0", clip_skip=0),
    Case("clip skip 1", clip_skip=1, negative_prompt="blurry"),
    Case("clip skip 2", sampler=EULER_ANCESTRAL, clip_skip=2),
    # Size
    Case("portrait", sampler=EULER, width=64, height=128),
    Case("latents that do not halve evenly", width=136, height=72),
    # Other weights and folders
    Case("deep, as the folder says", pipeline="deep", guidance_rescale=0.3),
    # The folder's own scheduler knows no clipping, and DDIM's default is to clip.
    Case("deep, ddim, two images", pipeline="deep", sampler=DDIM, sampler_options={"clip_sample": False}, eta=0.3, samples=2),
    Case("deep, euler a", pipeline="deep", sampler=EULER_ANCESTRAL, negative_prompt="ugly", clip_skip=1),
    Case("half precision files", pipeline="half"),
    Case("half precision files, euler a, portrait", pipeline="half", sampler=EULER_ANCESTRAL, width=64, height=128),
    Case("foreign keys, as the folder says", pipeline="foreign-keys"),
    Case("foreign keys, ddim", pipeline="foreign-keys", sampler=DDIM, eta=0.2),
]

# The demo model draws at 64×64 with the steps people use.
DEMO_CASES = [
    Case("demo model", pipeline="demo", width=64, height=64, num_inference_steps=20, negative_prompt="blurry"),
    Case(
        "demo model, euler a",
        pipeline="demo",
        sampler=EULER_ANCESTRAL,
        prompt="a small yellow star on a black background",
        width=64,
        height=64,
        num_inference_steps=10,
    ),
]
