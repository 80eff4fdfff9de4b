"""Contoso with real parts: KDC, two kinds of Client Access Servers, and an edge in front of each kind."""
import re, subprocess, sys, time
from pathlib import Path

import processes
from apache import Apache
from kdc import Kdc

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "Pass-word1"
PUBLIC_NAME = "mail.contoso.com"
SITES = {"Lisbon": ["cas-lis-1", "cas-lis-2"], "Porto": ["cas-opo-1", "cas-opo-2"]}
THREADS = 4  # more than one, because connections cross threads otherwise than they cross requests
SERVERS = [server for servers in SITES.values() for server in servers]


class Organisation:
    def __init__(self, directory, binary):
        self.directory, self.binary, self.started = Path(directory), binary, processes.Processes()
        self.people = re.findall(r"^sAMAccountName: (\S+)$", (ROOT / "conf/contoso.ldif").read_text(), re.M)
        self.pki = self.directory / "pki"

    def start(self):
        make_certificates(self.pki)
        users = self.directory / "ntlm-users"
        users.write_text("".join(f"CONTOSO:{person}:{PASSWORD}\n" for person in self.people))
        hosts = [PUBLIC_NAME, *(f"{server}.contoso.com" for server in SERVERS)]
        self.kdc = Kdc(self.directory / "kdc", self.started, self.people, PASSWORD, hosts)
        apaches = [Apache(self.directory, self.started, site, servers, self.pki, self.kdc, users)
                   for site, servers in SITES.items()]
        iis = Iis(self.directory, self.started, self.pki, users)
        ports = {server: port for apache in apaches for server, port in apache.ports.items()}
        logs = [apache.log for apache in apaches]
        self.apache = Edge("apache", self, ports, logs)
        self.iis = Edge("iis", self, iis.ports, [iis.log])
        self.apache_hammered = Edge("apache-hammered", self, ports, logs)
        self.iis_hammered = Edge("iis-hammered", self, iis.ports, [iis.log])
        self.edges = [self.apache, self.iis, self.apache_hammered, self.iis_hammered]

    def edge_with_keytab(self):
        """One that can open the tickets which clients send, in front of Apache."""
        edge = Edge("with-keytab", self, self.apache.ports, self.apache.request_logs,
                    more=f'[kerberos]\nkeytab = "{self.kdc.keytab}"\n')
        self.edges.append(edge)
        return edge

    def edge_that_delegates(self):
        """One that signs in to servers for users, with a keytab of its own account."""
        keytab = self.kdc.account("firstcas")
        edge = Edge("delegating", self, self.apache.ports, self.apache.request_logs,
                    more=f'[sign_in]\nby = ["delegation"]\nkeytab = "{keytab}"\n')
        self.edges.append(edge)
        return edge

    def stop(self):
        self.started.stop()


class Iis:
    def __init__(self, directory, started, pki, users):
        self.ports, self.log = {server: processes.free_port() for server in SERVERS}, directory / "iis-requests"
        output = directory / "iis-output"
        servers = [f"{server}={port}" for server, port in self.ports.items()]
        command = [sys.executable, ROOT / "tests/windows/iis.py", pki / "servers.pem", pki / "servers.key", self.log]
        process = started.start("iis.py", command + servers, output, {"NTLM_USER_FILE": str(users)})
        for port in self.ports.values():
            processes.wait_for_port(port, process, output)


class Edge:
    """The edge in front of one kind of servers."""

    def __init__(self, name, organisation, ports, request_logs, more=""):
        self.name, self.ports, self.request_logs, self.ca = name, ports, request_logs, organisation.pki / "ca.pem"
        self.log = organisation.directory / f"edge-{name}.log"
        closed = processes.free_port()  # for the servers that no check here asks for
        resolve = {**{f"{server}.contoso.com:443": closed for server in ["cas-mad-1", "cas-bra-1"]},
                   **{f"{server}.contoso.com:80": closed for server in ["ex03-lis", "ex03-opo"]},
                   **{f"{server}.contoso.com:443": port for server, port in ports.items()}}
        config = organisation.directory / f"edge-{name}.toml"
        config.write_text(CONFIG.format(
            threads=THREADS, ldif=ROOT / "conf/contoso.ldif", pki=organisation.pki, more=more,
            resolve="\n".join(f'"{host}" = "127.0.0.1:{port}"' for host, port in resolve.items())))
        process = organisation.started.start(f"the edge ({name})", [organisation.binary, "run", "-c", config], self.log)
        deadline = time.monotonic() + 20
        while "firstcas is ready" not in self.log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the edge ({name}) did not start:\n{self.log.read_text()}")
            time.sleep(0.05)
        listening = dict(re.findall(r"listening on (https?)://127\.0\.0\.1:(\d+)", self.log.read_text()))
        self.pid = process.pid
        self.port, self.tls_port = int(listening["http"]), int(listening["https"])
        self.url, self.tls_url = f"http://{PUBLIC_NAME}:{self.port}", f"https://{PUBLIC_NAME}:{self.tls_port}"

    def requests(self):
        """What the servers behind have answered: (server, connection, user, method, path, status)."""
        return [tuple(line.split("\t")) for log in self.request_logs if log.exists()
                for line in log.read_text().splitlines()]

    def events(self):
        return re.findall(r"^.*event=FC\d+.*$", self.log.read_text(), re.M)


CONFIG = """
[process]
threads = {threads}
[[listener]]
address = "127.0.0.1:0"
[[listener]]
address = "127.0.0.1:0"
[listener.tls]
certificate = "{pki}/edge.pem"
key = "{pki}/edge.key"
[directory]
ldif = "{ldif}"
[routing]
local_site = "Lisbon"
[limits]
failed_logons_per_user = 1000000
failed_logons_per_client = 1000000
activesync_requests_per_minute = 1000000
[health]
interval = "0s" # not all servers of the directory are there
[upstream]
ca = "{pki}/ca.pem"
{more}
[resolve]
{resolve}
"""


def make_certificates(pki):
    """A CA, and certificates of its for the servers and for the edge."""
    pki.mkdir()
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "60", "-subj",
            "/CN=Contoso Test CA", "-keyout", pki / "ca.key", "-out", pki / "ca.pem")
    names = {"servers": [f"{server}.contoso.com" for server in SERVERS], "edge": [PUBLIC_NAME]}
    for leaf, hosts in names.items():
        (pki / f"{leaf}.ext").write_text("subjectAltName = " + ", ".join(f"DNS:{host}" for host in hosts)
                                         + "\nextendedKeyUsage = serverAuth\nbasicConstraints = CA:FALSE\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={hosts[0]}",
                "-keyout", pki / f"{leaf}.key", "-out", pki / f"{leaf}.csr")
        openssl("x509", "-req", "-in", pki / f"{leaf}.csr", "-CA", pki / "ca.pem", "-CAkey", pki / "ca.key",
                "-CAcreateserial", "-days", "60", "-extfile", pki / f"{leaf}.ext", "-out", pki / f"{leaf}.pem")


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
