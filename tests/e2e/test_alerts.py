"""Alerts on their way to webhooks: formats, retries, TLS, and what reaches nobody."""

import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import run

KEY = "R0123456789ABCDEF"
ENV = {"BLYAN__ALERTS__RETRY_INITIAL_MS": "20", "BLYAN__ALERTS__TRIES_MAX": "3", "BLYAN__ALERTS__TIMEOUT_MS": "3000"}


class Webhook:
    """A server that keeps what is posted to it and answers as it is told, 200 when it was told nothing."""

    def __init__(self, answers=(), context=None):
        self.posted, self.answers = [], list(answers)
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.posted.append((self.path, json.loads(body)))
                self.send_response(webhook.answers.pop(0) if webhook.answers else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.scheme = "http"
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path):
        return f"{self.scheme}://127.0.0.1:{self.server.server_port}{path}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook():
    opened = []

    def begin(*answers, **options):
        opened.append(Webhook(answers, **options))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


def secret(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


def to_slack(tmp_path, webhook):
    return ENV | {"BLYAN__ALERTS__SLACK_URL_FILE": secret(tmp_path, "slack", webhook.url("/services/T0/hidden"))}


def raise_alert(node):
    """Ten tries without the key."""
    for _ in range(10):
        assert node.http.get("/security/dashboard").status_code == 401


def letters(store):
    path = store / "alerts.undelivered.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_slack_and_pagerduty_are_told_again_until_they_listen(start, store, tmp_path, webhook):
    slack, pager = webhook(500, 503), webhook(429)
    env = to_slack(tmp_path, slack) | {
        "BLYAN__ALERTS__PAGERDUTY_KEY_FILE": secret(tmp_path, "pager", KEY),
        "BLYAN__ALERTS__PAGERDUTY_URL": pager.url("/v2/enqueue"),
    }
    node = start(store, env=env)
    raise_alert(node)
    node.wait_for(lambda: len(slack.posted) == 3 and len(pager.posted) == 2)
    path, told = slack.posted[-1]
    assert path == "/services/T0/hidden" and "failed_auth_attempts" in told["text"] and "127.0.0.1" in told["text"]
    path, event = pager.posted[-1]
    assert path == "/v2/enqueue" and event["routing_key"] == KEY and event["event_action"] == "trigger"
    assert event["payload"]["severity"] == "warning" and event["payload"]["custom_details"]["count"] == 10
    # Each try says the same.
    assert all(one == slack.posted[0] for one in slack.posted) and pager.posted[0] == pager.posted[1]
    assert node.stop() == 0
    assert letters(store) == []
    said = "".join(node.lines + node.errors) + (store / "alerts.undelivered.jsonl").read_text()
    assert "hidden" not in said and KEY not in said


def test_what_reaches_nobody_is_kept(start, store, tmp_path, webhook):
    refusing, failing = webhook(404), webhook(500, 500, 500)
    env = to_slack(tmp_path, refusing) | {
        "BLYAN__ALERTS__PAGERDUTY_KEY_FILE": secret(tmp_path, "pager", KEY),
        "BLYAN__ALERTS__PAGERDUTY_URL": failing.url("/v2/enqueue"),
    }
    node = start(store, env=env)
    raise_alert(node)
    kept = node.wait_for(lambda: len(found := letters(store)) == 2 and found)
    by_target = {one["to"]: one for one in kept}
    assert by_target["slack"]["tries"] == 1 and "404" in by_target["slack"]["why"]
    assert by_target["pagerduty"]["tries"] == 3 and "500" in by_target["pagerduty"]["why"]
    assert all(one["indicator"] == "failed_auth_attempts" and one["count"] == 10 for one in kept)
    assert len(refusing.posted) == 1 and len(failing.posted) == 3
    assert node.stop() == 0


def test_an_alert_that_is_on_its_way_when_the_node_stops_is_kept(start, store, tmp_path, webhook):
    gone = webhook()
    env = to_slack(tmp_path, gone) | {"BLYAN__ALERTS__RETRY_INITIAL_MS": "60000"}
    gone.close()
    node = start(store, env=env)
    raise_alert(node)
    node.wait_for(lambda: any("alert: " in line for line in node.errors))
    assert node.stop() == 0
    (kept,) = letters(store)
    assert kept["to"] == "slack" and kept["tries"] == 1


def certificate(tmp_path):
    """A key and a certificate for 127.0.0.1 that no system trusts."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


def test_over_tls_only_those_that_are_who_they_say(start, store, tmp_path, webhook):
    cert, context = certificate(tmp_path)
    slack = webhook(context=context)
    node = start(store, env=to_slack(tmp_path, slack))
    raise_alert(node)
    (kept,) = node.wait_for(lambda: letters(store))
    assert kept["tries"] == 3 and slack.posted == []
    assert node.stop() == 0
    node = start(store, env=to_slack(tmp_path, slack) | {"SSL_CERT_FILE": str(cert)})
    raise_alert(node)
    node.wait_for(lambda: len(slack.posted) == 1)
    assert node.stop() == 0
    assert letters(store) == [kept]


@pytest.mark.parametrize("text, mode, named", [
    ("https://h.example.org/x", 0o644, "chmod 600"),
    ("http://h.example.org/x", 0o600, "https://"),
    ("", 0o600, "one line"),
])
def test_a_webhook_that_would_leak_or_fail_is_refused_at_the_start(store, tmp_path, text, mode, named):
    path = tmp_path / "slack"
    path.write_text(text)
    path.chmod(mode)
    done = run("node", "--listen", "127.0.0.1:0", data_dir=store, env={"BLYAN__ALERTS__SLACK_URL_FILE": str(path)}, check=False)
    assert done.returncode == 1 and named in done.stderr, done.stderr
    assert "example" not in done.stderr
