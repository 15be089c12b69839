"""The sender over real sockets: where it goes, where it does not, and that it always comes back in time."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.webhooks.addresses import Reach
from app.webhooks.sender import Sender
from tests.app.webhooks.receiver import receiver
from tests.patience import PATIENCE

LOOPBACK = Reach.parse("127.0.0.1/32")


def post(sender: Sender, url: str):
    return sender.post(url, headers={"webhook-id": "evt-1"}, body=b'{"a":1}')


def test_a_post_arrives_as_it_was_sent():
    """Body, headers and path with query; the answer's status comes back."""
    with receiver(204) as there:
        answer = post(Sender(LOOPBACK), there.url + "?key=1")
    assert answer.ok and answer.status_code == 204 and answer.error is None
    got = there.received[0]
    assert (got.path, got.body) == ("/hook?key=1", b'{"a":1}')
    headers = {name.lower(): value for name, value in got.headers.items()}
    assert headers["webhook-id"] == "evt-1" and headers["content-type"] == "application/json"
    assert headers["host"] == f"127.0.0.1:{there.port}"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_not_reached_under_any_of_its_names(host: str):
    """However loopback is spelled, nothing connects to a receiver that does listen there."""
    with receiver() as there:
        answer = post(Sender(Reach()), f"https://{host}:{there.port}/hook")
        assert post(Sender(LOOPBACK), there.url).ok, "the receiver could be reached"
    assert answer.status_code is None and "PERMAFROST_WEBHOOK_ALLOW" in str(answer.error)
    assert len(there.received) == 1


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "http://0.0.0.0:1/"]
)
def test_metadata_services_are_not_reached_even_if_all_is_allowed(url: str):
    """No allow-list opens them; it is refused without a connection, so at once."""
    answer = post(Sender(Reach.parse("0.0.0.0/0,::/0")), url)
    assert answer.status_code is None and "PERMAFROST_WEBHOOK_ALLOW" in str(answer.error)


def test_a_name_that_changes_its_mind_is_asked_once():
    """DNS rebinding: what was checked is what is connected to, since there is no second lookup."""
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    sender = Sender(LOOPBACK, resolve=rebinding)
    with receiver() as allowed, receiver(host="127.0.0.2", port=allowed.port) as inner:
        url = f"http://rebinding.example.org:{allowed.port}/hook"
        assert post(sender, url).ok
        assert len(asked) == 1 and len(allowed.received) == 1
        again = post(sender, url)
        assert again.status_code is None and len(asked) == 2
    assert inner.received == []
    assert allowed.received[0].headers["Host"].startswith("rebinding.example.org")


def test_redirects_are_not_followed():
    """A 302 is an answer that failed; what it points at gets nothing."""
    with receiver() as target, receiver((302, {"location": target.url})) as there:
        answer = post(Sender(LOOPBACK), there.url)
    assert (answer.status_code, answer.ok, target.received) == (302, False, [])


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch):
    """A proxy would resolve the name a second time, out of our sight."""
    with receiver() as proxy, receiver() as there:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert post(Sender(LOOPBACK), there.url).ok
    assert proxy.received == []


def test_a_name_that_does_not_resolve_is_an_error_and_not_an_exception():
    """The reason is told; `.invalid` never resolves."""
    answer = post(Sender(Reach()), "https://nowhere.invalid/hook")
    assert answer.status_code is None and "cannot be resolved" in str(answer.error)


def test_a_closed_port_is_an_error():
    """Nobody listens: no status, and the reason in words."""
    with receiver() as there:
        url = there.url
    answer = post(Sender(LOOPBACK), url)
    assert answer.status_code is None and "refused" in str(answer.error)


def silent(handler) -> None:
    handler.server.stop.wait(PATIENCE)


