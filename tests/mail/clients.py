"""Mail programs: each logs on, reads the first message of INBOX, and says where it has come to, or why it was refused."""
import base64, contextlib, imaplib, os, poplib, re, select, socket, ssl, subprocess, tempfile, time
from dataclasses import dataclass

TIMEOUT = 30
ANY_CERTIFICATE = ssl._create_unverified_context()
REACHED = re.compile(r"You have reached ([\w-]+), (\w+)")


@dataclass
class Outcome:
    """`server` and `user` as the message has them; or the words of the refusal. `seconds`: until the logon was judged."""
    server: str = ""
    user: str = ""
    refusal: str = ""
    seconds: float = 0.0

    def __str__(self):
        return f"{self.server} as {self.user}" if self.server else f"refused: {self.refusal}"


def outcome(said, refusal=r"^(?:< )?(?:\w+ NO|-ERR) ?(.*)$"):
    """Of all that a program has shown."""
    if reached := REACHED.search(said):
        return Outcome(*reached.groups())
    refused = re.findall(refusal, said.replace("\r", ""), re.M)
    return Outcome(refusal=refused[-1] if refused else f"unintelligible: {said[-1500:]}")


# ---- Python's own ----------------------------------------------------------------------------------------------------

def with_imaplib(ports, user, password, by="LOGIN", tls="start"):
    """`by`: LOGIN, or SASL's PLAIN or LOGIN ("AUTH=LOGIN")."""
    with imap(ports, tls) as client:
        began = time.monotonic()
        try:
            if by == "LOGIN":
                client.login(user, password)
            else:
                answers = iter(sasl(by, user, password))
                client.authenticate(by.removeprefix("AUTH="), lambda _: next(answers))
        except imaplib.IMAP4.abort as error:
            return Outcome(refusal=f"cut off: {error}", seconds=time.monotonic() - began)
        except imaplib.IMAP4.error as error:
            return Outcome(refusal=words(error), seconds=time.monotonic() - began)
        seconds = time.monotonic() - began
        client.select()
        found = outcome(str(client.fetch("1", "(BODY[])")[1]))
        found.seconds = seconds
        client.logout()
        return found


@contextlib.contextmanager
def imap(ports, tls="start"):
    """A client without a logon; `tls`: "start", "at once" or None."""
    if tls == "at once":
        client = imaplib.IMAP4_SSL("127.0.0.1", ports["imaps"], ssl_context=ANY_CERTIFICATE, timeout=TIMEOUT)
    else:
        client = imaplib.IMAP4("127.0.0.1", ports["imap" if tls else "imap-plain"], timeout=TIMEOUT)
    try:
        if tls == "start":
            client.starttls(ANY_CERTIFICATE)
        yield client
    finally:
        with contextlib.suppress(OSError):  # closed already
            client.shutdown()


def sasl(by, user, password):
    """What a client answers to each of the server's lines."""
    user, password = as_bytes(user), as_bytes(password)
    return [user, password] if by.endswith("LOGIN") else [b"\0" + user + b"\0" + password]


def words(error):
    """What the server said: bytes of LOGIN and of POP3, text of AUTHENTICATE."""
    said = error.args[0]
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def with_poplib(ports, user, password, by="USER", tls="start"):
    with pop(ports, tls) as client:
        began = time.monotonic()
        try:
            if by == "USER":
                client.user(user)
                client.pass_(password)
            else:
                client._shortcmd(f"AUTH {by.removeprefix('AUTH=')}")
                for answer in sasl(by, user, password):
                    client._shortcmd(base64.b64encode(answer).decode())
        except poplib.error_proto as error:
            return Outcome(refusal=words(error).removeprefix("-ERR "), seconds=time.monotonic() - began)
        seconds = time.monotonic() - began
        found = outcome(b"\n".join(client.retr(1)[1]).decode())
        found.seconds = seconds
        client.quit()
        return found


@contextlib.contextmanager
def pop(ports, tls="start"):
    if tls == "at once":
        client = poplib.POP3_SSL("127.0.0.1", ports["pop3s"], context=ANY_CERTIFICATE, timeout=TIMEOUT)
    else:
        client = poplib.POP3("127.0.0.1", ports["pop3" if tls else "pop3-plain"], timeout=TIMEOUT)
    client.encoding = "utf-8"
    try:
        if tls == "start":
            client.stls(ANY_CERTIFICATE)
        yield client
    finally:
        client.close()


# ---- Programs --------------------------------------------------------------------------------------------------------

def with_curl(ports, user, password, scheme="imap", options=()):
    path = "/INBOX;UID=1" if scheme.startswith("imap") else "/1"
    command = ["curl", "-skv", "--ssl-reqd", "-m", str(TIMEOUT), *options, "-u", f"{user}:{password}",
               f"{scheme}://127.0.0.1:{ports[scheme]}{path}"]
    return outcome(said_by(command))


def said_by(command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=2 * TIMEOUT, **more)
    return done.stdout.decode("utf-8", "replace")


