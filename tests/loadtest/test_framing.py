"""Bytes arrive in any pieces; texts come out whole."""

import pytest
from gastown.loadtest.fleet import Refused, read
from gastown.loadtest.framing import Framing, content_length, http_reply, http_request


@pytest.mark.parametrize("dialect", ["http", "lines"])
def test_texts_come_out_whole_however_they_arrive(dialect: str) -> None:
    texts = [b'{"a":1}', b'{"b":"' + b"x" * 500 + b'"}']
    stream = b"".join(http_reply(text) if dialect == "http" else text + b"\n" for text in texts)
    framing, found = Framing(dialect), []
    for byte in stream:
        framing.feed(bytes([byte]))
        while (text := framing.take()) is not None:
            found.append(text)
    assert found == texts


def test_a_request_announces_its_length_and_its_bearer() -> None:
    request = http_request(b"{}", "localhost", "secret")
    head, body = request.split(b"\r\n\r\n")
    assert body == b"{}"
    assert content_length(head) == 2
    assert b"Authorization: Bearer secret" in head
    assert b"Authorization" not in http_request(b"{}", "localhost", "")


def test_the_status_of_a_reply_without_json_is_its_code() -> None:
    framing = Framing("http")
    framing.feed(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
    body = framing.take()
    assert body == b"busy"
    with pytest.raises(Refused) as refusal:
        read(body, framing.status)
    assert refusal.value.code == -503
