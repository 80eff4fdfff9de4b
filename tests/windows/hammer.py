"""Many clients at once on keep-alive connections: does every answer name the user of its own client connection?

A client connection is anonymous, or authenticates at its first request or later, by NTLM, by NTLM within SPNEGO or by a
Kerberos token sent unasked; some leave in the middle of a handshake, and some (IIS only) change their user.
"""
import base64, http.client, random, threading, time
from collections import Counter, defaultdict

import gssapi
import spnego
from spnego import NegotiateOptions
from spnego.exceptions import SpnegoError

from clients import person
from organisation import PASSWORD, PUBLIC_NAME

CLIENTS = 36
EWS = "/EWS/Exchange.asmx"
KERBEROS = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2")


class Hammer:
    def __init__(self, edge, kinds, tickets, seed, changes_user):
        self.edge, self.kinds, self.tickets, self.seed = edge, kinds, tickets, seed
        self.people, self.changes_user = sorted(tickets), changes_user
        self.counts, self.wrong, self.lost = Counter(), [], []
        self.clients_of = defaultdict(set)  # upstream connection -> the client connections it answered
        self.authenticated = set()  # upstream connections that ever carried a credential
        self.lock, self.numbers = threading.Lock(), 0

    def run(self, seconds):
        deadline = time.monotonic() + seconds
        chances = [random.Random(f"{self.seed} {number}") for number in range(CLIENTS)]
        threads = [threading.Thread(target=self.client, args=(it, deadline), daemon=True) for it in chances]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for upstream in self.authenticated:
            if len(self.clients_of[upstream]) > 1:
                served = len(self.clients_of[upstream])
                self.wrong.append(f"{upstream} carried a credential and answered {served} clients")

    def client(self, chance, deadline):
        while time.monotonic() < deadline:
            try:
                Course(self, chance).run(deadline)
            except SpnegoError as error:  # the server has forgotten the handshake that the client goes on with
                with self.lock:
                    self.counts["lost"] += 1
                    self.lost.append(f"a handshake was refused: {error}")
            except Exception as error:
                self.wrong.append(f"a connection broke: {error!r}")

    def next_number(self):
        with self.lock:
            self.numbers += 1
            return self.numbers


class Course:
    """What happens on one client connection."""

    def __init__(self, hammer, chance):
        self.hammer, self.chance, self.number = hammer, chance, hammer.next_number()
        self.user = None
        # A connection stays with one site: its requests name nobody's mailbox, or always the same person's.
        self.anchor = chance.choice([None, None, "ana", "bruno"])
        self.connection = http.client.HTTPConnection("127.0.0.1", hammer.edge.port, timeout=20)

    def run(self, deadline):
        self.connection.connect()
        self.connection.auto_open = False  # never a second connection in the name of the first
        kind, begins_at = self.chance.choice(self.hammer.kinds), self.chance.choice([0, 0, 0, 1, 3])
        try:
            for turn in range(self.chance.randint(1, 14)):
                if time.monotonic() > deadline or self.connection.sock is None:
                    return
                changes = self.user and self.hammer.changes_user and self.chance.random() < 0.05
                if kind != "anonymous" and (turn == begins_at or changes):
                    goes_on = self.authenticate(kind, self.anchor or self.chance.choice(self.hammer.people))
                else:
                    goes_on = self.is_expected(self.request())
                if not goes_on:
                    return
                if self.chance.random() < 0.1:
                    time.sleep(self.chance.random() * 0.05)
        finally:
            self.connection.close()

    def authenticate(self, kind, who):
        """A handshake; False where the connection has come to its end."""
        if kind == "kerberos":
            self.user = who
            return self.is_expected(self.request(f"Negotiate {encode(self.kerberos_token(who))}"))
        scheme, options = {"ntlm": ("NTLM", NegotiateOptions.use_ntlm),
                           "negotiate": ("Negotiate", NegotiateOptions.use_negotiate)}[kind]
        context = spnego.client(f"CONTOSO\\{who}", PASSWORD, hostname=PUBLIC_NAME, service="HTTP",
                                protocol="ntlm" if kind == "ntlm" else "negotiate", options=options)
        token, self.user = context.step(), None
        while True:
            status, headers = self.request(f"{scheme} {encode(token)}")
            reply = next((value for name, value in headers if name.lower() == "www-authenticate"
                          and value.startswith(scheme + " ")), None)
            if status != 401 or reply is None:
                break
            if self.connection.sock is None or self.chance.random() < 0.08:
                self.hammer.counts["left in mid-handshake"] += 1
                return False
            token = context.step(base64.b64decode(reply[len(scheme):]))
        self.user = who
        return self.is_expected((status, headers))

    def kerberos_token(self, who):
        credentials = gssapi.Credentials(usage="initiate", mechs=[KERBEROS], store={"ccache": self.hammer.tickets[who]})
        name = gssapi.Name(f"HTTP@{PUBLIC_NAME}", gssapi.NameType.hostbased_service)
        return gssapi.SecurityContext(name=name, creds=credentials, mech=KERBEROS, usage="initiate").step()

    def request(self, credential=None):
        headers = {"Host": PUBLIC_NAME}
        if credential:
            headers["Authorization"] = credential
        if self.anchor:
            headers["X-AnchorMailbox"] = f"{self.anchor}@contoso.com"
        path = EWS if self.anchor else self.chance.choice([EWS, EWS, "/rpc/rpcproxy.dll"])
        self.connection.request("GET", path, headers=headers)
        response = self.connection.getresponse()
        response.read()
        upstream = response.getheader("X-Contoso-Connection")
        with self.hammer.lock:
            self.hammer.counts["answers"] += 1
            self.hammer.clients_of[upstream].add(self.number)
            if credential or response.status == 200:
                self.hammer.authenticated.add(upstream)
        return response.status, response.getheaders()

    def is_expected(self, answer):
        """Judges an answer; False where the connection has come to its end."""
        status, headers = answer
        named, upstream = person(dict(headers).get("X-Contoso-User")), dict(headers).get("X-Contoso-Connection")
        told = (f"client connection {self.number} is {self.user or 'nobody'} and was answered {status} "
                f"as {named or 'nobody'} on {upstream}")
        with self.hammer.lock:
            if (status, named) == ((200, self.user) if self.user else (401, None)):
                self.hammer.counts["of users" if self.user else "of nobody"] += 1
                return True
            if (status, named) == (401, None):  # safe, but its user is asked again
                self.hammer.counts["lost"] += 1
                self.hammer.lost.append(told)
            else:
                self.hammer.wrong.append(told)
        return False


def encode(token):
    return base64.b64encode(token).decode()
