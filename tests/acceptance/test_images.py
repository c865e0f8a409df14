"""Files in every format, and what other tools read in them; images that are checked before anybody sees them."""

import base64
import io
import os

import numpy
import openai
import pytest
import safetensors.numpy
from modelslab_py.core.apis.community import Community
from modelslab_py.core.client import Client
from modelslab_py.schemas.community import Text2Image
from PIL import Image

from asking import RED_CIRCLE, TEXT_TO_IMAGE, assert_modelslab_error, assert_openai_error, assert_success
from picture import same_pixels

PROMPT = "a red circle on a blue background"
QUICK = RED_CIRCLE | {"num_inference_steps": 8, "seed": 3}
USER_COMMENT = 0x9286
EXIF_DIRECTORY = 0x8769

needs_weights = pytest.mark.skipif(
    "EMULSION_SAFETY_CHECKER" not in os.environ, reason="the safety checker's weights are not there: see models/safety-checker"
)


def client(house, key):
    return openai.OpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0, timeout=120)


def made(house, key, **options):
    """The file, and the answer it came in."""
    answer = client(house, key).images.generate(model="demo", prompt=PROMPT, size="64x64", extra_body={"seed": 3, "steps": 8}, **options)
    return base64.b64decode(answer.data[0].b64_json, validate=True), answer


def parameters(file):
    """AUTOMATIC1111's text, found where its own reader looks for it."""
    image = Image.open(io.BytesIO(file))
    if image.format == "PNG":
        return image.info["parameters"]
    comment = image.getexif().get_ifd(EXIF_DIRECTORY)[USER_COMMENT]
    assert comment.startswith(b"UNICODE\0"), comment[:8]
    return comment[8:].decode("utf-16-be")


def test_each_format_is_what_it_says_with_its_parameters_inside(house, key):
    png, _ = made(house, key)
    assert parameters(png).startswith(f"{PROMPT}\nSteps: 8, Sampler: ")
    for name, kind in [("jpeg", "JPEG"), ("webp", "WEBP")]:
        file, answer = made(house, key, output_format=name)
        image = Image.open(io.BytesIO(file))
        assert (image.format, image.size, answer.output_format) == (kind, (64, 64), name)
        assert parameters(file) == parameters(png)
        difference = numpy.asarray(image.convert("RGB"), int) - numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)
        assert abs(difference).max() <= (0 if name == "webp" else 8)
    small, _ = made(house, key, output_format="jpeg", output_compression=10)
    large, _ = made(house, key, output_format="jpeg", output_compression=100)
    assert len(small) < len(large)


def test_a_prompt_of_any_language_is_in_the_file(house, key):
    prompt = "a red circle, 赤い丸, красный круг 🔴"
    for name in ["png", "jpeg", "webp"]:
        answer = client(house, key).images.generate(model="demo", prompt=prompt, size="64x64", output_format=name, extra_body={"steps": 4})
        assert parameters(base64.b64decode(answer.data[0].b64_json)).startswith(prompt + "\n"), name


def test_links_end_in_the_formats_name_and_are_served_as_it(house, key):
    for name, ending in [("jpeg", ".jpg"), ("webp", ".webp"), ("png", ".png")]:
        [image] = made_links(house, key, name)
        reply = house.get(image.url.removeprefix(house.url))
        assert image.url.endswith(ending) and reply.headers["content-type"] == f"image/{name}"
        assert Image.open(io.BytesIO(reply.content)).format == name.upper()


def made_links(house, key, name):
    options = {"response_format": "url", "output_format": name, "extra_body": {"steps": 4}}
    return client(house, key).images.generate(model="demo", prompt=PROMPT, size="64x64", **options).data


def test_a_streamed_image_comes_in_the_format_too(house, key):
    stream = client(house, key).images.generate(
        model="demo", prompt=PROMPT, size="64x64", stream=True, partial_images=1, output_format="webp", extra_body={"steps": 8}
    )
    partial, completed = stream
    assert (partial.output_format, completed.output_format) == ("png", "webp")
    formats = [Image.open(io.BytesIO(base64.b64decode(event.b64_json))).format for event in (partial, completed)]
    assert formats == ["PNG", "WEBP"]


