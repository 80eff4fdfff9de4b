"""Contoso with Dovecot as its mail servers, more people than it has otherwise, and edges in front."""
import base64, hashlib, os, re, signal, subprocess
from pathlib import Path

import dovecot
import processes
from dovecot import PASSWORD, ROOT
from processes import free_port

EIGHT_BIT = 'Grüße: "1\\'  # and what IMAP4 must quote
CROWD = 12  # in each of `HOMES`, for those tests that would use up somebody's wrong passwords
HOMES = {"l": "ana", "p": "bruno", "b": "elsa", "n": "helena"}  # pool, other site, back-end, no mailbox: who lives there
REFUSAL_DELAY = 0.5


class Stage:
    def __init__(self, folder, directory):
        """`folder`: where firstcas and examples/contoso are."""
        self.folder, self.directory, self.started, self.edges, self.servers = folder, directory, processes.Processes(), [], {}
        self.ldif, self.config = directory / "contoso.ldif", directory / "firstcas.toml"

    def start(self):
        self.directory.chmod(0o755)  # Dovecot may run as somebody else
        contoso = self.folder / "examples/contoso"
        subprocess.run([contoso, "pki", self.directory], check=True, stdout=subprocess.DEVNULL)
        strangers = [Stranger("julia", "elsa", EIGHT_BIT), Stranger("igor", "elsa"), Stranger("kim", "duarte")]
        strangers += [Stranger(f"{home}{number:02}", like) for home, like in HOMES.items() for number in range(CROWD)]
        text = (ROOT / "conf/contoso.ldif").read_text()
        domain, configuration = re.split(r"(?=^dn: CN=Configuration,DC=contoso)", text, maxsplit=1, flags=re.M)
        self.ldif.write_text(domain + "".join(it.record(text) for it in strangers) + configuration)
        self.config.write_text(self.configuration())
        log = self.directory / "contoso.log"
        command = [contoso, "run", "--ldif", self.ldif, "--pki", self.directory, "-c", self.config, "--control", "127.0.0.1:0"]
        dovecot.wait_until(lambda: "contoso is ready" in log.read_text(), self.started.start("contoso", command, log), log)
        people, _ = dovecot.organisation(self.ldif)
        for person in people:
            person.password = next((it.password for it in strangers if it.name == person.name), PASSWORD)
            person.denied = "Mailbox-is-being-moved" if person.name == "igor" else ""
            person.password = "Another-word1" if person.name == "kim" else person.password
        self.servers = dovecot.all_of(self.directory, self.config, self.ldif, self.directory, people)
        for server in self.servers.values():
            server.start()

    def stop(self):
        for edge in self.edges:
            edge.stop()
        dovecot.stop(self.servers.values())
        self.started.stop()

    def configuration(self):
        """The demo's, on ports of its own, each server still at its own address."""
        text = (ROOT / "conf/firstcas.toml").read_text()
        text = re.sub(r'= "(127\.0\.[1-9]\.[0-9]+):[0-9]+"', lambda it: f'= "{it[1]}:{free_port()}"', text)
        text = text.replace("conf/contoso.ldif", str(self.ldif)).replace('"state/demo/ca.pem"', f'"{self.directory}/ca.pem"')
        for name in ["edge.pem", "edge.key"]:
            text = text.replace(f"state/demo/{name}", str(self.directory / name))
        return text

    def edge(self, name, *changes):
        """Another edge, with its `changes`: pairs of old text and new."""
        edge = Edge(self, name, changes)
        self.edges.append(edge)
        edge.start()
        return edge


class Stranger:
    """Somebody whom Contoso does not have, with a mailbox where somebody else's is."""

    def __init__(self, name, like, password=PASSWORD):
        self.name, self.like, self.password = name, like, password

    def record(self, ldif):
        like = next(it for it in re.split(r"\n\n+", ldif) if f"\nsAMAccountName: {self.like}\n" in it)
        like = re.sub(r"^(#|proxyAddresses|msExchMailboxGuid|userPassword).*\n?", "", like, flags=re.M)
        full_name = re.search(r"^cn: (.*)", like, re.M)[1]
        record = like.replace(full_name, self.name).replace(self.like, self.name).strip()
        salt = os.urandom(8)
        digest = base64.b64encode(hashlib.sha1(self.password.encode() + salt).digest() + salt).decode()
        return f"{record}\nproxyAddresses: SMTP:{self.name}@contoso.com\nuserPassword: {{SSHA}}{digest}\n\n"


class Edge:
    """An edge; `ports` by protocol, "imap-plain" and "pop3-plain" being those that take passwords without TLS."""

    def __init__(self, stage, name, changes):
        self.name, self.binary, self.directory = name, stage.folder / "firstcas", stage.directory / name
        self.directory.mkdir()
        self.config, self.log_file, self.pid_file = (self.directory / it for it in ["firstcas.toml", "log", "firstcas.pid"])
        protocols = {8143: "imap", 8993: "imaps", 8110: "pop3", 8995: "pop3s"}
        text, self.ports = stage.config.read_text().replace("state/demo", str(self.directory)), {}
        for was in [8080, 8443, 8090, *protocols]:
            port = free_port()
            self.ports[protocols.get(was, was)] = port
            text = text.replace(f'"127.0.0.1:{was}"', f'"127.0.0.1:{port}"')
        plain = ""
        for protocol, spoken in [("imap-plain", "imap4"), ("pop3-plain", "pop3")]:
            self.ports[protocol] = port = free_port()
            plain += (f'[[listener]]\naddress = "127.0.0.1:{port}"\nprotocol = "{spoken}"\nallow_plain_logon = true\n\n')
        for old, new in [("# ---- The directory", f"{plain}\n# ---- The directory"),
                         ('\n#refusal_delay = "2s"\n', f'\nrefusal_delay = "{REFUSAL_DELAY * 1000:.0f}ms"\n'), *changes]:
            assert text.count(old) == 1, f"conf/firstcas.toml has not one {old.strip()} any more"
            text = text.replace(old, new)
        self.config.write_text(text)
        self.directory.chmod(0o700)

    def start(self):
        self.started = processes.Processes()
        self.process = self.started.start(self.name, [self.binary, "run", "-c", self.config], self.log_file)
        dovecot.wait_until(lambda: "firstcas is ready" in self.log(), self.process, self.log_file)

    def pid(self):
        """Of the one that serves: after an upgrade it is not the one that was started."""
        return int(self.pid_file.read_text()) if self.pid_file.exists() else None

    def signal(self, which):
        os.kill(self.pid(), which)

    def upgrade(self):
        done = subprocess.run([self.binary, "upgrade", "-c", self.config], capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stdout + done.stderr

    def stop(self):
        serves = self.pid()
        if serves and serves != self.process.pid:
            os.kill(serves, signal.SIGTERM)
            dovecot.wait_until(lambda: not Path(f"/proc/{serves}").exists())
        self.started.stop()

    def log(self):
        return self.log_file.read_text(errors="replace")

    def mark(self):
        """A place in the log, for `lines` and `events`."""
        return len(self.log())

    def lines(self, since=0):
        """Of the access log."""
        return [line for line in self.log()[since:].splitlines() if "target=firstcas::access" in line]

    def events(self, id, since=0):
        """The sentences of an event."""
        found = re.findall(r'target=firstcas::event msg="((?:[^"\\]|\\.)*)" event=(\S+)', self.log()[since:])
        return [sentence for sentence, event in found if event == id]
