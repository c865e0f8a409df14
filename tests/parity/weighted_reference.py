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


def encoded(prompt, tokenizer, encoder, read):
    """[1, 77·chunks, width], where `read` makes a chunk's states of its hidden ones; and what the encoder says first of the first chunk."""
    rows, firsts = [], []
    for ids, weights in divide(prompt, tokenizer):
        output = encoder(torch.tensor([ids]), output_hidden_states=True)
        firsts.append(output[0])
        states = read(output.hidden_states)[0].numpy().astype(numpy.float64)
        if any(weight != 1 for weight in weights):
            weighted = states * numpy.array(weights)[:, None]
            states = weighted * (states.mean() / weighted.mean())
        rows.append(torch.from_numpy(states.astype(numpy.float32)))
    return torch.cat(rows)[None], firsts[0]


def of_one_encoder(prompt, pipeline, clip_skip):
    """[1, 77·chunks, width]."""
    norm = pipeline.text_encoder.text_model.final_layer_norm
    return encoded(prompt, pipeline.tokenizer, pipeline.text_encoder, lambda hidden: norm(hidden[-1 - clip_skip]))[0]


def of_two_encoders(prompt, prompt_2, pipeline, clip_skip):
    """[1, 77·chunks, both widths], where the shorter prompt's chunks are followed by empty ones; and the second one's pooled text."""

    def read(hidden):
        return hidden[-2 - clip_skip]

    both = [(prompt, pipeline.tokenizer, pipeline.text_encoder), (prompt_2 or prompt, pipeline.tokenizer_2, pipeline.text_encoder_2)]
    # The refiner has the second one alone, which reads the first prompt.
    both = [both[0], both[1]] if pipeline.text_encoder is not None else [(prompt, *both[1][1:])]
    made = [encoded(text, tokenizer, encoder, read) for text, tokenizer, encoder in both]
    longest = max(states.shape[1] for states, _ in made)
    for at, (_, tokenizer, encoder) in enumerate(both):
        states, pooled = made[at]
        empty, _ = encoded("", tokenizer, encoder, read)
        made[at] = torch.cat([states, *[empty] * ((longest - states.shape[1]) // empty.shape[1])], dim=1), pooled
    return torch.cat([states for states, _ in made], dim=2), made[-1][1]


def without_brackets(prompt):
    """What T5 reads, which knows no weights."""
    return "".join(" " if text is None else text for text, _ in read(prompt))


def first_chunk(prompt, tokenizer, encoder, read):
    """[1, 77, width], and what the encoder says first of it."""
    states, first = encoded(prompt, tokenizer, encoder, read)
    return states[:, : ROOM + 2], first


def of_stable_diffusion_3(prompts, pipeline, clip_skip, length):
    """Tokens of all encoders and CLIP's pooled texts: the first chunks side by side, widened to T5's, whose tokens follow."""
    parts = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
    made = [first_chunk(text, *part, lambda hidden: hidden[-2 - clip_skip]) for text, part in zip(prompts, parts)]
    clips = torch.cat([states for states, _ in made], dim=2)
    t5 = pipeline._get_t5_prompt_embeds([without_brackets(prompts[2])], max_sequence_length=length)
    clips = torch.nn.functional.pad(clips, (0, t5.shape[2] - clips.shape[2]))
    return torch.cat([clips, t5], dim=1), torch.cat([pooled for _, pooled in made], dim=1)


def flow_prompts(pipeline, case):
    """What takes the prompts' place among the arguments of a pipeline of flow matching."""

    def or_first(*prompts):
        return [prompt or prompts[0] for prompt in prompts]

    length = case.max_sequence_length
    with torch.no_grad():
        if not hasattr(pipeline, "text_encoder_3"):
            first, second = or_first(case.prompt, case.prompt_2)
            ids, _ = divide(first, pipeline.tokenizer)[0]
            pooled = pipeline.text_encoder(torch.tensor([ids])).pooler_output
            return {"prompt_embeds": pipeline._get_t5_prompt_embeds([without_brackets(second)], max_sequence_length=length), "pooled_prompt_embeds": pooled}
        prompts = or_first(case.prompt, case.prompt_2, case.prompt_3)
        negative = or_first(case.negative_prompt or "", case.negative_prompt_2, case.negative_prompt_3)
        positive, pooled = of_stable_diffusion_3(prompts, pipeline, case.clip_skip or 0, length)
        negative, negative_pooled = of_stable_diffusion_3(negative, pipeline, 0, length)
    return {
        "prompt_embeds": positive,
        "pooled_prompt_embeds": pooled,
        "negative_prompt_embeds": negative,
        "negative_pooled_prompt_embeds": negative_pooled,
    }


@contextlib.contextmanager
def one_call_for_each(pipeline, negative, positive):
    """diffusers joins both branches along the batch, so they must be of equal length. Within this context its denoiser is called once
    for each, with the embeddings as they are: no padding, which would change the image."""
    forward = pipeline.unet.forward

    def call(sample, timestep, encoder_hidden_states, added_cond_kwargs=None, **options):
        made = []
        for at, context in enumerate([negative, positive]):
            half = sample.chunk(2)[at]
            added = added_cond_kwargs and {name: value.chunk(2)[at] for name, value in added_cond_kwargs.items()}
            made.append(forward(half, timestep, context.expand(len(half), -1, -1), added_cond_kwargs=added, **options)[0])
        return (torch.cat(made),)

    pipeline.unet.forward = call
    try:
        yield
    finally:
        pipeline.unet.forward = forward


@contextlib.contextmanager
def weighted_prompts(pipeline, case):
    """diffusers as it is, but for its encoding of prompts. Yields what takes the prompts' place among the pipeline's arguments."""
    guided = (7.5 if case.guidance_scale is None else case.guidance_scale) > 1
    pooled = {}
    # As in diffusers clip_skip is the prompt's alone.
    with torch.no_grad():
        if hasattr(pipeline, "text_encoder_2"):
            positive, pooled["pooled_prompt_embeds"] = of_two_encoders(case.prompt, case.prompt_2, pipeline, case.clip_skip or 0)
            if case.negative_prompt is None and pipeline.config.force_zeros_for_empty_prompt:
                negative, of_negative = torch.zeros(1, ROOM + 2, positive.shape[2]), torch.zeros_like(pooled["pooled_prompt_embeds"])
            else:
                negative, of_negative = of_two_encoders(case.negative_prompt or "", case.negative_prompt_2, pipeline, 0)
            pooled["negative_pooled_prompt_embeds"] = of_negative
        else:
            positive, negative = of_one_encoder(case.prompt, pipeline, case.clip_skip or 0), of_one_encoder(case.negative_prompt or "", pipeline, 0)
    if not guided:
        yield {"prompt_embeds": positive, "pooled_prompt_embeds": pooled["pooled_prompt_embeds"]} if pooled else {"prompt_embeds": positive}
        return
    if positive.shape == negative.shape:
        yield {"prompt_embeds": positive, "negative_prompt_embeds": negative} | pooled
        return
    stand_in = torch.zeros_like(positive)
    with one_call_for_each(pipeline, negative, positive):
        yield {"prompt_embeds": stand_in, "negative_prompt_embeds": stand_in} | pooled
