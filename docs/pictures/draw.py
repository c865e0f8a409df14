"""Draws the pictures that the pages in docs/ show, with the demo model and our own runtime.

    EMULSION_RUNTIME=target/debug/emulsion-runtime python docs/pictures/draw.py

Needs nothing but Python. Each PNG carries what it was made with (`parameters`). The same runtime draws the same bytes.
"""

import os
import struct
import subprocess
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "models"
SIDE_PX = 64
PROMPT = "a yellow star on a blue background"
COMMON = ["--negative-prompt", "blurry", "--guidance-scale", "5", "--seed", "7"]
# Few enough that what an option does can be seen.
FEW_STEPS = 6

SAMPLERS = (
    "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete",
    "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "IPNDM", "LCM", "TCD", "DDIMInverse",
)
# File name → sampler and what it is told.
OPTIONS = {
    "none": ("EulerDiscrete",),
    "use_karras_sigmas": ("EulerDiscrete", "use_karras_sigmas=true"),
    "use_exponential_sigmas": ("EulerDiscrete", "use_exponential_sigmas=true"),
    "use_beta_sigmas": ("EulerDiscrete", "use_beta_sigmas=true"),
    "timestep_spacing-leading": ("EulerDiscrete", "timestep_spacing=leading"),
    "timestep_spacing-linspace": ("EulerDiscrete", "timestep_spacing=linspace"),
    "timestep_spacing-trailing": ("EulerDiscrete", "timestep_spacing=trailing"),
    "steps_offset": ("EulerDiscrete", "timestep_spacing=leading", "steps_offset=20"),
    "rescale_betas_zero_snr": ("EulerDiscrete", "rescale_betas_zero_snr=true", "timestep_spacing=trailing"),
    "interpolation_type": ("EulerDiscrete", "interpolation_type=log_linear"),
    "timestep_type": ("EulerDiscrete", "timestep_type=continuous"),
    "sigma_min-sigma_max": ("EulerDiscrete", "use_karras_sigmas=true", "sigma_min=0.1", "sigma_max=10"),
    "final_sigmas_type": ("EulerDiscrete", "final_sigmas_type=sigma_min"),
    "beta_schedule": ("EulerDiscrete", "beta_schedule=linear"),
    "set_alpha_to_one": ("DDIM", "set_alpha_to_one=false"),
    "variance_type": ("DDPM", "variance_type=fixed_large"),
    "skip_prk_steps": ("PNDM", "skip_prk_steps=true"),
    "solver_order": ("DPMSolverMultistep", "solver_order=3"),
    "algorithm_type-dpmsolver": ("DPMSolverMultistep", "algorithm_type=dpmsolver", "final_sigmas_type=sigma_min"),
    "algorithm_type-sde": ("DPMSolverMultistep", "algorithm_type=sde-dpmsolver++"),
    "solver_type-heun": ("DPMSolverMultistep", "solver_type=heun"),
    "lower_order_final": ("DPMSolverMultistep", "lower_order_final=false"),
    "euler_at_final": ("DPMSolverMultistep", "euler_at_final=true"),
    "use_lu_lambdas": ("DPMSolverMultistep", "use_lu_lambdas=true"),
    "lambda_min_clipped": ("DPMSolverMultistep", "lambda_min_clipped=-2"),
    "solver_type-bh1": ("UniPCMultistep", "solver_type=bh1"),
    "predict_x0": ("UniPCMultistep", "predict_x0=false"),
    "disable_corrector": ("UniPCMultistep", "disable_corrector=[0, 1, 2]"),
    "original_inference_steps": ("LCM", "original_inference_steps=100"),
    "timestep_scaling": ("LCM", "timestep_scaling=1"),
}


def write_mask(path: Path, edge_px: int) -> None:
    """A PNG of SIDE_PX a side, white but for its edge."""
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    inner = range(edge_px, SIDE_PX - edge_px)
    rows = b"".join(b"\0" + bytes(255 if x in inner and y in inner else 0 for x in range(SIDE_PX)) for y in range(SIDE_PX))
    header = struct.pack(">2I5B", SIDE_PX, SIDE_PX, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def draw(name: str, prompt: str, *arguments: object) -> None:
    command = [os.environ["EMULSION_RUNTIME"], "generate", "--model", MODELS / "demo", "--prompt", prompt, *COMMON]
    path = HERE / f"{name}.png"
    subprocess.run([str(part) for part in [*command, *arguments, "--output", path]], check=True)


def draw_samplers() -> None:
    for name in SAMPLERS:
        draw(f"samplers/{name}Scheduler", PROMPT, "--steps", 20, "--sampler", f"{name}Scheduler")
    for name, (sampler, *told) in OPTIONS.items():
        options = [word for option in told for word in ("--sampler-option", option)]
        draw(f"options/{name}", PROMPT, "--steps", FEW_STEPS, "--sampler", f"{sampler}Scheduler", *options)
    draw("options/eta", PROMPT, "--steps", FEW_STEPS, "--sampler", "DDIMScheduler", "--eta", 1)


def draw_tasks() -> None:
    steps = ["--steps", 20]
    draw("tasks/text-to-image", "a red circle on a white background", *steps)
    begin = [*steps, "--image", HERE / "tasks/text-to-image.png"]
    for percent in (30, 60, 90):
        draw(f"tasks/image-to-image-{percent}", "a green circle on a white background", *begin, "--strength", percent / 100)
    mask = HERE / "tasks/mask.png"
    write_mask(mask, 8)
    draw("tasks/inpaint", "a blue star on a white background", *begin, "--mask-image", mask)
    draw("tasks/inpaint-blur", "a blue star on a white background", *begin, "--mask-image", mask, "--mask-blur", 6)
    star = HERE / "samplers/DDIMScheduler.png"
    draw("tasks/outpaint", PROMPT, *steps, "--image", star, "--margins", "16,16,16,16", "--mask-blur", 0)
    ring = ["--adapter", MODELS / "demo-lora/ring.safetensors"]
    draw("tasks/without-lora", "a red ring on a white background", *steps)
    draw("tasks/lora", "a red ring on a white background", *steps, *ring)
    draw("tasks/lora-half", "a red ring on a white background", *steps, "--adapter", f"{MODELS / 'demo-lora/ring.safetensors'}:0.5")
    draw("tasks/weighted-up", "a red circle on a (yellow:1.6) background", *steps, "--prompt-syntax", "weighted")
    draw("tasks/weighted-down", "a red circle on a (yellow:0.3) background", *steps, "--prompt-syntax", "weighted")
    draw("tasks/clip-skip", "a red circle on a yellow background", *steps, "--clip-skip", 1)
    draw("tasks/clip-skip-none", "a red circle on a yellow background", *steps)


if __name__ == "__main__":
    for folder in ("samplers", "options", "tasks"):
        (HERE / folder).mkdir(exist_ok=True)
    draw_samplers()
    draw_tasks()