def test_an_unknown_format_is_a_bad_request(house, key):
    with pytest.raises(openai.BadRequestError, match="output_format"):
        made(house, key, output_format="gif")


def test_without_weights_a_call_for_checked_images_is_refused_and_costs_nothing(house, key):
    assert_modelslab_error(house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "safety_checker": "yes"}), 400, "safety_checker", "not")
    body = {"prompt": PROMPT, "safety_checker": True}
    assert_openai_error(house.post("/v1/images/generations", body, headers={"Authorization": f"Bearer {key}"}), 400, "safety_checker")
    assert house.usage(key) == {"calls": 0, "images": 0}


@pytest.fixture(scope="module")
def suspicious_weights(tmp_path_factory):
    """The real network, made to find everything unsafe."""
    tensors = safetensors.numpy.load_file(os.environ["EMULSION_SAFETY_CHECKER"])
    tensors["classifier.bias"] = numpy.array([-30, 30], numpy.float32)
    path = tmp_path_factory.mktemp("weights") / "suspicious.safetensors"
    safetensors.numpy.save_file(tensors, path)
    return path


@needs_weights
def test_harmless_images_pass_the_check_as_they_are(fresh_house):
    house = fresh_house(safety_checker=os.environ["EMULSION_SAFETY_CHECKER"])
    key = house.key()
    community = Community(client=modelslab(house, key))
    answer = community.text_to_image(Text2Image(**RED_CIRCLE, seed=3, safety_checker="yes"))
    assert (answer["nsfw_content_detected"], answer["meta"]["safety_checker"]) == (False, "yes")
    [checked] = assert_success(house, answer)
    [unchecked] = assert_success(house, community.text_to_image(Text2Image(**RED_CIRCLE, seed=3)))
    assert same_pixels(checked, unchecked)


@needs_weights
def test_unsafe_images_are_drawn_over_in_the_style_that_was_asked_for(fresh_house, suspicious_weights):
    house = fresh_house(safety_checker=suspicious_weights)
    key = house.key()
    answers = {
        style: house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "safety_checker": "yes", "safety_checker_type": style}).json()
        for style in ["black", "blur", "pixelate", "sensitive_content_text"]
    }
    assert all(answer["nsfw_content_detected"] is True for answer in answers.values())
    seen = {style: assert_success(house, answer)[0] for style, answer in answers.items()}
    unchecked = house.post(TEXT_TO_IMAGE, QUICK | {"key": key, "safety_checker": "no"}).json()
    assert unchecked["nsfw_content_detected"] is False
    [original] = assert_success(house, unchecked)
    assert not any(same_pixels(original, png) for png in seen.values())
    assert not numpy.asarray(Image.open(io.BytesIO(seen["black"])).convert("RGB")).any()
    assert sharpest(seen["blur"]) * 3 < sharpest(original)
    assert (numpy.asarray(Image.open(io.BytesIO(seen["sensitive_content_text"])).convert("L")) == 255).sum() > 100
    # Whoever fetches it later learns the same, and it is billed like any other.
    fetched = house.post(f"/api/v7/images/fetch/{answers['blur']['id']}", {"key": key}).json()
    assert fetched["nsfw_content_detected"] is True
    assert house.usage(key) == {"calls": 5, "images": 5}


@needs_weights
def test_a_stream_of_checked_images_has_no_previews(fresh_house, suspicious_weights):
    house = fresh_house(safety_checker=suspicious_weights)
    events = list(
        client(house, house.key()).images.generate(
            model="demo", prompt=PROMPT, size="64x64", stream=True, partial_images=2, extra_body={"safety_checker": True, "steps": 8}
        )
    )
    assert [event.type for event in events] == ["image_generation.completed"]
    assert events[0].nsfw_content_detected is True


def sharpest(png):
    """The largest step from a pixel to the next."""
    pixels = numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int)
    return abs(numpy.diff(pixels, axis=1)).max()


def modelslab(house, key):
    api = Client(api_key=key)
    api.base_url = f"{house.url}/api/"
    return api
