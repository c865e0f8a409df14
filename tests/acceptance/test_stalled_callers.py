"""Callers that begin a body and never end it. Late among the files: the router's patience passes while others run."""

import http.client
import json


def test_a_body_that_never_ends_is_cut_off(house, stalled_callers):
    for path, connection in stalled_callers.items():
        # The socket's own time limit fails the test.
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == 408, path
        assert json.loads(reply.read())
