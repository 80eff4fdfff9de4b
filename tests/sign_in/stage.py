"""Contoso whose servers take Kerberos alone: a domain controller, Apache as every server, and edges that sign in."""
import base64, os, re, shutil, signal
from types import SimpleNamespace

import gssapi, gssapi.raw

import processes
from apache import Apache
from edge import Edge
from forest import ACCOUNT, DOMAIN, PASSWORD, REALM, ROOT, Forest, certify

# One Apache each: its servers, those of them without TLS, and whether it keeps a connection's sign-in.
SITES = {"Lisbon": (["cas-lis-1", "cas-lis-2", "ex03-lis"], ["ex03-lis"], True),
         "Porto": (["cas-opo-1", "cas-opo-2", "ex03-opo"], ["ex03-opo"], False),
         "Madrid": (["cas-mad-1"], [], True)}
SERVERS = [server for servers, _, _ in SITES.values() for server in servers]
PUBLIC_NAME = f"mail.{DOMAIN}"
SERVERS_ACCOUNT, EDGES_ACCOUNT, EDGES_NAME = "svc-cas", "svc-firstcas", f"firstcas/edge.{DOMAIN}"
PEOPLE = 12  # of the crowd


def service(server):
    """A server's service principal name."""
    return f"HTTP/{server}.{DOMAIN}"


