"""The real command and its server, over HTTP: who is let in, what is taken, and what outlives a kill."""

import http.client
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sample import ROOT, Serving, make_run, sample_trees
from typer.testing import CliRunner

from lpo.annotate.requests import MAX_BODY_BYTES
from lpo.annotate.security import HEADERS, host_is_known
from lpo.cli.app import app
from lpo.errors import BackendError, ConfigError, DataError, NothingLeftError
from lpo.storage import read_jsonl

KEY = "canary-KEY-4f1c9d7e2b"
EDIT = {"annotator": "Ann", "script": 3, "segment": 0, "text": "新的。", "note": "", "done": False, "base": 0,
        "tab": "tab-of-a-test", "sequence": 1, "seconds": 1.5}


class Client:
    """A visitor who keeps a cookie."""

    def __init__(self, port: int, host: str | None = None) -> None:
        self.port, self.host = port, host or f"127.0.0.1:{port}"
        self.cookie = ""

    def ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {"Host": self.host, "Origin": f"http://{self.host}", "Content-Type": "application/json",
                "Cookie": self.cookie, **{name.replace("_", "-"): value for name, value in headers.items()}}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def enter(self, key):
        status, headers, _ = self.ask("GET", f"/?key={key}")
        self.cookie = headers.get("set-cookie", "").partition(";")[0]
        return status, headers

    def save(self, **values):
        status, _, body = self.ask("POST", "/api/save", {**EDIT, **values})
        return status, json.loads(body)


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    made = Serving(make_run(tmp_path_factory.mktemp("runs") / "bridges"), "--token-env", "ANNOTATE_KEY",
                   ANNOTATE_KEY=KEY)
    yield made
    made.stop()


@pytest.fixture
def client(serving):
    made = Client(serving.port)
    made.enter(KEY)
    return made


def test_the_key_becomes_a_cookie_and_leaves_the_address(serving):
    visitor = Client(serving.port)
    status, headers = visitor.enter(KEY)
    assert (status, headers["location"]) == (303, "/")
    attributes = [part.strip().lower() for part in headers["set-cookie"].split(";")]
    assert {"httponly", "samesite=strict", "path=/"} <= set(attributes)
    assert visitor.ask("GET", "/")[0] == 200
    status, headers, _ = visitor.ask("GET", f"//evil.example/x?script=1&key={KEY}&as=Ann")
    assert headers["location"] == "/evil.example/x?script=1&as=Ann", "it leads nowhere else"


def test_odd_cookies_of_other_servers_do_not_hide_the_key(client):
    client.cookie = f'grid={{"a": [1, 2]}}; =; odd[]; theme="dark; {client.cookie}; last=é'.encode().decode("latin-1")
    assert client.ask("GET", "/api/overview")[0] == 200


PATHS = ["/", "/annotate", "/inspect", "/assets/annotate.js", "/api/overview", "/api/script?script=1&annotator=A",
         "/corrections.jsonl", "/nowhere"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cookie", ["", "lpo-annotate=wrong", "{name}=wrong", "{name}=", "{name}=é"])
def test_nothing_is_shown_without_the_key(serving, client, path, cookie):
    visitor = Client(serving.port)
    visitor.cookie = cookie.format(name=client.cookie.partition("=")[0]).encode().decode("latin-1")
    status, headers, body = visitor.ask("GET", path)
    assert status == 403 and "set-cookie" not in headers
    assert b"bridge" not in body and headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert visitor.ask("POST", "/api/save", EDIT)[0] == 403


def test_a_wrong_key_is_refused_in_words_people_can_read(serving):
    status, headers, body = Client(serving.port).ask("GET", "/?key=wrong", Accept="text/html")
    assert status == 403 and b"the address that lpo annotate printed" in body and "set-cookie" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "192.168.0.7", "",
                                  "[::1", "localhost.evil.example"])
def test_other_names_for_this_machine_are_refused(serving, client, host):
    rebound = Client(serving.port, host.format(port=serving.port) or "none")
    rebound.cookie = client.cookie
    assert rebound.ask("GET", "/api/overview")[0] == 403
    assert rebound.ask("GET", f"/?key={KEY}")[0] == 403


def test_a_tunnel_may_have_another_port():
    assert host_is_known("localhost:9000", "127.0.0.1") and host_is_known("[::1]:1", "127.0.0.1")
    assert not host_is_known("10.0.0.7:8765", "127.0.0.1") and host_is_known("10.0.0.7:8765", "0.0.0.0")
    assert not host_is_known("evil.example", "0.0.0.0")


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:1", "https://localhost"])
def test_other_pages_cannot_post(client, origin):
    assert client.ask("POST", "/api/save", EDIT, Origin=origin)[0] == 403


