#!/usr/bin/env python3
"""Dovecot as Contoso's mail servers: each serves the mailboxes that live on it, or in its site, and refuses all others.

Usage: tests/mail/dovecot.py --pki DIR [--ldif FILE] [-c CONFIG]

Runs until SIGTERM or Ctrl-C. Which servers there are and where they listen, [resolve] in the edge's CONFIG says: its entries
for ports 110, 143, 995 and 993 (conf/firstcas.toml). Who lives where, FILE says (conf/contoso.ldif). DIR has the servers'
certificate, as `contoso pki DIR` makes it. Every password is Pass-word1, whatever FILE has. Each mailbox has a message that
tells where one is. All of it is in a temporary directory.

Debian: dovecot-imapd dovecot-pop3d.
"""
import argparse, base64, contextlib, os, re, shutil, signal, socket, subprocess, sys, tempfile, time, tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "Pass-word1"
PORTS = {110: "pop3", 143: "imap", 995: "pop3s", 993: "imaps"}
# Dovecot gives no mail to root. It runs as somebody without rights then, in all its parts.
NOBODY = 65534 if os.geteuid() == 0 else None


class Person:
    """Somebody of the LDIF file. `server` and `site`: where the mailbox is, `site` None on Exchange 2003."""

    def __init__(self, name, server, site):
        self.name, self.server, self.site = name, server, site
        self.password = PASSWORD
        self.denied = ""  # the word of a refusal, although the password is right

    def lives_on(self, server):
        return server.site == self.site if self.site else server.name == self.server

    def line(self):
        """For Dovecot's passwd-file: under each of the names that Exchange takes, contoso\\name being contoso/name to Dovecot."""
        names = [self.name, f"{self.name}@contoso.com", f"contoso/{self.name}"]
        # In base64 it may have any byte, a colon too.
        password = base64.b64encode(self.password.encode()).decode()
        denied = f" nologin reason={self.denied}" if self.denied else ""
        return "".join(f"{name}:{{PLAIN.b64}}{password}::::::user={self.name}{denied}\n" for name in names)


def records(ldif):
    """Attributes of each entry, the first value of each."""
    text = re.sub(r"^#.*\n", "", Path(ldif).read_text(), flags=re.M).replace("\n ", "")
    for record in re.split(r"\n\n+", text):
        pairs = [line.split(":", 1) for line in record.splitlines() if ":" in line]
        yield {name: value.strip() for name, value in reversed(pairs)}


def common_name(dn, level=0):
    return dn.split(",")[level].removeprefix("CN=") if dn else None


def organisation(ldif):
    """Everybody with a mailbox, and the site of each server but those of Exchange 2003, which have none."""
    entries = list(records(ldif))
    sites = {it["cn"]: common_name(it["msExchServerSite"]) for it in entries if "msExchServerSite" in it}
    homes = [(it["sAMAccountName"], common_name(it["homeMDB"], 3)) for it in entries if "homeMDB" in it]
    return [Person(name, server, sites.get(server)) for name, server in homes], sites


