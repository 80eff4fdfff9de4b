"""Contoso's servers, the edge in front of them with a forest as its directory, and the clients of both."""
import base64, http.client, itertools, re, subprocess, threading, time
from dataclasses import dataclass, field
from email.message import Message

import forest
import processes
from forest import PASSWORD, ROOT, wait_for

# Of contoso, a mailbox each: whom the edge knows already, and which server answers (`-`: the edge itself).
KNOWN = [("ana", "cas-lis-"), ("CONTOSO\\bruno", "cas-opo-"), ("carla@contoso.com", "-")]


class Contoso:
    """The stand-ins of Contoso's servers, which let the forest's crowd in too."""

    def __init__(self, folder, directory, people):
        self.pki, ports = directory / "pki", {"10443": processes.free_port(), "10080": processes.free_port()}
        self.config = (ROOT / "conf/firstcas.toml").read_text().replace("state/demo", str(self.pki))
        for usual, port in ports.items():
            self.config = self.config.replace(f":{usual}\"", f":{port}\"")
        resolve, ldif, self.log = (directory / name for name in ["contoso.toml", "contoso.ldif", "contoso.log"])
        resolve.write_text(self.config)
        people_of_contoso = (ROOT / "conf/contoso.ldif").read_text(encoding="utf-8")
        hashed = re.search(r"^userPassword: .*$", people_of_contoso, re.M)[0]  # of the one password that all have
        crowd = forest.crowd(people).replace("changetype: add\n", "").replace("\nmail:", f"\n{hashed}\nmail:")
        ldif.write_text(f"{people_of_contoso}\n{crowd}", encoding="utf-8")
        self.processes, binary = processes.Processes(), folder / "examples/contoso"
        subprocess.run([binary, "pki", self.pki], check=True, capture_output=True, timeout=60)
        command = [binary, "run", "--ldif", ldif, "--pki", self.pki, "-c", resolve, "--ping-hold", "1"]
        process = self.processes.start("contoso", command, self.log)
        if not wait_for(lambda: "contoso is ready" in self.log.read_text() or process.poll() is not None, 30) \
                or process.poll() is not None:
            raise RuntimeError(f"contoso did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self):
        self.processes.stop()


# Of the listeners of conf/firstcas.toml: several edges run at once.
PORTS = [8080, 8443, 8143, 8993, 8110, 8995, 8090]


class Edge:
    """The edge with conf/firstcas.toml, but for its listeners and its directory."""

    def __init__(self, name, binary, directory, contoso, ldap, options="", changes=(), env=None):
        """`ldap`: lines of [directory.ldap]; `options`: of [directory]; `changes`: pairs of old text and new."""
        self.name, self.binary, self.directory, self.started = name, binary, directory, 0
        self.env = env
        self.state, self.config, self.processes = directory / f"{name}-state", directory / f"{name}.toml", None
        text = contoso.config
        for old, new in [*((f'"127.0.0.1:{port}"', '"127.0.0.1:0"') for port in PORTS),
                         ('\nldif = "conf/contoso.ldif"\n', f"\n{options}\n"),
                         ("\n#failed_logons_per_user = 9\n", "\nfailed_logons_per_user = 1000000\n"),  # the directory's count is tried
                         ('\n#state_dir = "/var/lib/firstcas"\n', f'\nstate_dir = "{self.state}"\n'),
                         ("\n#[directory.ldap]\n", f"\n[directory.ldap]\n{ldap}\n"), *changes]:
            assert text.count(old) == 1, f"conf/firstcas.toml has not one {old.strip()} any more"
            text = text.replace(old, new)
        self.config.write_text(text)
        self.state.mkdir()

    def start(self):
        """How long it took, in seconds."""
        self.started += 1
        self.log_file = self.directory / f"{self.name}-{self.started}.log"
        self.processes, began = processes.Processes(), time.monotonic()
        command = [self.binary, "run", "-c", self.config]
        self.process = self.processes.start(self.name, command, self.log_file, self.env)
        ready = wait_for(lambda: "firstcas is ready" in self.log() or self.process.poll() is not None, 60)
        if not ready or self.process.poll() is not None:
            raise RuntimeError(f"the edge did not start:\n{self.log()[-3000:]}")
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log())[1])
        self.tls_port = int(re.search(r"listening on https://127\.0\.0\.1:(\d+)", self.log())[1])
        return time.monotonic() - began

    def stop(self):
        if self.processes:
            self.processes.stop()

    def log(self):
        return self.log_file.read_text(errors="replace")

    def mark(self):
        """A place in the log, for `events`."""
        return len(self.log())

    def events(self, id, since=0):
        """The sentences of an event."""
        found = re.findall(r'target=firstcas::event msg="((?:[^"\\]|\\.)*)" event=(\S+)', self.log()[since:])
        return [sentence for sentence, event in found if event == id]

    def ask(self, user, path="/owa/", password=PASSWORD, method="GET"):
        """One answer, over a connection of its own."""
        client = Client(self)
        try:
            return client.ask(user, path, password, method)
        finally:
            client.close()

    def curl(self, *arguments, tls=False):
        """All that curl shows of its answers. `URL` in the arguments is the edge's."""
        url = f"https://127.0.0.1:{self.tls_port}" if tls else f"http://127.0.0.1:{self.port}"
        command = ["curl", "-sik", "-m", "20", *(argument.replace("URL", url) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, timeout=60)
        return done.stdout.decode("latin-1").replace("\r\n", "\n") + done.stderr.decode("latin-1")


@dataclass
class Answer:
    user: str
    at: float  # when it was asked for
    seconds: float = 0.0
    status: int = 0
    server: str = "-"
    as_whom: str = "-"  # whom the server took the request to come from
    headers: Message = field(default_factory=Message)
    retry_after: str | None = None
    body: str = ""
    error: str = ""  # if there was no answer at all

    def __str__(self):
        return f"{self.user}: {self.error or self.status} from {self.server} after {self.seconds:.2f} s"


class Client:
    """A connection that is kept for as long as the edge keeps it."""

    def __init__(self, edge, tls=None):
        """`tls`: what an ssl.SSLContext says of it; None is plain http."""
        self.connection = (http.client.HTTPSConnection("127.0.0.1", edge.tls_port, timeout=30, context=tls) if tls
                           else http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30))

    def ask(self, user, path="/owa/", password=PASSWORD, method="GET", body=None):
        credential = base64.b64encode(f"{user}:{password}".encode()).decode()
        return self.request(user, method, path, {"Authorization": f"Basic {credential}"}, body)

    def request(self, user, method, path, headers, body=None):
        answer = Answer(user, time.monotonic())
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            answer.body, answer.status = response.read().decode("utf-8", "replace"), response.status
            answer.headers = response.headers
            answer.server = response.headers.get("X-Contoso-Server", "-")
            answer.as_whom = response.headers.get("X-Contoso-User") or "-"
            answer.retry_after = response.headers.get("Retry-After")
        except (OSError, http.client.HTTPException) as error:
            answer.error = f"{type(error).__name__}: {error}"
            self.connection.close()
        answer.seconds = time.monotonic() - answer.at
        return answer

    def close(self):
        self.connection.close()


