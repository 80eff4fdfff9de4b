"""The clients: curl, requests, exchangelib and Chromium, each as its users run it, and what they were answered."""
import os, re, socket, subprocess, tempfile
from dataclasses import dataclass

import requests
from requests_kerberos import OPTIONAL, HTTPKerberosAuth
from requests_ntlm import HttpNtlmAuth

from organisation import PASSWORD, PUBLIC_NAME


@dataclass
class Answer:
    status: int
    headers: dict  # names in lower case

    server = property(lambda self: self.headers.get("x-contoso-server"))
    connection = property(lambda self: self.headers.get("x-contoso-connection"))
    body = property(lambda self: self.headers.get("x-contoso-body"))
    person = property(lambda self: person(self.headers.get("x-contoso-user")))


def person(user):
    """`CONTOSO\\ana` and `ana@CONTOSO.COM` are ana; nobody is None."""
    name = (user or "-").rpartition("\\")[2].partition("@")[0].lower()
    return None if name in ("", "-") else name


def curl(edge, paths, *options, ticket=None, tls=False):
    """All answers of one curl that asks for `paths`, one after the other, the legs of its handshakes included."""
    url, port = (edge.tls_url, edge.tls_port) if tls else (edge.url, edge.port)
    command = ["curl", "-sSi", "-m", "20", "--resolve", f"{PUBLIC_NAME}:{port}:127.0.0.1", "--cacert", edge.ca,
               *options, *(url + path for path in paths)]
    env = {**os.environ, "KRB5CCNAME": ticket or "FILE:/nonexistent"}
    done = subprocess.run(command, capture_output=True, timeout=60, env=env)
    text = done.stdout.decode("latin-1")
    assert done.returncode == 0, f"curl: {done.stderr.decode()}"
    return [Answer(int(status), fields(head)) for status, head in
            re.findall(r"HTTP/1\.1 (\d+)[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n", text)]


def fields(head):
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.splitlines())}


def ntlm_session(edge, name, password=PASSWORD):
    return session(edge, HttpNtlmAuth(f"CONTOSO\\{name}", password))


def kerberos_session(edge, ticket, unasked=False):
    os.environ["KRB5CCNAME"] = ticket
    return session(edge, HTTPKerberosAuth(mutual_authentication=OPTIONAL, force_preemptive=unasked))


def session(edge, auth=None):
    it = requests.Session()
    it.auth, it.verify, it.trust_env = auth, str(edge.ca), False
    return it


def answers(response):
    """The answers to one request of `requests`, the legs of its handshake included."""
    return [Answer(it.status_code, {name.lower(): value for name, value in it.headers.items()})
            for it in [*response.history, response]]


def last(response):
    return answers(response)[-1]


def ews_account(edge, name):
    """An exchangelib account and what it is answered: EWS over NTLM, the mailbox named in X-AnchorMailbox."""
    from exchangelib import DELEGATE, NTLM, Account, Configuration, Credentials
    from exchangelib.protocol import BaseProtocol
    from exchangelib.version import EXCHANGE_2007_SP1, Version

    class Adapter(requests.adapters.HTTPAdapter):
        seen = []

        def send(self, request, **options):
            response = super().send(request, **options)
            Adapter.seen.append(last(response))
            return response

    BaseProtocol.HTTP_ADAPTER_CLS = Adapter
    credentials, version = Credentials(f"CONTOSO\\{name}", PASSWORD), Version(EXCHANGE_2007_SP1)
    configuration = Configuration(service_endpoint=f"{edge.url}/EWS/Exchange.asmx", auth_type=NTLM, max_connections=1,
                                  credentials=credentials, version=version)
    return Account(f"{name}@contoso.com", config=configuration, autodiscover=False, access_type=DELEGATE), Adapter.seen


def chromium(edge, name, path):
    """The page that headless Chromium shows."""
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   f"--user-data-dir={profile}", f"--auth-server-allowlist={PUBLIC_NAME}",
                   f"--host-resolver-rules=MAP {PUBLIC_NAME} 127.0.0.1", "--dump-dom",
                   f"http://CONTOSO%5C{name}:{PASSWORD}@{PUBLIC_NAME}:{edge.port}{path}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def resolve_public_name():
    """Lets the clients of this process find the public name on loopback, as --resolve does for curl."""
    system = socket.getaddrinfo

    def getaddrinfo(host, *rest, **options):
        return system("127.0.0.1" if host == PUBLIC_NAME else host, *rest, **options)

    socket.getaddrinfo = getaddrinfo