def with_openssl(ports, user, password, protocol="imap"):
    """`openssl s_client -starttls`, and what somebody would type into it."""
    command = ["openssl", "s_client", "-quiet", "-crlf", "-starttls", protocol, "-connect", f"127.0.0.1:{ports[protocol]}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said = bytearray()

    def ask(line, until):
        """Types a line, and reads until a line that begins so."""
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
        start = len(said)
        while not re.search(until, bytes(said[start:]), re.M):
            if not select.select([process.stdout], [], [], TIMEOUT)[0] or not (more := os.read(process.stdout.fileno(), 65536)):
                return False
            said.extend(more)
        return True

    try:
        if protocol == "imap":
            steps = [(f"a LOGIN {user} {password}", rb"^a "), ("b SELECT INBOX", rb"^b "), ("c FETCH 1 BODY[]", rb"^c "),
                     ("d LOGOUT", rb"^d ")]
        else:
            steps = [(f"USER {user}", rb"^[+-]"), (f"PASS {password}", rb"^[+-]"), ("RETR 1", rb"^\."), ("QUIT", rb"^\+")]
        for line, until in steps:
            if not ask(line, until) or re.search(rb"^(a NO|-ERR)", said, re.M):
                break
        return outcome(said.decode("utf-8", "replace"))
    finally:
        process.kill()
        process.communicate()


MBSYNC = """
IMAPAccount edge
Host 127.0.0.1
Port {port}
User "{user}"
Pass "{password}"
SSLType {tls}
CertificateFile "{ca}"
AuthMechs {by}

IMAPStore far
Account edge

MaildirStore near
Path {directory}/
Inbox {directory}/INBOX

Channel all
Far :far:
Near :near:
Patterns INBOX
Create Near
Sync All
SyncState *
"""


def mbsync(ports, user, password, directory, ca, tls="STARTTLS", by="LOGIN"):
    """Brings the maildir `directory`/INBOX and the mailbox in step; what mbsync says."""
    port = ports["imaps" if tls == "IMAPS" else "imap"]
    escaped = [text.replace("\\", "\\\\").replace('"', '\\"') for text in (user, password)]
    config = directory / "mbsyncrc"
    config.write_text(MBSYNC.format(port=port, user=escaped[0], password=escaped[1], tls=tls, by=by, ca=ca, directory=directory))
    return said_by(["mbsync", "-V", "-c", config, "all"], env={**os.environ, "HOME": str(directory)})


def with_mbsync(ports, user, password, ca, tls="STARTTLS", by="LOGIN"):
    with tempfile.TemporaryDirectory() as directory:
        directory = type(ca)(directory)
        said = mbsync(ports, user, password, directory, ca, tls, by)
        messages = [file.read_text() for file in directory.glob("INBOX/*/*") if file.is_file()]
        return outcome("\n".join(messages) or said, r"(?: NO |-ERR )(.*)")


# ---- By hand ---------------------------------------------------------------------------------------------------------

class Wire:
    """A connection for lines as they are. `tls`: "start", "at once" or None."""

    def __init__(self, ports, protocol="imap", tls="start"):
        name = protocol + {"at once": "s", "start": "", None: "-plain"}[tls]
        self.protocol, self.buffer = protocol, b""
        self.socket = socket.create_connection(("127.0.0.1", ports[name]), TIMEOUT)
        if tls == "at once":
            self.begin_tls()
        self.greeting = self.line()
        if tls == "start":
            self.send("s STARTTLS" if protocol == "imap" else "STLS")
            self.answer("s")
            self.begin_tls()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def begin_tls(self):
        assert not self.buffer, f"more came in clear: {self.buffer}"
        self.socket = ANY_CERTIFICATE.wrap_socket(self.socket, server_hostname="mail.contoso.com")

    def send(self, *lines):
        """All at once, in one packet."""
        self.socket.sendall(b"".join(as_bytes(line) + b"\r\n" for line in lines))

    def line(self):
        """Without its end; None once the other side has closed."""
        while b"\n" not in self.buffer:
            more = self.socket.recv(65536)
            if not more:
                return None
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode("utf-8", "replace").removesuffix("\r")

    def answer(self, tag=""):
        """Its lines, up to the one with the tag; in POP3 one line."""
        lines = []
        while (line := self.line()) is not None:
            lines.append(line)
            if self.protocol == "pop3" or line.startswith(f"{tag} "):
                return lines
        return [*lines, "(closed)"]

    def ask(self, line, tag=None):
        self.send(line)
        return self.answer(tag or (line.split()[0] if self.protocol == "imap" else ""))

    def several(self):
        """An answer of POP3 that ends with a dot."""
        lines = self.answer()
        while lines[0].startswith("+OK") and lines[-1] not in (".", None):
            lines.append(self.line())
        return lines

    def log_on(self, user, password):
        """The last line of the answer."""
        if self.protocol == "imap":
            return self.ask(f'l LOGIN "{user}" "{password}"')[-1]
        self.ask(f"USER {user}")
        return self.ask(f"PASS {password}")[-1]

    def ends(self, seconds=TIMEOUT):
        """Everything until the other side closes."""
        self.socket.settimeout(seconds)
        everything, self.buffer = self.buffer, b""
        while more := self.socket.recv(65536):
            everything += more
        return everything.decode("utf-8", "replace")