class Load:
    """A steady load, for as long as one is in it: known mailboxes again and again, unknown ones one after the other.

    Two threads for each known one, two for all others; each has a connection of its own and pauses after each answer.
    """

    def __init__(self, edge, names, known=KNOWN):
        self.edge, self.names, self.lock, self.over = edge, names, threading.Lock(), threading.Event()
        self.known, self.unknown = [], []
        self.threads = [threading.Thread(target=self.run, args=(self.known, lambda user=user: user, 0.05))
                        for user, _ in known * 2]
        self.threads += [threading.Thread(target=self.run, args=(self.unknown, self.next_name, 0.1)) for _ in range(2)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def goes_on(self, unknown, seconds=60):
        """Until so many more unknown mailboxes were asked for."""
        wanted = len(self.unknown) + unknown
        assert wait_for(lambda: len(self.unknown) >= wanted, seconds), f"not {unknown} answers within {seconds} s"

    def next_name(self):
        with self.lock:
            return next(self.names)

    def run(self, answers, name, pause):
        client = Client(self.edge)
        while not self.over.wait(pause):
            answers.append(client.ask(name()))
        client.close()


def names_of_crowd(people):
    """Names that nobody has asked for yet, two of each person."""
    everybody = [f"person-{number:05}" for number in range(1, people + 1)]
    return itertools.chain([f"{name}@{forest.DOMAIN}" for name in everybody], [f"CONTOSO\\{it}" for it in everybody])
