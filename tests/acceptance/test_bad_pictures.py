"""Pictures that cannot be used are refused before anything is fetched from inside, inflated or computed, and cost nothing."""

import base64
import http.server
import io
import struct
import threading
import zlib

import pytest
from PIL import Image

from asking import assert_modelslab_error, assert_openai_error

IMAGE_TO_IMAGE = "/api/v7/images/image-to-image"
INPAINT = "/api/v6/images/inpaint"
OUTPAINT = "/api/v6/image_editing/outpaint"
EDITS = "/v1/images/edits"


def png(size=(64, 64), colour=(200, 30, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def text(file: bytes):
    return base64.b64encode(file).decode()


def bomb(side):
    """A valid PNG of side × side black pixels, a few hundred kilobytes that inflate to gigabytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    squeezer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    rows = b"".join(squeezer.compress(row) for _ in range(side)) + squeezer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


GOOD = text(png())
BOMB = text(bomb(50_000))
UNREACHED = "Unable to fetch image from provided URL"
# (what is wrong, path, fields, words the message has)
BAD_PICTURES = [
    ("no picture", IMAGE_TO_IMAGE, {}, ["init_image is required"]),
    ("an empty one", IMAGE_TO_IMAGE, {"init_image": ""}, ["init_image is required"]),
    ("words", IMAGE_TO_IMAGE, {"init_image": "a red circle!"}, ["init_image", "base64"]),
    ("a page", IMAGE_TO_IMAGE, {"init_image": text(b"<html></html>")}, ["init_image", "PNG, JPEG or WebP"]),
    ("a GIF", IMAGE_TO_IMAGE, {"init_image": text(b"GIF89a" + bytes(100))}, ["init_image", "PNG, JPEG or WebP"]),
    ("a cut header", IMAGE_TO_IMAGE, {"init_image": text(png()[:20])}, ["init_image", "damaged"]),
    ("a bomb", IMAGE_TO_IMAGE, {"init_image": BOMB}, ["init_image", "too large"]),
    ("a bomb as a mask", INPAINT, {"init_image": GOOD, "mask_image": BOMB}, ["mask_image", "too large"]),
    ("several", IMAGE_TO_IMAGE, {"init_image": [GOOD, GOOD]}, ["more than one picture", "not supported"]),
    ("a mask alone", INPAINT, {"mask_image": GOOD}, ["init_image is required"]),
    ("no mask", INPAINT, {"init_image": GOOD}, ["mask_image is required"]),
    ("nothing to draw around", OUTPAINT, {"width": 128}, ["image is required"]),
    ("strength 0", IMAGE_TO_IMAGE, {"init_image": GOOD, "strength": 0}, ["strength", "above 0 and at most 1"]),
    ("strength 2", IMAGE_TO_IMAGE, {"init_image": GOOD, "strength": 2}, ["strength", "above 0 and at most 1"]),
    ("strength is a word", IMAGE_TO_IMAGE, {"init_image": GOOD, "strength": "much"}, ["strength"]),
    ("a file of the server", IMAGE_TO_IMAGE, {"init_image": "file:///etc/passwd"}, ["init_image", "http"]),
    ("another scheme", IMAGE_TO_IMAGE, {"init_image": "ftp://127.0.0.1/a.png"}, ["init_image", "http"]),
    ("this machine", IMAGE_TO_IMAGE, {"init_image": "http://127.0.0.1/a.png"}, [UNREACHED, "not public"]),
    ("this machine by name", IMAGE_TO_IMAGE, {"init_image": "http://localhost/a.png"}, [UNREACHED, "not public"]),
    ("this machine in disguise", IMAGE_TO_IMAGE, {"init_image": "http://2130706433/a.png"}, [UNREACHED, "not public"]),
    ("this machine as IPv6", IMAGE_TO_IMAGE, {"init_image": "http://[::ffff:127.0.0.1]/a.png"}, [UNREACHED, "not public"]),
    ("a URL with a password", IMAGE_TO_IMAGE, {"init_image": "http://a:b@127.0.0.1/"}, [UNREACHED, "password"]),
    ("an unknown LoRA", IMAGE_TO_IMAGE, {"init_image": GOOD, "lora_model": "nobodys"}, ["LoRA not found: nobodys"]),
    ("a checkpoint as LoRA", IMAGE_TO_IMAGE, {"init_image": GOOD, "lora_model": "demo"}, ["demo is a checkpoint"]),
]


@pytest.fixture(scope="module")
def poor(house):
    return house.key()


@pytest.mark.parametrize(("path", "fields", "words"), [line[1:] for line in BAD_PICTURES], ids=[line[0] for line in BAD_PICTURES])
def test_a_picture_that_cannot_be_used_is_named(house, poor, path, fields, words):
    reply = house.post(path, {"key": poor, "prompt": "a red circle"} | fields)
    assert_modelslab_error(reply, 400, *words)


def test_an_edit_with_several_pictures_is_not_supported(house, poor):
    files = [("image[]", ("a.png", png())), ("image[]", ("b.png", png()))]
    reply = house.post(EDITS, files=files, data={"prompt": "a"}, headers={"Authorization": f"Bearer {poor}"})
    assert_openai_error(reply, 400, "not supported")


def test_an_edit_whose_mask_keeps_everything_is_refused(house, poor):
    files = {"image": ("a.png", png()), "mask": ("b.png", png())}
    reply = house.post(EDITS, files=files, data={"prompt": "a"}, headers={"Authorization": f"Bearer {poor}"})
    assert_openai_error(reply, 400, "mask has no transparent pixels")


def test_a_picture_of_too_many_bytes_is_refused(house, poor):
    reply = house.post(IMAGE_TO_IMAGE, {"key": poor, "prompt": "a", "init_image": text(bytes(17 * 1024 * 1024))})
    assert_modelslab_error(reply, 400, "init_image is larger than")


class Answers(http.server.BaseHTTPRequestHandler):
    """Redirects to the inside, and files that never end."""

    def do_GET(self):
        if self.path == "/inside":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.2/latest/meta-data")
            self.end_headers()
            return
        self.send_response(200 if self.path == "/endless" else 404)
        self.end_headers()
        while self.path == "/endless":
            try:
                self.wfile.write(bytes(1 << 20))
            except OSError:
                return

    def log_message(self, *_):
        pass


def test_what_an_allowed_server_answers_is_bounded_and_checked(fresh_house):
    house = fresh_house(input_allow_network="127.0.0.1/32")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for path, words in [
            ("/inside", [UNREACHED, "not public"]),
            ("/missing", [UNREACHED, "status 404"]),
            ("/endless", [UNREACHED, "more than"]),
        ]:
            body = {"key": house.key(), "prompt": "a", "init_image": f"http://127.0.0.1:{server.server_port}{path}"}
            assert_modelslab_error(house.post(IMAGE_TO_IMAGE, body), 400, *words)
    finally:
        server.shutdown()
        server.server_close()


def test_nothing_was_charged(house, poor):
    house.post(IMAGE_TO_IMAGE, {"key": poor, "prompt": "a", "init_image": ""})
    assert house.usage(poor) == {"calls": 0, "images": 0}
