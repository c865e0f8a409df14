"""Image-to-image, inpainting and outpainting by their real clients, unmodified: `modelslab-py` and `openai`."""

import base64
import http.server
import io
import threading

import numpy
import openai
import pytest
from modelslab_py.core.apis.community import Community
from modelslab_py.core.apis.image_editing import Image_editing
from modelslab_py.core.apis.realtime import Realtime
from modelslab_py.core.client import Client
from modelslab_py.schemas.community import Image2Image, Inpainting
from modelslab_py.schemas.image_editing import OutpaintingSchema
from modelslab_py.schemas.realtime import RealtimeImage2ImageSchema, RealtimeInpaintingSchema
from PIL import Image, ImageDraw

from asking import assert_modelslab_error, assert_success
from patience import eventually
from picture import COLOURS, look

GREEN = "a green circle on a blue background"
RECOVERY_SECONDS = 120  # the images are made again from the start, in a debug build


def drawn(shape=(200, 30, 30), background=COLOURS["blue"], size=64):
    """A circle in the middle, as a PNG."""
    picture = Image.new("RGB", (size, size), tuple(int(value) for value in background))
    ImageDraw.Draw(picture).ellipse((size // 4, size // 4, size * 3 // 4, size * 3 // 4), fill=shape)
    return encoded(picture)


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def mask(size=64, white=True):
    """White, or transparent, over the middle."""
    kept, anew = (0, 255) if white else ((0, 0, 0, 255), (0, 0, 0, 0))
    picture = Image.new("L" if white else "RGBA", (size, size), kept)
    ImageDraw.Draw(picture).rectangle((size // 8, size // 8, size * 7 // 8, size * 7 // 8), fill=anew)
    return encoded(picture)


def text(file):
    return base64.b64encode(file).decode()


def api(kind, house, key):
    client = Client(api_key=key)
    client.base_url = f"{house.url}/api/"
    return kind(client=client)


def pixels(png):
    return numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def assert_kept_outside_the_mask(before, after):
    outside = numpy.ones((64, 64), dtype=bool)
    outside[8:57, 8:57] = False
    assert (pixels(before)[outside] == pixels(after)[outside]).all()


def test_image_to_image_keeps_the_shape_at_low_strength(house, key):
    request = Image2Image(prompt="a red circle on a blue background", model_id="demo", init_image=text(drawn()), seed=5, strength=0.3)
    answer = api(Community, house, key).image_to_image(request)
    [png] = assert_success(house, answer)
    seen = look(png)
    assert (seen["shape"], seen["shape_colour"], seen["size"]) == ("circle", "red", (64, 64)), seen
    assert answer["meta"]["strength"] == 0.3


def test_inpainting_changes_what_is_white_and_nothing_else(house, key):
    original = drawn()
    request = Inpainting(prompt=GREEN, model_id="demo", init_image=text(original), mask_image=text(mask()), seed=5)
    [png] = assert_success(house, api(Community, house, key).inpainting(request))
    assert look(png)["shape_colour"] == "green"
    assert_kept_outside_the_mask(original, png)


def test_realtime_has_the_same_two(house, key):
    realtime = api(Realtime, house, key)
    size = {"width": 64, "height": 64}
    answer = realtime.image_to_image(RealtimeImage2ImageSchema(prompt=GREEN, init_image=text(drawn()), strength=0.9, **size))
    assert_success(house, answer)
    inpainted = RealtimeInpaintingSchema(prompt=GREEN, init_image=text(drawn()), mask_image=text(mask()), **size)
    assert_success(house, realtime.inpainting(inpainted))


def test_outpainting_draws_around_the_picture(house, key):
    request = OutpaintingSchema(prompt="a red circle on a blue background", image=text(drawn()), width=128, height=96, seed=5)
    answer = api(Image_editing, house, key).outpainting(request)
    [png] = assert_success(house, answer)
    assert look(png)["size"] == (128, 96)
    # Beyond the pixels over which the new fades in, the picture is where it was.
    inner = pixels(png)[16:80, 32:96]
    middle = slice(28, 36)
    assert (inner[middle, middle] == pixels(drawn())[middle, middle]).all()


def test_a_picture_may_be_named_by_its_address(fresh_house):
    house = fresh_house(input_allow_network="127.0.0.1/32")
    picture = drawn()

    class Pictures(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/a.png"
        request = Image2Image(prompt=GREEN, model_id="demo", init_image=url, num_inference_steps=4)
        assert_success(house, api(Community, house, house.key()).image_to_image(request))
    finally:
        server.shutdown()
        server.server_close()


def test_a_request_keeps_its_picture_when_the_router_is_killed(fresh_house):
    house = fresh_house()
    key = house.key()
    body = {"key": key, "prompt": GREEN, "model_id": "demo", "init_image": text(drawn()), "strength": 1, "seed": 7}
    body |= {"samples": 4, "num_inference_steps": 100, "instant_response": True}
    started = house.post("/api/v7/images/image-to-image", body).json()
    assert started["status"] == "processing", started
    house.working_replica()
    house.kill()
    house.start()

    def finished():
        answer = house.post(f"/api/v7/images/fetch/{started['id']}", {"key": key}).json()
        return answer if answer["status"] != "processing" else None

    assert_success(house, eventually("the request finishes", finished, RECOVERY_SECONDS), images=4)


def test_a_black_mask_leaves_nothing_to_draw(house, key):
    black = encoded(Image.new("L", (64, 64), 0))
    body = {"key": key, "prompt": GREEN, "model_id": "demo", "init_image": text(drawn()), "mask_image": text(black)}
    assert_modelslab_error(house.post("/api/v7/images/inpaint", body), 400, "mask")


@pytest.fixture
def client(house, key):
    return openai.OpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0, timeout=120)


def test_an_edit_changes_what_is_transparent_in_its_mask(client):
    original = drawn()
    masked = {"image": ("a.png", original), "mask": ("m.png", mask(white=False))}
    [image] = client.images.edit(model="demo", prompt=GREEN, extra_body={"seed": 5}, **masked).data
    png = base64.b64decode(image.b64_json)
    assert look(png)["shape_colour"] == "green"
    assert_kept_outside_the_mask(original, png)


def test_an_edit_without_a_mask_changes_the_whole_picture(client):
    answer = client.images.edit(model="demo", prompt=GREEN, image=("a.png", drawn()), n=2, extra_body={"strength": 1, "seed": 5})
    assert len(answer.data) == 2 and answer.size == "64x64"
    assert look(base64.b64decode(answer.data[0].b64_json))["shape_colour"] == "green"


def test_an_edit_is_streamed_with_events_of_its_own(client):
    events = list(client.images.edit(model="demo", prompt=GREEN, image=("a.png", drawn()), stream=True, partial_images=1))
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert look(base64.b64decode(events[-1].b64_json))["size"] == (64, 64)
