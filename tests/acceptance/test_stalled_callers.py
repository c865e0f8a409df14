"""Callers that begin a body and never end it."""

import http.client
import json
import socket

import pytest

from house import CALL_SECONDS


@pytest.mark.parametrize("path", ["/api/v7/images/text-to-image", "/v1/images/generations"])
def test_a_body_that_never_ends_is_cut_off(fresh_house, path):
    house = fresh_house(body_timeout="500ms")
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    # The socket's own time limit fails the test.
    with socket.create_connection(("127.0.0.1", house.port), timeout=CALL_SECONDS) as connection:
        connection.sendall(head.encode() + b'{"prompt": "a red')
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 408
        assert json.loads(reply.read())