@pytest.mark.parametrize(("values", "status"), [
    (b"annotator=Ann", 400), (b"[]", 400), (b"{", 400), (b"[" * 100_000, 400), (b"\xff", 400),
    ({**EDIT, "script": 99}, 400), ({**EDIT, "segment": 99}, 400), ({**EDIT, "segment": -1}, 400),
    ({**EDIT, "done": "yes"}, 400), ({**EDIT, "base": True}, 400), ({**EDIT, "seconds": -1}, 400),
    ({**EDIT, "annotator": " "}, 400), ({**EDIT, "annotator": "A\x1b"}, 400), ({**EDIT, "annotator": "A" * 41}, 400),
    ({**EDIT, "extra": 1}, 400), ({**EDIT, "text": "x" * 1_000_001}, 400), ({**EDIT, "tab": "../x"}, 400),
    (b" " * (MAX_BODY_BYTES + 1), 413),
])
def test_what_is_not_understood_is_refused_and_not_stored(client, values, status):
    before = client.ask("GET", "/api/overview")[2]
    got, headers, body = client.ask("POST", "/api/save", values)
    assert got == status and headers["content-type"] == "application/json" and json.loads(body)["error"]
    assert client.ask("GET", "/api/overview")[2] == before


def test_forms_are_refused(client):
    assert client.ask("POST", "/api/save", EDIT, Content_Type="text/plain")[0] == 415
    assert client.ask("POST", "/api/save", EDIT, Content_Type="application/x-www-form-urlencoded")[0] == 415
    assert client.ask("PUT", "/api/save", EDIT)[0] == 405 and client.ask("GET", "/api/save")[0] == 405


@pytest.mark.parametrize("query", ["", "?script=x&annotator=A", "?script=1", "?script=9&annotator=A",
                                   "?script=9999999999999999999999&annotator=A", "?script=%00&annotator=A"])
def test_questions_that_are_not_understood(client, query):
    assert client.ask("GET", f"/api/script{query}")[0] == 400


def test_every_answer_carries_the_headers(client):
    for path in PATHS:
        _, headers, _ = client.ask("GET", path)
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert "server" not in headers
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_lone_surrogates_and_nuls_are_cleaned_at_the_door(client):
    body = json.dumps({**EDIT, "script": 4, "text": "half \ud83d and \x00 nothing"}).encode()
    assert client.ask("POST", "/api/save", body)[0] == 200
    _, _, answer = client.ask("GET", "/api/script?script=4&annotator=Ann")
    assert json.loads(answer)["segments"][0]["text"] == "half \ufffd and  nothing"


def test_a_conflict_names_what_is_stored(client):
    assert client.save(script=2)[0] == 200
    status, body = client.save(script=2, tab="another-tab", text="Other.")
    assert status == 409 and body == {"text": "新的。", "note": "", "done": False, "version": 1}