class Dovecot:
    """One server. `listeners`: address and port of each of `PORTS`' protocols that it speaks."""

    def __init__(self, directory, name, site, listeners, people, pki):
        self.directory, self.name, self.site, self.listeners = Path(directory) / name, name, site, listeners
        self.people = [person for person in people if person.lives_on(self)]
        self.process = None
        self.mail = self.directory / "mail"
        self.mail.mkdir(parents=True)
        for file in ["servers.pem", "servers.key"]:
            shutil.copy(Path(pki) / file, self.directory)
        self.write("people", "".join(person.line() for person in self.people))
        self.write("dovecot.conf", self.configuration())
        for person in self.people:
            self.deliver(person.name, f"From: {name} <postmaster@contoso.com>\r\nTo: {person.name}@contoso.com\r\n"
                         f"Subject: You have reached {name}, {person.name}\r\n\r\nThis mailbox is on {name}.\r\n")
        self.give_away(self.directory)

    def write(self, file, text):
        (self.directory / file).write_text(text)

    def configuration(self):
        group, user = "nogroup", "nobody"
        if NOBODY is None:
            user, group = [subprocess.check_output(["id", which], text=True).strip() for which in ["-un", "-gn"]]
        services = ""
        for protocol in ["imap", "pop3"]:
            inet = "".join(self.listener(name) for name in [protocol, f"{protocol}s"])
            # One process for all clients, rather than one for each that asks who is there.
            services += f"service {protocol}-login {{\n chroot =\n service_count = 0\n client_limit = 4000\n{inet}}}\n"
            services += f"service {protocol} {{\n process_limit = 4000\n}}\n"
        return f"""
            base_dir = {self.directory}/run
            state_dir = {self.directory}/state
            log_path = {self.directory}/log
            protocols = imap pop3
            listen = 127.0.0.1
            login_greeting = {self.name}.contoso.com is ready.
            default_internal_user = {user}
            default_internal_group = {group}
            default_login_user = {user}
            default_client_limit = 8000
            mail_location = maildir:{self.mail}/%u
            first_valid_uid = 1
            mail_max_userip_connections = 0
            disable_plaintext_auth = no
            auth_mechanisms = plain login
            auth_failure_delay = 0
            auth_username_chars =
            auth_username_format = %Lu
            auth_username_translation = "\\\\/"
            auth_verbose = yes
            ssl = yes
            ssl_cert = <{self.directory}/servers.pem
            ssl_key = <{self.directory}/servers.key
            passdb {{
              driver = passwd-file
              args = username_format=%u {self.directory}/people
            }}
            userdb {{
              driver = static
              args = uid={user} gid={group} home={self.mail}/%u
            }}
            service anvil {{
              chroot =
              unix_listener anvil-auth-penalty {{
                mode = 0
              }}
            }}
            service stats {{
              chroot =
            }}
            """ + services

    def listener(self, name):
        address, port = self.listeners.get(name, ("", 0))  # port 0: not there
        return f" inet_listener {name} {{\n address = {address}\n port = {port}\n ssl = {'yes' if name[-1] == 's' else 'no'}\n }}\n"

    def deliver(self, user, message):
        """Puts a message into somebody's INBOX; whoever waits for one is told."""
        mailbox = self.mail / user
        for part in ["tmp", "new", "cur"]:
            (mailbox / part).mkdir(parents=True, exist_ok=True)
        data = message if isinstance(message, bytes) else message.encode()
        name = f"{time.time_ns()}.{os.getpid()}.{self.name}"
        (mailbox / "tmp" / name).write_bytes(data)
        self.give_away(mailbox)
        (mailbox / "tmp" / name).rename(mailbox / "new" / name)

    def give_away(self, path):
        if NOBODY is not None:
            for it in [path, *path.rglob("*")]:
                with contextlib.suppress(FileNotFoundError):  # Dovecot removes its own as it likes
                    os.chown(it, NOBODY, NOBODY, follow_symlinks=False)

    def start(self):
        said_before = len(self.log())
        with open(self.directory / "said", "wb") as said:
            self.process = subprocess.Popen(["/usr/sbin/dovecot", "-F", "-c", self.directory / "dovecot.conf"],
                                            stdin=subprocess.DEVNULL, stdout=said, stderr=said, user=NOBODY, group=NOBODY,
                                            extra_groups=None if NOBODY is None else [], start_new_session=True)
        # Not by connecting: who connects may meet another one that is about to end.
        wait_until(lambda: "starting up for" in self.log()[said_before:], self.process, self.directory / "said")
        for address in self.listeners.values():
            socket.create_connection(address, 10).close()

    def stop(self):
        """Who is connected is cut off, and who connects is refused."""
        if self.process:
            self.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def terminate(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def doveadm(self, *command):
        """What Dovecot says of itself."""
        return subprocess.check_output(["doveadm", "-c", self.directory / "dovecot.conf", *command], text=True, timeout=20)

    def log(self):
        file = self.directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""


def wait_until(condition, process=None, log=None, seconds=30):
    """Waits, but not for a process that has ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process and process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it does not start:\n{log.read_text()[-3000:]}" if log else "it does not happen")
        time.sleep(0.02)


def listeners(config):
    """By server: where each protocol is served, as [resolve] has it."""
    found = {}
    for host_and_port, address in tomllib.loads(Path(config).read_text()).get("resolve", {}).items():
        host, _, port = host_and_port.partition(":")
        if port.isdecimal() and int(port) in PORTS:
            where, _, listens = address.rpartition(":")
            found.setdefault(host.split(".")[0], {})[PORTS[int(port)]] = where.strip("[]"), int(listens)
    return found


def all_of(directory, config, ldif, pki, people=None):
    """Contoso's mail servers, by name, not started yet. `people`: others than the LDIF file's."""
    everybody, sites = organisation(ldif)
    people = everybody if people is None else people
    return {name: Dovecot(directory, name, sites.get(name), where, people, pki)
            for name, where in listeners(config).items()}


ENDS = [signal.SIGINT, signal.SIGTERM]


def end(*_):
    """Once: Ctrl-C at a terminal is followed by the SIGTERM of whoever started this."""
    for which in ENDS:
        signal.signal(which, signal.SIG_IGN)
    sys.exit(0)


def stop(servers):
    """All at once: each takes a second."""
    for server in servers:
        server.terminate()
    for server in servers:
        server.stop()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pki", required=True)
    options.add_argument("--ldif", default=ROOT / "conf/contoso.ldif")
    options.add_argument("-c", "--config", default=ROOT / "conf/firstcas.toml")
    given = options.parse_args()
    for which in ENDS:
        signal.signal(which, end)
    with tempfile.TemporaryDirectory(prefix="dovecot-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)
        servers = all_of(directory, given.config, given.ldif, given.pki).values()
        try:
            for server in servers:
                server.start()
                where = ", ".join(f"{protocol}://{address}:{port}" for protocol, (address, port) in server.listeners.items())
                print(f"{server.name:<10} {where} for {' '.join(person.name for person in server.people)}", flush=True)
            print("dovecot is ready", flush=True)
            signal.pause()
        except RuntimeError as error:
            sys.exit(error)
        finally:
            stop(servers)


if __name__ == "__main__":
    main()