def dribble(handler) -> None:
    """A header that never ends, a byte at a time: no single read ever times out."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while not handler.server.stop.wait(0.05):
        handler.wfile.write(b"a")


def promise(handler) -> None:
    """100 Continue for ever: every one is a complete answer that is not the last."""
    while not handler.server.stop.wait(0.01):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize("trap", [silent, dribble, promise])
def test_no_receiver_holds_the_sender_up(trap):
    """Silent, dribbling or ever promising: the whole exchange ends when its time is over."""
    stop = threading.Event()

    def behave(handler) -> None:
        handler.server.stop = stop
        trap(handler)

    with receiver(behave) as there:
        answer = post(Sender(LOOPBACK, seconds=0.5), there.url)
        stop.set()
    assert answer.status_code is None and "no answer within 0.5 s" in str(answer.error)


def test_closing_cuts_off_what_is_under_way():
    """A worker that stops does not wait for a silent receiver."""
    stop = threading.Event()

    def behave(handler) -> None:
        stop.wait(PATIENCE)

    sender = Sender(LOOPBACK, seconds=PATIENCE)
    answers = []
    with receiver(behave) as there:
        thread = threading.Thread(target=lambda: answers.append(post(sender, there.url)))
        thread.start()
        there.wait()
        sender.close()
        thread.join(PATIENCE / 2)  # less than the sender's own limit
        assert not thread.is_alive()
        stop.set()
    assert answers[0].status_code is None


@pytest.mark.parametrize(
    "reply",
    [b"", b"SMTP ready\r\n", b"HTTP/1.1 999999 x\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"],
    ids=["nothing", "another protocol", "no status", "too many headers"],
)
def test_nonsense_is_an_error(reply: bytes):
    """Whatever answers there, it becomes a reason and never an exception."""

    def behave(handler) -> None:
        handler.wfile.write(reply)
        handler.close_connection = True

    with receiver(behave) as there:
        answer = post(Sender(LOOPBACK), there.url)
    assert answer.status_code is None and answer.error


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("soon", None), ("-1", None), ("1.5", None)])
def test_retry_after_in_seconds(header: str, seconds: float | None):
    """Only what RFC 9110 allows counts."""
    with receiver((429, {"retry-after": header})) as there:
        assert post(Sender(LOOPBACK), there.url).retry_after == seconds


def test_retry_after_as_a_date():
    """A date is turned into seconds from now; one that is past is zero."""
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    with receiver((429, {"retry-after": stamp}), (429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})) as there:
        sender = Sender(LOOPBACK)
        soon, past = post(sender, there.url).retry_after, post(sender, there.url).retry_after
    assert soon is not None and 60 < soon <= 100
    assert past == 0.0


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server with a certificate for hooks.example.org, and a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example.org")])
    at = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("hooks.example.org"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(at - datetime.timedelta(days=1))
        .not_valid_after(at + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder: Path = tmp_path_factory.mktemp("tls")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(secret + pem)
    (folder / "ca.pem").write_bytes(pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    return server, ssl.create_default_context(cafile=folder / "ca.pem")


def test_tls_checks_the_name_and_connects_to_the_address(authority):
    """The certificate must be the name's, although the connection goes to an address that was looked up before."""
    server, client = authority
    sender = Sender(LOOPBACK, resolve=lambda *_: ["127.0.0.1"], tls=client)
    with receiver(tls=server) as there:
        right = post(sender, f"https://hooks.example.org:{there.port}/hook")
        wrong = post(sender, f"https://other.example.org:{there.port}/hook")
    assert right.ok and len(there.received) == 1
    assert wrong.status_code is None and "certificate is not valid" in str(wrong.error)


def test_an_unknown_authority_is_refused(authority):
    """Without being told to, nobody trusts a certificate that its owner made."""
    with receiver(tls=authority[0]) as there:
        answer = post(Sender(LOOPBACK), there.url)
    assert answer.status_code is None and "certificate is not valid" in str(answer.error) and not there.received


def test_a_server_that_never_shakes_hands_is_cut_off(authority):
    """The clock covers TLS, too: a plain server that says nothing gives no handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
        answer = post(Sender(LOOPBACK, tls=authority[1], seconds=0.5), url)
    assert "no answer within 0.5 s" in str(answer.error)
