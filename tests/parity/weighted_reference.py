"""What a weighted prompt means, computed from the written rule (docs/prompts.md) with transformers alone, and diffusers fed with it."""

import contextlib
import re

import numpy
import torch

ROOM = 75  # tokens of a chunk, between begin and end
BACKTRACK = 20  # how far before the end of a full chunk a comma may stand

TOKEN = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*[+-]?[.\d]+\s*\)|\)|\]|[^\\()\[\]:]+|:")
BREAK = re.compile(r"\s*\bBREAK\b\s*")


def read(prompt):
    """[(text, weight)] with equal neighbours joined; None for the text is a break."""
    pieces, round_open, square_open = [], [], []

    def multiply(first, factor):
        for piece in pieces[first:]:
            piece[1] *= factor

    for token in TOKEN.findall(prompt):
        if token.startswith("\\"):
            pieces.append([token[1:], 1.0])
        elif token == "(":
            round_open.append(len(pieces))
        elif token == "[":
            square_open.append(len(pieces))
        elif token.startswith(":") and token.endswith(")") and len(token) > 2 and round_open:
            multiply(round_open.pop(), float(token[1:-1]))
        elif token == ")" and round_open:
            multiply(round_open.pop(), 1.1)
        elif token == "]" and square_open:
            multiply(square_open.pop(), 1 / 1.1)
        else:
            for number, part in enumerate(BREAK.split(token)):
                if number:
                    pieces.append([None, 1.0])
                pieces.append([part, 1.0])
    for first in round_open:
        multiply(first, 1.1)
    for first in square_open:
        multiply(first, 1 / 1.1)
    joined = []
    for text, weight in pieces:
        if text is None:
            joined.append((None, 1.0))
        elif joined and joined[-1][0] is not None and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        elif text:
            joined.append((text, weight))
    return joined


def divide(prompt, tokenizer):
    """[(ids, weights)], one of each for every chunk; names that tokenizer knows as several tokens stay together."""
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    done, current = [], []

    def end():
        nonlocal current
        ids, weights = [id for id, _ in current], [weight for _, weight in current]
        fill = ROOM - len(current)
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * fill]
        done.append((ids, [1.0, *weights, 1.0, *[1.0] * fill]))
        current = []

    for text, weight in read(prompt):
        if text is None:
            end()
            continue
        for run in runs(text, tokenizer):
            commas = [place for place, (id, _) in enumerate(current) if id == comma]
            if run != [comma] and len(current) == ROOM and commas and ROOM - commas[-1] <= BACKTRACK:
                moved, current = current[commas[-1] + 1 :], current[: commas[-1] + 1]
                end()
                current = moved
            if len(current) + len(run) > ROOM:
                end()
            current += [(id, weight) for id in run]
    if current or not done:
        end()
    return done


def runs(text, tokenizer):
    """The ids of a text in lists that must not be torn apart: an embedding of several vectors is one."""
    found = []
    for token in tokenizer.tokenize(text):
        names = [token]
        if token in tokenizer.added_tokens_encoder:
            while f"{token}_{len(names)}" in tokenizer.added_tokens_encoder:
                names.append(f"{token}_{len(names)}")
        found.append(tokenizer.convert_tokens_to_ids(names))
    return found


def embeddings(prompt, pipeline, clip_skip):
    """[1, 77·chunks, width]."""
    rows = []
    for ids, weights in divide(prompt, pipeline.tokenizer):
        hidden = pipeline.text_encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states
        states = pipeline.text_encoder.text_model.final_layer_norm(hidden[-1 - clip_skip])[0].numpy().astype(numpy.float64)
        if any(weight != 1 for weight in weights):
            weighted = states * numpy.array(weights)[:, None]
            states = weighted * (states.mean() / weighted.mean())
        rows.append(torch.from_numpy(states.astype(numpy.float32)))
    return torch.cat(rows)[None]


@contextlib.contextmanager
def one_call_for_each(pipeline, negative, positive):
    """diffusers joins both branches along the batch, so they must be of equal length. Within this context its denoiser is called once
    for each, with the embeddings as they are: no padding, which would change the image."""
    forward = pipeline.unet.forward

    def call(sample, timestep, encoder_hidden_states, **options):
        halves = zip(sample.chunk(2), [negative, positive])
        return (torch.cat([forward(half, timestep, context.expand(len(half), -1, -1), **options)[0] for half, context in halves]),)

    pipeline.unet.forward = call
    try:
        yield
    finally:
        pipeline.unet.forward = forward


@contextlib.contextmanager
def weighted_prompts(pipeline, case):
    """diffusers as it is, but for its encoding of prompts. Yields what takes the prompts' place among the pipeline's arguments."""
    guided = (7.5 if case.guidance_scale is None else case.guidance_scale) > 1
    with torch.no_grad():
        positive = embeddings(case.prompt, pipeline, case.clip_skip or 0)
        # As in diffusers clip_skip is the prompt's alone.
        negative = embeddings(case.negative_prompt or "", pipeline, 0) if guided else None
    if negative is None or positive.shape == negative.shape:
        yield {"prompt_embeds": positive, "negative_prompt_embeds": negative}
        return
    stand_in = torch.zeros_like(positive)
    with one_call_for_each(pipeline, negative, positive):
        yield {"prompt_embeds": stand_in, "negative_prompt_embeds": stand_in}
