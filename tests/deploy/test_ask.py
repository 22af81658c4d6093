"""What `helm test` runs in the service's image, against a server that answers like the service."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from helm.generate import CHART

ANSWER: dict[str, Any] = {"answer": "4,806 metres", "citations": [], "degraded": [], "passages": [{"id": "1"}]}


class Server(HTTPServer):
    """Answers every POST with `reply`, and remembers what came."""

    reply: tuple[int, dict[str, Any]] = (200, ANSWER)
    asked: list[tuple[str, str | None, dict[str, Any]]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, self.headers.get("authorization"), body))
        status, reply = self.server.reply
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at what was asked."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        found.asked = []
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server: Server, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        "URL": f"http://127.0.0.1:{server.server_port}",
        "QUESTION": "How high?",
        "EXPECT": "",
        "PASSAGES": "[]",
    }
    script = (CHART / "files" / "ask.py").read_text(encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_good_answer_passes(server: Server) -> None:
    done = ask(server, EXPECT="4,806", PASSAGES='["Mont Blanc rises to 4,806 metres."]', API_KEY="k")
    assert (done.returncode, done.stdout) == (0, "4,806 metres\n")
    passages = [{"text": "Mont Blanc rises to 4,806 metres."}]
    assert server.asked == [("/answer", "Bearer k", {"question": "How high?", "passages": passages})]


def test_without_passages_the_index_is_asked_and_without_a_key_none_is_sent(server: Server) -> None:
    assert ask(server).returncode == 0
    assert server.asked == [("/answer", None, {"question": "How high?"})]


@pytest.mark.parametrize(
    ("reply", "expect"),
    [
        ((200, ANSWER), "8,848"),
        ((200, {**ANSWER, "answer": ""}), ""),
        ((200, {**ANSWER, "passages": []}), ""),
        ((401, {"message": "who are you?"}), ""),
        ((503, {"message": "not ready"}), ""),
    ],
)
def test_anything_else_fails(reply: tuple[int, dict[str, Any]], expect: str, server: Server) -> None:
    server.reply = reply
    assert ask(server, EXPECT=expect).returncode != 0
