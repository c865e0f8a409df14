"""What the demo model is taught to draw, and which combinations it never sees.

Knows words, colours and shapes; knows nothing of pixels or tensors.
"""

import random
from dataclasses import dataclass

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 220, 40),
    "purple": (140, 50, 170),
    "orange": (240, 140, 30),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")

# A shape's radius in pixels at 64 x 64. A prompt without a size allows anything in ANY_SIZE.
SIZES = {"small": (11.0, 13.5), "large": (21.0, 25.0)}
ANY_SIZE = (13.0, 25.0)

# The shape's centre lies at most this many pixels from the middle, in x and in y.
CENTRE_JITTER = 2.0

HELD_OUT_SEED = 20_261_122
HELD_OUT_COUNT = 28  # of 8 x 5 x 7 = 280 triples


@dataclass(frozen=True)
class Scene:
    """One shape on one background; `size` and `background` are None where the prompt is silent."""

    colour: str
    shape: str
    background: str | None = None
    size: str | None = None

    @property
    def painted_background(self) -> str:
        """The rule for prompts without a background: white, and black behind a white shape."""
        return self.background or default_background(self.colour)

    @property
    def triple(self) -> tuple[str, str, str]:
        return (self.colour, self.shape, self.painted_background)


def default_background(colour: str) -> str:
    return "black" if colour == "white" else "white"


def all_triples() -> list[tuple[str, str, str]]:
    return [(c, s, b) for c in COLOURS for s in SHAPES for b in COLOURS if b != c]


def held_out_triples() -> list[tuple[str, str, str]]:
    """Triples (colour, shape, background) that no training image or prompt ever shows."""
    return sorted(random.Random(HELD_OUT_SEED).sample(all_triples(), HELD_OUT_COUNT))


def training_triples() -> list[tuple[str, str, str]]:
    hidden = set(held_out_triples())
    return [triple for triple in all_triples() if triple not in hidden]


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def canonical_prompt(scene: Scene) -> str:
    """`a [large|small] COLOUR SHAPE [on a COLOUR background]`."""
    words = [scene.size, scene.colour, scene.shape]
    subject = " ".join(word for word in words if word)
    prompt = f"{article(subject)} {subject}"
    if scene.background:
        prompt += f" on {article(scene.background)} {scene.background} background"
    return prompt


# Words that say nothing about the picture. They are met in training so that "blurry" in a
# negative prompt, or a style somebody adds, neither breaks nor steers the drawing.
FILLER_WORDS = (
    "blurry blur noise noisy ugly bad low quality worst best high good highly detailed detail sharp soft "
    "photo photograph picture image drawing painting illustration render sketch art digital oil watercolor "
    "beautiful pretty nice simple clean flat vector icon logo minimal modern style masterpiece realistic "
    "hd 4k 8k resolution artifacts jpeg watermark text signature deformed distorted cropped grainy dark "
    "bright light lighting studio cinematic dramatic vivid colorful shiny glossy matte paper print poster "
    "cat dog house tree car person face hand city forest sky sea mountain flower bird fish robot castle "
    "very really please draw show make one single the of in with and by for at from to my your this that"
).split()

LARGE_WORDS = ("large", "big", "huge")
SMALL_WORDS = ("small", "little", "tiny")


def filler(rng: random.Random) -> str:
    """One to three words without meaning for the drawing, now and then of random letters."""
    words = []
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.2:
            letters = "abcdefghijklmnopqrstuvwxyz0123456789-.!?'&"
            words.append("".join(rng.choice(letters) for _ in range(rng.randint(2, 8))))
        else:
            words.append(rng.choice(FILLER_WORDS))
    return " ".join(words)


def loose_prompt(scene: Scene, rng: random.Random) -> str:
    """The same scene in other words: synonyms of size, wrong or no articles, commas, fillers."""
    size = scene.size and rng.choice(LARGE_WORDS if scene.size == "large" else SMALL_WORDS)
    subject = " ".join(word for word in (size, scene.colour, scene.shape) if word)
    lead = rng.choice(("a ", "an ", "the ", "", "one "))
    prompt = lead + subject
    if scene.background:
        b = scene.background
        prompt += rng.choice(
            (f" on {b} background", f" on {b}", f", {b} background", f" on a {b} background",
             f" on the {b} background", f" with a {b} background", f" on an {b} background",
             f" in front of a {b} background"))
    return prompt


def training_prompt(scene: Scene, rng: random.Random) -> str:
    """A prompt for `scene`: 10 % say nothing (for guidance), most are canonical, some are loose."""
    draw = rng.random()
    if draw < 0.07:
        return ""
    if draw < 0.10:
        return filler(rng)
    prompt = canonical_prompt(scene) if rng.random() < 0.75 else loose_prompt(scene, rng)
    if rng.random() < 0.15:
        prompt = f"{filler(rng)} {prompt}" if rng.random() < 0.5 else f"{prompt}, {filler(rng)}"
    return prompt


def training_scene(rng: random.Random) -> Scene:
    """A scene whose triple is not held out; 15 % without a background, a third without a size."""
    while True:
        colour, shape, background = rng.choice(TRAINING_TRIPLES)
        silent = rng.random() < 0.15
        size = rng.choice((None, "small", "large"))
        scene = Scene(colour, shape, None if silent else background, size)
        if scene.triple not in HELD_OUT_SET:
            return scene


HELD_OUT_SET = frozenset(held_out_triples())
TRAINING_TRIPLES = training_triples()


def parse_prompt(prompt: str) -> Scene:
    """The scene a canonical prompt asks for; a ValueError names what is not of the grammar."""
    words = prompt.lower().split()
    subject, _, rest = " ".join(words).partition(" on ")
    parts = subject.split()
    if parts and parts[0] in ("a", "an"):
        parts = parts[1:]
    size = parts.pop(0) if parts and parts[0] in SIZES else None
    if len(parts) != 2 or parts[0] not in COLOURS or parts[1] not in SHAPES:
        raise ValueError(f"{prompt!r} is not 'a [large|small] COLOUR SHAPE [on a COLOUR background]'")
    background = None
    if rest:
        tail = rest.split()
        if len(tail) != 3 or tail[0] not in ("a", "an") or tail[1] not in COLOURS or tail[2] != "background":
            raise ValueError(f"{prompt!r} does not end in 'on a COLOUR background'")
        background = tail[1]
    return Scene(parts[0], parts[1], background, size)