def test_a_second_server_of_the_run_is_refused(serving):
    second = subprocess.run([sys.executable, "-m", "lpo", "annotate", str(serving.run), "--port", "0"], cwd=ROOT,
                            capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 4 and "are open already: process" in second.stderr


def test_an_export_while_the_server_runs(serving, client, tmp_path):
    for index in range(3):
        assert client.save(annotator="Eve", segment=index, sequence=index + 1, done=True, text=f"段{index}。")[0] == 200
    assert client.ask("POST", "/api/finish", {"annotator": "Eve", "script": 3, "version": 1})[0] == 200
    target = tmp_path / "corrections.jsonl"
    done = subprocess.run([sys.executable, "-m", "lpo", "annotate", str(serving.run), "--export", str(target)],
                          cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stdout.startswith("1 of 4 scripts in the export"), done.stderr
    rows = read_jsonl(target)
    assert [row["id"] for row in rows] == ["market"] and rows[0]["segments_revised"][1] == "段1。\n\n"
    _, headers, body = client.ask("GET", "/corrections.jsonl")
    assert [json.loads(line) for line in body.decode().split("\n") if line] == rows
    assert headers["content-disposition"].startswith("attachment")


def test_the_key_is_in_no_file_and_nothing_printed(serving, client):
    client.ask("GET", f"/nowhere?key={KEY}")
    assert KEY not in serving.output and "THE-VALUE-OF-ANNOTATE_KEY" in serving.output
    files = [path for path in serving.run.parent.rglob("*") if path.is_file()]
    assert {"annotations.sqlite", ".annotate.lock"} <= {path.name for path in files}
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize(("options", "words"), [
    (["--accepted-only"], "add --export FILE"),
    (["--export", "x.jsonl", "--port", "1"], "an export serves no page"),
    (["--export", "x.jsonl"], "nobody has annotated this run yet"),
    (["--by", "sectoins"], "did you mean 'sections'"),
    (["--token-env", "NOT_SET"], "NOT_SET holds no key"),
    (["--host", "no.such.host.invalid"], "no such address"),
    (["--port", "99999"], "no such port"),
])
def test_wrong_options_are_refused(tmp_path, options, words):
    run = make_run(tmp_path / "small")
    result = CliRunner().invoke(app, ["annotate", str(run), *options])
    assert isinstance(result.exception, DataError | ConfigError) and words in str(result.exception)
    assert result.exception.exit_code == 2 and not Path("x.jsonl").exists()


def test_a_taken_port_and_runs_with_nothing_to_correct(tmp_path, serving):
    result = CliRunner().invoke(app, ["annotate", str(make_run(tmp_path / "one")), "--port", str(serving.port)])
    assert isinstance(result.exception, BackendError) and "cannot be had" in str(result.exception)
    empty = make_run(tmp_path / "two", [sample_trees()[4]])
    result = CliRunner().invoke(app, ["annotate", str(empty)])
    assert isinstance(result.exception, NothingLeftError) and "1 (no whole answer has a score)" in str(result.exception)
    cut = make_run(tmp_path / "three", sample_trees()[:2])
    result = CliRunner().invoke(app, ["annotate", str(cut), "--by", "slides"])
    assert isinstance(result.exception, ConfigError) and "cut already" in str(result.exception)


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(app, ["annotate", str(make_run(tmp_path / "small"))])
    assert isinstance(result.exception, BackendError)
    assert "pip install 'longform-lpo[annotate]'" in str(result.exception) and "uvicorn" in str(result.exception)


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    """Two visitors save without a pause; the server is killed at a random moment, twice, and started again."""
    serving = Serving(make_run(tmp_path / "killed"), "--token-env", "ANNOTATE_KEY", ANNOTATE_KEY=KEY)
    acknowledged = {}
    stop = threading.Event()

    def keep_saving(name):
        visitor = Client(serving.port)
        visitor.enter(KEY)
        for count in range(1, 100_000):
            if stop.is_set():
                return
            segment = count % 3
            try:
                status, _ = visitor.save(annotator=name, segment=segment, text=f"{name} {count}", sequence=count,
                                         tab=f"tab-of-{name}")
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            assert status == 200
            acknowledged[name, segment] = count

    savers = [threading.Thread(target=keep_saving, args=(name,)) for name in ("Ann", "Bob")]
    for saver in savers:
        saver.start()
    random.seed(7)
    for _ in range(2):
        time.sleep(0.4 + random.random() / 4)
        serving.kill()
        serving.start()
    time.sleep(0.3)
    serving.kill()
    stop.set()
    for saver in savers:
        saver.join()
    assert len(acknowledged) == 6 and min(acknowledged.values()) > 10
    with sqlite3.connect(tmp_path / "killed" / "annotations.sqlite") as db:
        stored = {(who, segment): int(text.split()[1])
                  for who, segment, text in db.execute("SELECT annotator, segment, text FROM edits")}
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    for key, count in acknowledged.items():
        # One more may have been committed whose acknowledgement the kill swallowed.
        assert count <= stored[key] <= count + 3 * 3


def test_ctrl_c_and_sigterm_end_it_in_order(tmp_path):
    serving = Serving(make_run(tmp_path / "ended"))
    visitor = Client(serving.port)
    assert visitor.enter(serving.key)[0] == 303 and visitor.save()[0] == 200
    assert serving.stop() == 0
    assert "ended; the corrections are in" in serving.output and "Traceback" not in serving.output
    serving.start()
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(timeout=20) in (0, -signal.SIGTERM) and "Traceback" not in serving.output
    assert not list((tmp_path / "ended").glob("*.sqlite-wal")), "closed in order"


def test_beyond_loopback_it_warns(tmp_path):
    serving = Serving(make_run(tmp_path / "open"), "--host", "0.0.0.0")
    try:
        assert "can be reached from other machines" in serving.output
        visitor = Client(serving.port)
        assert visitor.enter(serving.key)[0] == 303
    finally:
        serving.stop()