class Stage:
    def __init__(self, binary, directory):
        self.binary, self.directory, self.started, self.edges = binary, directory, processes.Processes(), []
        self.forest = Forest(directory / "forest", controllers=1, people=PEOPLE, password=PASSWORD)
        self.krb5_conf = self.forest.krb5_conf

    def start(self):
        self.directory.chmod(0o755)  # Apache's own user reads what is in it
        self.forest.start()
        self.make_accounts()
        self.pki = pki = self.make_certificates()
        self.servers_keytab = self.keytab_of(SERVERS_ACCOUNT, "servers.keytab")
        shutil.chown(self.servers_keytab, "www-data")
        self.kdc = servers = SimpleNamespace(env={"KRB5_CONFIG": str(self.krb5_conf)}, keytab=self.servers_keytab)
        self.keytab = self.keytab_of(EDGES_ACCOUNT, "edge.keytab")
        apaches = [Apache(self.directory, self.started, site, names, pki, servers, connection_bound=bound, plain=plain)
                   for site, (names, plain, bound) in SITES.items()]
        self.config = configuration(pki, {name: port for apache in apaches for name, port in apache.ports.items()})

    def stop(self):
        for edge in self.edges:
            edge.stop()
        self.started.stop()
        self.forest.stop()

    def samba_tool(self, *command):
        return self.forest.samba_tool(*command, dc=self.forest.dc1)

    def make_accounts(self):
        """One account that all servers are (Alternate Service Account), and the edge's, which signs in for others."""
        names = {SERVERS_ACCOUNT: [*map(service, SERVERS), f"HTTP/{PUBLIC_NAME}"],
                 # One without any cannot ask for tickets of others to itself, which is how delegation begins.
                 EDGES_ACCOUNT: [EDGES_NAME]}
        for account, its_names in names.items():
            self.samba_tool("user", "create", account, "--random-password")
            self.forest.replace(self.forest.dn_of(account), {"msDS-SupportedEncryptionTypes": 24})  # AES alone
            self.add(account, "servicePrincipalName", its_names)
        self.samba_tool("delegation", "for-any-protocol", EDGES_ACCOUNT, "on")
        self.add(EDGES_ACCOUNT, "msDS-AllowedToDelegateTo", map(service, SERVERS))

    def add(self, account, attribute, values):
        """As `samba-tool spn add` and `samba-tool delegation add-service` do, but all at once."""
        lines = "".join(f"{attribute}: {value}\n" for value in values)
        self.forest.modify(f"dn: {self.forest.dn_of(account)}\nchangetype: modify\nadd: {attribute}\n{lines}")

    def keytab_of(self, account, name):
        keytab = self.directory / name
        self.samba_tool("domain", "exportkeytab", keytab, f"--principal={account}@{REALM}")
        return keytab

    def make_certificates(self):
        """A directory with the certificates of the servers, of the edge and of who has one, and of their CA."""
        pki, ca = self.directory / "pki", self.forest.directory
        pki.mkdir()
        (pki / "ca.pem").write_bytes(self.forest.ca.read_bytes())
        names = ",".join(f"DNS:{server}.{DOMAIN}" for server in SERVERS)
        certify(ca, pki / "servers.pem", pki / "servers.key", "Contoso's servers", names)
        certify(ca, pki / "edge.pem", pki / "edge.key", PUBLIC_NAME, f"DNS:{PUBLIC_NAME},IP:127.0.0.1")
        return pki

    def certificate_of(self, person):
        """curl's options to show somebody's certificate, as Active Directory's authority would issue it."""
        pem, key = (self.directory / "pki" / f"{person}.{kind}" for kind in ["pem", "key"])
        if not pem.exists():
            names = f"otherName:1.3.6.1.4.1.311.20.2.3;UTF8:{person}@{DOMAIN}"
            certify(self.forest.directory, pem, key, person, names, usage="clientAuth")
        return ["--cert", str(pem), "--key", str(key)]

    def edge(self, name, by, keytab=None, krb5_conf=None, changes=(), env=None):
        """An edge that signs in for users, started."""
        ldap = (f'domain = "{DOMAIN}"\ndns_servers = ["{self.forest.dc1.address}"]\nbind_dn = "{ACCOUNT}"\n'
                f'bind_password_file = "{self.forest.account_password}"\nca = "{self.forest.ca}"\n')
        key = f'keytab = "{keytab or self.keytab}"\n' if by == "delegation" else ""
        changes = [("\n#[sign_in]\n", f'\n[sign_in]\nby = ["{by}"]\ntimeout = "{TIMEOUT}s"\n{key}'), *changes]
        edge = Edge(name, self.binary, self.directory, self, ldap, changes=changes,
                    env={"KRB5_CONFIG": str(krb5_conf or self.krb5_conf), **(env or {})})
        self.edges.append(edge)
        edge.ca = self.forest.ca
        edge.start()
        return edge

    def lisbon_with_ntlm(self):
        """What an edge's configuration needs to be in front of a Lisbon that takes NTLM, too."""
        users, servers = self.directory / "ntlm-users", ["cas-lis-1", "cas-lis-2"]
        users.write_text("".join(f"CONTOSO:{name}:{PASSWORD}\n" for name in ["ana", "bruno"]))
        apache = Apache(self.directory, self.started, "ntlm", servers, self.pki, self.kdc, ntlm_users=users)
        places = {f'"{server}.contoso.com:443" = ': port for server, port in apache.ports.items()}
        return [(re.search(f'^{re.escape(place)}".*"$', self.config, re.M)[0], f'{place}"127.0.0.1:{port}"')
                for place, port in places.items()]

    def other_krb5_conf(self, name, what, otherwise=""):
        """krb5.conf, but for one thing."""
        path = self.directory / f"{name}.conf"
        text = self.krb5_conf.read_text()
        assert what in text, f"krb5.conf has no {what}"
        path.write_text(text.replace(what, otherwise))
        return path

    def wrong_keytab(self):
        """A keytab with the edge's account in it, and a key that is not its."""
        path = self.directory / "wrong.keytab"
        commands = f"addent -password -p {EDGES_ACCOUNT}@{REALM} -k 1 -e aes256-cts\nAnother-word1\nwkt {path}\nquit\n"
        self.forest.run("ktutil", stdin=commands)
        return path

    def token(self, user):
        """What a client of theirs sends to the public name: a Kerberos token, in base64."""
        tickets = f"FILE:{self.directory}/tickets-{user}"
        self.forest.run("kinit", "-c", tickets, f"{user}@{REALM}", stdin=PASSWORD + "\n")
        os.environ["KRB5_CONFIG"] = str(self.krb5_conf)
        credentials = gssapi.Credentials(usage="initiate", store={"ccache": tickets})
        name = gssapi.Name(f"HTTP@{PUBLIC_NAME}", gssapi.NameType.hostbased_service)
        return base64.b64encode(gssapi.SecurityContext(name=name, creds=credentials, usage="initiate").step()).decode()

    def by_ntlm(self, client, user, path):
        """The answer to the last leg of an NTLM handshake over the client's connection."""
        mechanism = gssapi.OID.from_int_seq("1.3.6.1.4.1.311.2.2.10")
        name = gssapi.Name(f"CONTOSO\\{user}", gssapi.NameType.user)
        acquired = gssapi.raw.acquire_cred_with_password(name, PASSWORD.encode(), mechs=[mechanism], usage="initiate")
        context = gssapi.SecurityContext(name=gssapi.Name(f"HTTP@{PUBLIC_NAME}", gssapi.NameType.hostbased_service),
                                         creds=gssapi.Credentials(acquired.creds), mech=mechanism, usage="initiate")
        leg = base64.b64encode(context.step()).decode()
        challenge = client.request(user, "POST", path, {"Authorization": f"NTLM {leg}"})
        said = re.search(r"^NTLM (\S+)$", "\n".join(challenge.headers.get_all("WWW-Authenticate", [])), re.M)
        assert said, f"{challenge} is no challenge: {challenge.headers}"
        leg = base64.b64encode(context.step(base64.b64decode(said[1]))).decode()
        return client.request(user, "POST", path, {"Authorization": f"NTLM {leg}"})

    def wrong_password(self, user):
        self.forest.run("kinit", f"{user}@{REALM}", stdin="Wrong-word1\n", ok=False)

    def freeze_kdc(self):
        """The domain controller goes on, but for Kerberos: requests for tickets stay unanswered."""
        self.signal_kdc(signal.SIGSTOP)

    def thaw_kdc(self):
        self.signal_kdc(signal.SIGCONT)

    def signal_kdc(self, number):
        pids = self.forest.dc1.processes_of("kdc")
        assert pids, "there is no kdc process"
        for pid in pids:
            os.kill(pid, number)


TIMEOUT = 3  # seconds, sign_in.timeout


def configuration(pki, ports):
    """conf/firstcas.toml, with the certificates in `pki` and the servers where they are."""
    text = (ROOT / "conf/firstcas.toml").read_text().replace("state/demo", str(pki))
    for server, port in ports.items():
        text, found = re.subn(rf'^("{server}\.contoso\.com:(?:80|443)" = )".*"$', rf'\1"127.0.0.1:{port}"', text, flags=re.M)
        assert found == 1, f"conf/firstcas.toml has not one {server} any more"
    # The interval is that of health checks: not all servers are there.
    for option, value in [("client_ca", f'"{pki}/ca.pem"'), ("logon_form", "true"), ("interval", '"0s"')]:
        text, found = re.subn(rf"^#{option} = .*$", f"{option} = {value}", text, flags=re.M)
        assert found == 1, f"conf/firstcas.toml has not one {option} any more"
    return text
