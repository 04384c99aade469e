"""Where one JSON text ends and the next begins: HTTP/1.1 with Content-Length, or newlines."""

HEAD_END = b"\r\n\r\n"


class Framing:
    """Bytes in, whole texts out, requests and replies alike. `status` is the last reply's HTTP status, else 200."""

    def __init__(self, dialect: str) -> None:
        self.http = dialect == "http"
        self.buffer = bytearray()
        self.status = 200

    def feed(self, data: bytes) -> None:
        self.buffer += data

    def take(self) -> bytes | None:
        """The next complete text, or None until more bytes came."""
        return self._http() if self.http else self._line()

    def _line(self) -> bytes | None:
        end = self.buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        return line

    def _http(self) -> bytes | None:
        end = self.buffer.find(HEAD_END)
        if end < 0:
            return None
        head = bytes(self.buffer[:end])
        start = end + len(HEAD_END)
        length = content_length(head)
        if len(self.buffer) < start + length:
            return None
        body = bytes(self.buffer[start : start + length])
        del self.buffer[: start + length]
        if head.startswith(b"HTTP/"):
            self.status = int(head[9:12])
        return body


def content_length(head: bytes) -> int:
    """The announced length of the body, 0 without one."""
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        return 0
    return int(head[at + 17 :].split(b"\r\n", 1)[0])


def http_reply(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def http_request(body: bytes, host: str, bearer: str) -> bytes:
    authorization = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    head = (
        f"POST /rpc HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"{authorization}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
