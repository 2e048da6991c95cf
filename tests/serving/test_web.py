"""`ncdeploy serve` as clients meet it: tritonclient, plain HTTP, a browser, and those that mean no good."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ncdeploy import make_bundle, open_engine, sample
from ncdeploy.formats.filetype import is_bundle
from oracle import digits
from tiny_models import IMAGES, write_mixture

pytest.importorskip("uvicorn", reason="needs the extra serve: starlette, uvicorn, prometheus-client")
ROOT = Path(__file__).resolve().parents[2]
SEED = {"name": "seed", "datatype": "INT64", "shape": [2], "data": [3, 4]}


class Running:
    """The command in a process of its own, on a port that was free."""

    def __init__(self, *arguments: Any) -> None:
        command = [sys.executable, "-m", "ncdeploy_cli.main", "serve", *map(str, arguments), "--port", "0"]
        path = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.said = self.process.stderr.readline()
        assert "serving" in self.said, self.said + self.process.stderr.read()
        self.port = int(self.said.partition("http://127.0.0.1:")[2].partition("/")[0])

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (an object where it is JSON), headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        text, found = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        connection.close()
        return answer.status, json.loads(text) if found["content-type"] == "application/json" else text, found

    def infer(self, inputs: Any = (SEED,), **more: Any) -> tuple[int, Any, dict[str, str]]:
        return self("POST", "/v2/models/b/infer", {"inputs": list(inputs), **more})

    def end(self, how: int = signal.SIGTERM, seconds: float = 20) -> int:
        self.process.send_signal(how)
        code = self.process.wait(seconds)
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        self.process.stderr.close()
        self.printed = self.process.stdout.read()
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    means = digits().means[:32].reshape(-1, 1, 8, 8)
    engine = write_mixture(folder / "digits.onnx", IMAGES, means)
    make_bundle(engine, folder / "b", plans=[IMAGES.plan(), IMAGES.plan("ddim", 20)])
    assert is_bundle(folder / "b")
    return folder / "b"


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Running]:
    running = Running(bundle, "--threads", 1, "--max-body", 1)
    yield running
    if running.process.poll() is None:
        assert running.end() == 0


def test_tritonclient_finds_what_it_asks_for(served: Running, bundle: Path) -> None:
    client_of = pytest.importorskip("tritonclient.http", reason="needs geventhttpclient")
    client = client_of.InferenceServerClient(f"127.0.0.1:{served.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("b")
    assert not client.is_model_ready("nobody")
    about = client.get_model_metadata("b")
    assert about["inputs"] == [{"name": "seed", "datatype": "UINT64", "shape": [-1]}]
    assert about["outputs"][0] == {"name": "samples", "datatype": "FP32", "shape": [-1, 1, 8, 8]}
    engine = open_engine(bundle, threads=1)
    seed = client_of.InferInput("seed", [4], "UINT64")
    seed.set_data_from_numpy(np.arange(4, dtype=np.uint64))
    wanted = [client_of.InferRequestedOutput("samples", binary_data=False), client_of.InferRequestedOutput("sweeps")]
    for outputs in (None, wanted):
        answer = client.infer(
            "b", [seed], request_id="mine", outputs=outputs, priority=1, timeout=60_000_000,
            parameters={"plan": "heun-8", "window": 4},
        )  # fmt: skip
        expected = sample(engine, engine.info.plan("heun", 8), seeds=range(4), window=4)
        np.testing.assert_allclose(
            answer.as_numpy("samples"), expected.to_data(), atol=1e-4, rtol=0
        )  # 8 to a model unit
        np.testing.assert_array_equal(answer.as_numpy("sweeps"), expected.sweeps)
        assert answer.get_response()["id"] == "mine"
    with pytest.raises(client_of.InferenceServerException, match=r"\[400\] plan: got 'nonsense'"):
        client.infer("b", [seed], parameters={"plan": "nonsense"})


def test_the_example_draws(served: Running) -> None:
    pytest.importorskip("tritonclient.http", reason="needs geventhttpclient")
    example = ROOT / "examples" / "serve_client.py"
    done = subprocess.run(
        [sys.executable, str(example), f"127.0.0.1:{served.port}", "b"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(4, 1, 8, 8) in [")
    assert len(example.read_text().splitlines()) <= 20


def test_plain_json_is_enough(served: Running) -> None:
    status, answer, _ = served.infer(outputs=[{"name": "samples"}, {"name": "complete"}])
    assert status == 200
    samples, complete = answer["outputs"]
    assert samples["shape"] == [2, 1, 8, 8]
    assert len(samples["data"]) == 128
    assert complete["data"] == [True, True]
    assert answer["parameters"]["calls"] > 1
    assert served("GET", "/v2")[1]["name"] == "ncdeploy"
    assert served("GET", "/v2/models/b/versions/1")[0] == 200


@pytest.mark.parametrize(
    ("inputs", "more", "says"),
    [
        ([], {}, "seed is missing"),
        ([{**SEED, "datatype": "FP32"}], {}, "seed: got float32"),
        ([{**SEED, "datatype": "FP99"}], {}, "datatype 'FP99'"),
        ([{**SEED, "shape": [3]}], {}, "not 3 numbers"),
        ([{**SEED, "shape": [2, 1]}], {}, "expected one integer per sample"),
        ([{**SEED, "data": [1.5, 2]}], {}, "no numbers of INT64"),
        ([{**SEED, "data": [-1, 2]}], {}, "a seed lies in 0 .. 2^64 - 1"),
        ([{**SEED, "data": ["a", "b"]}], {}, "no numbers"),
        ([{**SEED, "data": [[1, 2], [3]]}], {}, "no numbers"),
        ([SEED, SEED], {}, "given twice"),
        ([SEED, {**SEED, "name": "obs"}], {}, "this model takes seed"),
        ([SEED], {"parameters": {"plan": "ddim-0"}}, "plan: got 'ddim-0'"),
        ([SEED], {"parameters": {"plan": 3}}, "plan: got '3'; expected a text"),
        ([SEED], {"parameters": {"window": "wide"}}, "window: got 'wide'"),
        ([SEED], {"parameters": {"window": True}}, "window: got 'True'"),
        ([SEED], {"parameters": {"speed": 1}}, "parameters: got 'speed'"),
        ([SEED], {"parameters": {"deadline": 0}}, "deadline: got 0"),
        ([SEED], {"parameters": {"deadline": 1, "timeout": 1}}, "give one of them"),
        ([SEED], {"parameters": {"priority": 10}}, "priority: got 10"),
        ([SEED], {"parameters": {"acceptance": "law", "plan": "heun-8"}}, "no law to be exact in"),
        ([SEED], {"parameters": {"tolerance": -1}}, "tolerance: got -1"),
        ([SEED], {"parameters": {"guidance": 2}}, "guidance: needs labels"),
        ([SEED], {"outputs": [{"name": "pictures"}]}, "outputs: got 'pictures'"),
        ([SEED], {"id": 3}, "id: expected a text"),
        ([{**SEED, "shape": [9000], "data": list(range(9000))}], {}, "at most"),
    ],
)
def test_what_does_not_fit_is_400_and_one_line(served: Running, inputs: Any, more: Any, says: str) -> None:
    status, answer, _ = served.infer(inputs, **more)
    assert status == 400
    assert says in answer["error"]
    assert "\n" not in answer["error"]


def test_other_refusals(served: Running) -> None:
    assert served("GET", "/v2/models/nobody")[0] == 404
    assert served("GET", "/nowhere")[0] == 404
    assert served("GET", "/v2/models/b/infer")[0] == 405
    assert served("POST", "/v2/models/b/infer", b"x" * (1 << 21))[0] == 413
    assert served("POST", "/v2/models/b/infer", b"{}", {"Content-Encoding": "gzip"})[0] == 415
    status, answer, _ = served("POST", "/v2/models/b/infer", b"[" * 100_000)
    assert status == 400, answer
    status, answer, _ = served("POST", "/v2/models/b/infer", b"{}", {"Inference-Header-Content-Length": "9"})
    assert "expected the bytes of JSON" in answer["error"]


def test_mutated_requests_get_an_answer_and_the_server_goes_on(served: Running) -> None:
    mutate(served, 300)


def mutate(served: Running, n: int) -> None:
    """Binary and JSON requests with bytes changed, cut out and put in."""
    head = {
        "inputs": [{"name": "seed", "datatype": "UINT64", "shape": [1], "parameters": {"binary_data_size": 8}}],
        "parameters": {"plan": "heun-4", "window": 3, "binary_data_output": True},
    }
    plain = json.dumps({"inputs": [SEED], "parameters": {"plan": "heun-4", "deadline": 5}}).encode()
    start = json.dumps(head).encode()
    rng = random.Random(0)
    found: dict[int, int] = {}
    for i in range(n):
        body = bytearray(plain if i % 2 else start + b"\3\0\0\0\0\0\0\0")
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(body))
            kind = rng.randrange(4)
            if kind == 0:
                body[at] = rng.randrange(256)
            elif kind == 1:
                del body[at : at + rng.randint(1, 9)]
            elif kind == 2:
                body[at:at] = rng.randbytes(rng.randint(1, 5))
            else:
                body[at:at] = str(rng.choice([0, -1, 2**31, 2**63, 2**64, 1e308, 1e-300])).encode()
            body = body or bytearray(b" ")
        headers = {} if i % 2 else {"Inference-Header-Content-Length": str(len(start) + rng.choice([0, 0, 0, 1, -1]))}
        status, answer, _ = served("POST", "/v2/models/b/infer", bytes(body), headers)
        found[status] = found.get(status, 0) + 1
        if status != 200:
            assert len(answer["error"].splitlines()) == 1
    assert set(found) <= {200, 400}, found
    assert found[400] > n / 3
    assert served.infer()[0] == 200


def test_metrics_count(served: Running) -> None:
    before = served.infer()
    assert before[0] == 200
    text = served("GET", "/metrics")[1].decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['ncdeploy_requests_total{model="b",outcome="ok"}']) >= 1
    assert float(values['ncdeploy_rows_total{model="b",use="future"}']) > 0
    assert float(values['ncdeploy_request_seconds_count{model="b"}']) >= 1
    assert float(values['ncdeploy_requests_waiting{model="b"}']) == 0


def test_a_line_for_every_call_as_samples_converge(served: Running) -> None:
    request = {"inputs": [SEED], "parameters": {"plan": "ddim-20", "window": "sequential"}}
    status, text, _ = served("POST", "/v2/models/b/watch", request)
    assert status == 200
    lines = [json.loads(line) for line in text.splitlines()]
    final = np.array(lines[-1]["samples"])
    assert final.shape == (2, 1, 8, 8)
    assert lines[-1]["calls"] == 20
    assert np.abs(np.array(lines[-2]["samples"]) - final).mean() < np.abs(np.array(lines[0]["samples"]) - final).mean()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_the_page_draws_in_a_browser(served: Running, tmp_path: Path) -> None:
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom",
         "--virtual-time-budget=4000", f"http://127.0.0.1:{served.port}/#draw"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "network calls, " in done.stdout
    samples = done.stdout.partition('<div id="samples">')[2].partition("</div>")[0]
    assert samples.count("<canvas") == 4
    assert '<p id="error" role="alert"></p>' in done.stdout
    page = served("GET", "/")[1].decode()
    assert "http://" not in page
    assert "https://" not in page


def test_who_hangs_up_is_forgotten(served: Running) -> None:
    connection = socket.create_connection(("127.0.0.1", served.port))
    body = json.dumps({"inputs": [SEED], "parameters": {"plan": "heun-1000", "window": "sequential"}}).encode()
    connection.sendall(b"POST /v2/models/b/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    wait_for(lambda: status_of(served)["in_work"] == 1)
    connection.close()
    wait_for(lambda: status_of(served)["in_work"] == 0)
    assert re.search(r'outcome="cancelled"} [1-9]', served("GET", "/metrics")[1].decode())


def status_of(served: Running) -> Any:
    return served("GET", "/status")[1]["models"]["b"]


def wait_for(what: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow  # as long as its patience
def test_slow_senders_are_hung_up_on(served: Running) -> None:
    slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    for connection in slow:
        connection.settimeout(20)
        connection.sendall(b"POST /v2/models/b/infer HTTP/1.1\r\nHo")
    assert served.infer()[0] == 200
    begin = time.monotonic()
    heard = [connection.recv(100) for connection in slow]
    for connection in slow:
        connection.close()
    assert heard == [b""] * 20
    assert time.monotonic() - begin < 15


def test_a_token_is_asked_for_beyond_loopback(bundle: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef0123\n")
    command = [sys.executable, "-m", "ncdeploy_cli.main", "serve", str(bundle), "--port", "0"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])}
    done = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "give --token-file, or listen on 127.0.0.1" in " ".join(done.stderr.split())
    token.write_text("short")
    done = subprocess.run([*command, "--token-file", str(token)], capture_output=True, text=True, env=env)
    assert "at least 16 characters" in " ".join(done.stderr.split())
    token.write_text("0123456789abcdef0123\n")
    running = Running(bundle, "--token-file", token, "--json")
    try:
        assert running.infer()[0] == 401
        wrong = {"Authorization": "Bearer 0123456789abcdef0124"}
        assert running("GET", "/status", headers=wrong)[0] == 401
        right = {"Authorization": "Bearer 0123456789abcdef0123"}
        assert running("POST", "/v2/models/b/infer", {"inputs": [SEED]}, right)[0] == 200
        assert running("GET", "/v2/health/live")[0] == 200
        assert running("GET", "/")[0] == 200
    finally:
        running.end()
    assert json.loads(running.printed) == {"models": ["b"], "host": "127.0.0.1", "port": running.port}


def test_sigterm_drains_and_a_full_queue_says_when_to_come_again(bundle: Path) -> None:
    running = Running(bundle, "--threads", 1, "--rows", 1, "--queue", 2)
    answers: list[tuple[int, Any, dict[str, str]]] = []
    seed = {**SEED, "shape": [1], "data": [0]}
    long = {"plan": "heun-1000", "window": 1}
    asked = [threading.Thread(target=lambda: answers.append(running.infer([seed], parameters=long))) for _ in range(3)]
    try:
        asked[0].start()
        wait_for(lambda: status_of(running)["in_work"] == 1, 20)  # only then is the queue the others' alone
        for thread in asked[1:]:
            thread.start()
        wait_for(lambda: status_of(running)["waiting"] == 2, 20)
        status, answer, headers = running.infer([seed])
        assert status == 429
        assert "2 requests are waiting" in answer["error"]
        assert int(headers["retry-after"]) >= 1
    finally:
        code = running.end(seconds=120)
    assert code == 0
    for thread in asked:
        thread.join()
    assert [status for status, _, _ in answers] == [200] * 3


def test_without_the_extra_one_line_says_what_to_install(bundle: Path) -> None:
    code = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
        "from ncdeploy_cli.main import app\n"
        f"app(['serve', {str(bundle)!r}])"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "[serve]" in done.stderr
    assert "Traceback" not in done.stderr
