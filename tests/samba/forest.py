"""A real Active Directory forest for tests: Contoso on two Samba domain controllers, in one directory, on loopback.

`tests/samba/forest start DIR` is the command; other scripts say

    with Forest(directory) as forest:
        forest.move("bruno", "mbx-lis")
        forest.dc1.freeze()

What is where (`Forest.environment` names all of it): dc1 in Lisbon at 127.0.10.1, dc2 in Porto at 127.0.10.2, each with
DNS, Kerberos, LDAP and global catalog at their usual ports; certificates of a CA made for it; the account firstcas with
password and keytab; Contoso from conf/contoso.ldif, whose people are accounts with the password Pass-word1.

Nothing outside the directory is read or written: names are resolved by a hosts file of its own, which libnss_wrapper
shows to Samba and to every program started with `Forest.run`. Packages: see PACKAGES.
"""
import base64, contextlib, errno, os, re, signal, socket, subprocess, time
from pathlib import Path

import exchange_schema

PACKAGES = ("samba samba-ad-dc samba-ad-provision samba-dsdb-modules winbind ldb-tools ldap-utils krb5-user "
            "libsasl2-modules-gssapi-mit libnss-wrapper openssl")
ROOT = Path(__file__).resolve().parent.parent.parent
DOMAIN, REALM, NETBIOS, BASE = "contoso.com", "CONTOSO.COM", "CONTOSO", "DC=contoso,DC=com"
CONFIGURATION = f"CN=Configuration,{BASE}"
PASSWORD = "Pass-word1"  # of the people
ADMINISTRATOR, ADMINISTRATOR_PASSWORD = f"administrator@{DOMAIN}", "Admin-Pass-word1"
ACCOUNT, ACCOUNT_PASSWORD = f"firstcas@{DOMAIN}", "Edge-Pass-word1"
LOCKOUT_THRESHOLD = 5  # wrong passwords of one account
PORTS = {"dns": 53, "kerberos": 88, "rpc": 135, "ldap": 389, "kpasswd": 464, "ldaps": 636, "gc": 3268, "gcs": 3269}


# Of Samba's own programs: nobody's tickets; and losing a test's database costs nothing, syncing it costs time.
SAMBA_ENVIRONMENT = {"KRB5CCNAME": "MEMORY:", "TDB_NO_FSYNC": "1"}


class ForestError(Exception):
    """What went wrong, in words for whoever started it."""


class Forest:
    def __init__(self, directory, controllers=2, people=0, password=None):
        """`controllers` is 1 or 2. `people` is how many are added to Contoso's own: person-00001 and so on, at mbx-lis.
        They have no password unless one is given.

        A directory that already holds a forest is taken as it is.
        """
        self.directory = Path(directory).resolve()
        self.people, self.password = people, password
        self.dc1 = DomainController(self, "dc1", "Lisbon", "127.0.10.1")
        self.dc2 = DomainController(self, "dc2", "Porto", "127.0.10.2")
        made = [dc for dc in (self.dc1, self.dc2) if dc.sam.exists()]
        self.controllers = made or [self.dc1, self.dc2][:controllers]
        self.env_file = self.directory / "env"  # written last
        self.ca, self.hosts = self.directory / "ca.pem", self.directory / "hosts"
        self.krb5_conf, self.keytab = self.directory / "krb5.conf", self.directory / "firstcas.keytab"
        self.account_password = self.directory / "firstcas-password"
        self.administrator_password = self.directory / "administrator-password"
        self.sign_in = ["-x", "-D", ACCOUNT, "-y", self.account_password]  # for OpenLDAP's programs
        self.environment = {"KRB5_CONFIG": str(self.krb5_conf), "LD_PRELOAD": "libnss_wrapper.so",
                            "NSS_WRAPPER_HOSTS": str(self.hosts), "LDAPTLS_CACERT": str(self.ca),
                            "LDAPCONF": "/dev/null", "KRB5CCNAME": f"FILE:{self.directory}/tickets"}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Makes the forest unless it is there, and starts it. Returns when every port answers and the DCs agree."""
        for dc in self.controllers:
            dc.check_ports_are_free()
        made = self.env_file.exists()
        if not made and self.directory.exists() and any(self.directory.iterdir()):
            raise ForestError(f"{self.directory} is neither empty nor a whole forest; remove it")
        try:
            if made:
                for dc in self.controllers:
                    dc.spawn()
            else:
                self._make()
            for dc in self.controllers:
                dc.wait_until_ready()  # also the ones that _make has left running
            self._write_env()
        except BaseException:
            self.stop()
            raise

    def stop(self):
        for dc in self.controllers:
            dc.stop()

    def move(self, user, server, dc=None):
        """Moves a mailbox to another server, as Exchange does: home server and database."""
        self.replace(self.dn_of(user), home_of(server), dc)

    def replace(self, dn, values, dc=None):
        """Sets attributes, a dictionary, as administrator."""
        changes = "-\n".join(f"replace: {name}\n{name}: {value}\n" for name, value in values.items())
        self.modify(f"dn: {dn}\nchangetype: modify\n{changes}", dc)

    def modify(self, ldif, dc=None):
        """Applies LDIF changes as administrator."""
        self.run("ldapmodify", "-H", (dc or self.dc1).url("ldaps"), "-x", "-D", ADMINISTRATOR, "-y",
                 self.administrator_password, stdin=ldif)

    def dn_of(self, user):
        for record in self.search(f"(sAMAccountName={user})", ["cn"]):
            return record["dn"][0]
        raise ForestError(f"nobody is called {user}")

    def search(self, filter, attributes=(), base=BASE, port="ldaps", dc=None, scope="sub", more=()):
        """What the account firstcas sees: dictionaries of lists, by attribute; octets are bytes."""
        return records(self.run("ldapsearch", "-H", (dc or self.dc1).url(port), *self.sign_in, "-LLL", "-o",
                                "ldif-wrap=no", "-b", base, "-s", scope, *more, filter, *attributes))

    def wrong_passwords_counted(self, user, dc=None):
        """The badPwdCount that a DC, dc1 unless one is named, has for somebody."""
        found = self.run("ldapsearch", "-H", (dc or self.dc1).url("ldaps"), "-x", "-D", ADMINISTRATOR, "-y",
                         self.administrator_password, "-LLL", "-b", self.dn_of(user), "badPwdCount")
        return int((re.search(r"^badPwdCount: (\d+)$", found, re.M) or [0, 0])[1])

    def replicate(self, source=None, target=None, naming_context=BASE):
        """Lets one DC fetch now what the other has; without it, changes travel within some seconds."""
        source, target = source or self.dc1, target or self.dc2
        self.samba_tool("drs", "replicate", target.host, source.host, naming_context, dc=target)

    def run(self, *command, stdin="", ok=True, env=None):
        """Runs a program that sees the forest's names, Kerberos realm and CA. Returns its standard output."""
        done = subprocess.run([str(part) for part in command], input=stdin, text=True, capture_output=True, timeout=300,
                              env=self.whole_environment(env))
        if ok and done.returncode:
            raise ForestError(f"{command[0]} {command[1]}: status {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout if ok else done

    def whole_environment(self, more=None):
        return {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin", **self.environment, **(more or {})}

    def samba_tool(self, *command, dc):
        """As administrator, where it signs in at all."""
        administrator = {"USER": "Administrator", "PASSWD_FILE": str(self.administrator_password)}
        return self.run("samba-tool", *command, f"--configfile={dc.config}", env={**SAMBA_ENVIRONMENT, **administrator})

    def _make(self):
        there = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES.split()],
                               capture_output=True, text=True).stdout.splitlines()
        missing = [package for package in PACKAGES.split() if f"{package} installed" not in there]
        if missing:
            raise ForestError(f"not installed: apt-get install {' '.join(missing)}")
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chmod(self.directory, 0o755)
        write_secret(self.account_password, ACCOUNT_PASSWORD)
        write_secret(self.administrator_password, ADMINISTRATOR_PASSWORD)
        kdcs = "".join(f"        kdc = {dc.address}\n" for dc in self.controllers)
        self.krb5_conf.write_text(KRB5_CONF.format(realm=REALM, domain=DOMAIN, kdcs=kdcs))
        self.hosts.write_text("".join(f"{dc.address} {dc.host} {dc.name}\n" for dc in self.controllers))
        make_certificates(self.directory, self.controllers)
        self.dc1.write_config()
        self.samba_tool("domain", "provision", f"--realm={REALM}", f"--domain={NETBIOS}", "--host-name=dc1",
                        f"--host-ip={self.dc1.address}", f"--adminpass={ADMINISTRATOR_PASSWORD}", "--server-role=dc",
                        "--dns-backend=SAMBA_INTERNAL", f"--site={self.dc1.site}", dc=self.dc1)
        for number, ldif in enumerate(exchange_schema.steps(BASE)):
            self._load(f"schema-{number}.ldif", ldif)
        self._load("contoso.ldif", contoso())
        if self.people:
            self._load("people.ldif", crowd(self.people, self.password), "-o", "batch_mode:1")  # eight times as fast
        self.samba_tool("domain", "exportkeytab", self.keytab, f"--principal=firstcas@{REALM}", dc=self.dc1)
        self._register_services(self.dc1)
        self.dc1.spawn()
        self.dc1.wait_until_ready()
        self._register_names(self.dc1)
        if self.dc2 in self.controllers:
            self.dc2.write_config()
            self.samba_tool("domain", "join", DOMAIN, "DC", f"--server={self.dc1.host}", f"--site={self.dc2.site}",
                            "--dns-backend=SAMBA_INTERNAL", dc=self.dc2)
            self._name_by_guid()
            self._register_services(self.dc2)
            self._register_names(self.dc2)
            self.dc2.spawn()
            self.dc2.wait_until_ready()
            self._make_them_agree()

    def _load(self, name, ldif, *options):
        """Puts LDIF changes into dc1's database, which does not run yet."""
        path = self.directory / name
        path.write_text(ldif)
        self.run("ldbmodify", "-H", self.dc1.sam, f"--configfile={self.dc1.config}",
                 "--option=dsdb:schema update allowed=true", *options, path, env=SAMBA_ENVIRONMENT)

    def _register_services(self, dc):
        """The service principal names of a DC that does not run yet."""
        self.run("samba_spnupdate", f"--configfile={dc.config}", env=SAMBA_ENVIRONMENT)

    def _register_names(self, dc):
        """The DNS records of a DC, at dc1: of its own site, and of the sites without DCs that it is the nearest to."""
        done = self.run("samba_dnsupdate", "--use-samba-tool", f"--rpc-server-ip={self.dc1.address}",
                        f"--current-ip={dc.address}", "--all-names", f"--configfile={dc.config}", ok=False,
                        env=SAMBA_ENVIRONMENT)
        # It counts as failures what provisioning wrote already.
        problems = [line for line in done.stderr.splitlines() if "Record already exists" not in line]
        if problems or (done.returncode and not done.stderr):
            raise ForestError("samba_dnsupdate: " + "\n".join(problems))

    def _make_them_agree(self):
        """Until here dc2 has fetched from dc1 only."""
        self.samba_tool("drs", "kcc", self.dc1.host, dc=self.dc1)
        expected = [
            (self.dc1, BASE, "(servicePrincipalName=ldap/dc2.contoso.com)"),
            (self.dc2, f"DC={DOMAIN},CN=MicrosoftDNS,DC=DomainDnsZones,{BASE}", "(&(dc=dc2)(dnsRecord=*))"),
            (self.dc2, f"DC=_msdcs.{DOMAIN},CN=MicrosoftDNS,DC=ForestDnsZones,{BASE}",
             f"(&(dc=_ldap._tcp.{self.dc2.site}._sites.gc)(dnsRecord=*))"),
        ]
        for dc, base, filter in expected:
            if not wait_for(lambda: self.search(filter, ["1.1"], base, dc=dc), 30):
                raise ForestError(f"nothing replicates to {dc.name}: it has no {filter}")

    def _name_by_guid(self):
        """DCs call each other by GUID."""
        with open(self.hosts, "a", encoding="ascii") as hosts:
            for dc in self.controllers:
                found = self.run("ldbsearch", "-H", self.dc1.sam, f"--configfile={self.dc1.config}", "-b",
                                 f"CN=NTDS Settings,CN={dc.name},CN=Servers,CN={dc.site},CN=Sites,{CONFIGURATION}",
                                 "-s", "base", "objectGUID")
                guid = re.search(r"^objectGUID: (\S+)$", found, re.M).group(1)
                hosts.write(f"{dc.address} {guid}._msdcs.{DOMAIN}\n")

    def _write_env(self):
        values = {"DOMAIN": DOMAIN, "REALM": REALM, "BASE": BASE, "CONFIGURATION": CONFIGURATION, "CA": self.ca,
                  "BIND_DN": f"CN=firstcas,CN=Users,{BASE}", "BIND_UPN": ACCOUNT,
                  "BIND_PASSWORD_FILE": self.account_password, "KEYTAB": self.keytab, "ADMINISTRATOR": ADMINISTRATOR,
                  "ADMINISTRATOR_PASSWORD_FILE": self.administrator_password, "PEOPLE_PASSWORD": PASSWORD,
                  "DNS_SERVERS": ",".join(dc.address for dc in self.controllers), **self.environment}
        for dc in self.controllers:
            name = dc.name.upper()
            values |= {f"{name}_HOST": dc.host, f"{name}_ADDRESS": dc.address, f"{name}_SITE": dc.site,
                       f"{name}_PID": dc.pid()}
        values |= {f"PORT_{name.upper()}": port for name, port in PORTS.items()}
        self.env_file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))


class DomainController:
    def __init__(self, forest, name, site, address):
        self.forest, self.name, self.site, self.address = forest, name, site, address
        self.host, self.directory = f"{name}.{DOMAIN}", forest.directory / name
        self.config, self.sam = self.directory / "smb.conf", self.directory / "private/sam.ldb"
        self.pid_file, self.log = self.directory / "pid", self.directory / "log"
        # Samba's default on the first; what the second takes besides is a sign-in by Kerberos within TLS.
        self.strong_auth = "yes" if name == "dc1" else "allow_sasl_over_tls"

    def url(self, port):
        """Of a port by its name in PORTS; the host is the name that the certificate has."""
        return f"{'ldaps' if port in ('ldaps', 'gcs') else 'ldap'}://{self.host}:{PORTS[port]}"

    def start(self):
        """Starts what was stopped."""
        self.check_ports_are_free()
        self.spawn()
        self.wait_until_ready()

    def stop(self):
        """Ends all its processes. Connections to it are closed, new ones refused."""
        pid = self.pid()
        if pid is None:
            return
        for number, seconds in [(signal.SIGTERM, 5), (signal.SIGKILL, 5)]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
                os.killpg(pid, signal.SIGCONT)  # it may be frozen
            if wait_for(lambda: not group_runs(pid), seconds):
                break
        else:
            raise ForestError(f"{self.name} does not end, pid {pid}")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        self.pid_file.unlink()

    def freeze(self):
        """Everything stays connected and nothing answers."""
        os.killpg(self.pid(), signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.pid(), signal.SIGCONT)

    def pid(self):
        """Of the first of its processes, whose group is theirs; None if it does not run."""
        try:
            pid, started = self.pid_file.read_text().split()
        except FileNotFoundError:
            return None
        return int(pid) if start_of(pid) == started else None  # somebody else may have the number by now

    def processes_of(self, service):
        """The numbers of the processes of one of Samba's services, such as kdc."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                group = int((directory / "stat").read_text().rpartition(")")[2].split()[2])  # proc(5)
                name = (directory / "comm").read_text()
                if group == self.pid() and re.match(rf"{service}[(\[]", name):  # kdc[master], kdc(0)
                    found.append(int(directory.name))
        return found

    def check_ports_are_free(self):
        if self.pid():
            raise ForestError(f"{self.name} runs already, pid {self.pid()}")
        for name, port in PORTS.items():
            kinds = [socket.SOCK_STREAM] + [socket.SOCK_DGRAM] * (name in ("dns", "kerberos", "ldap", "kpasswd"))
            for kind in kinds:
                with socket.socket(socket.AF_INET, kind) as trial:
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
                    try:
                        trial.bind((self.address, port))
                    except OSError as error:
                        if error.errno == errno.EACCES:
                            raise ForestError(f"port {port} is for root alone") from None
                        raise ForestError(f"{self.address}:{port} ({name}) is taken: {error.strerror}. Is another "
                                          "forest running, or a server on every address?") from None

    def spawn(self):
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                ["samba", "--foreground", "--no-process-group", "--debug-stdout", f"--configfile={self.config}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=self.forest.whole_environment(SAMBA_ENVIRONMENT))
        self.pid_file.write_text(f"{process.pid} {start_of(process.pid)}")
        self.process = process  # so that it is waited for, if we outlive it

    def wait_until_ready(self, seconds=60):
        waiting = dict(PORTS)
        deadline = time.monotonic() + seconds
        while waiting:
            for name, port in list(waiting.items()):
                with contextlib.suppress(OSError):
                    socket.create_connection((self.address, port), 1).close()
                    del waiting[name]
            if waiting and (time.monotonic() > deadline or self.process.poll() is not None):
                raise ForestError(f"{self.name} does not listen on {waiting}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def write_config(self):
        for part in ["private", "state/sysvol", "cache", "lock", "run"]:
            (self.directory / part).mkdir(parents=True)
        self.config.write_text(SMB_CONF.format(dc=self, directory=self.directory, realm=REALM, netbios=NETBIOS,
                                               domain=DOMAIN))


# Only what a directory needs: no file server, no winbind, no NetBIOS, no DNS updates by itself.
SMB_CONF = """[global]
    server role = active directory domain controller
    server services = rpc, ldap, cldap, kdc, drepl, kcc, dns
    prefork children = 2
    netbios name = {dc.name}
    workgroup = {netbios}
    realm = {realm}
    interfaces = {dc.address}/8
    bind interfaces only = yes
    disable netbios = yes
    private dir = {directory}/private
    state directory = {directory}/state
    cache directory = {directory}/cache
    lock directory = {directory}/lock
    pid directory = {directory}/run
    ncalrpc dir = {directory}/run/ncalrpc
    winbindd socket directory = {directory}/run/winbindd
    ntp signd socket directory = {directory}/run/ntp_signd
    binddns dir = {directory}/run/bind
    ldap server require strong auth = {dc.strong_auth}
    usershare path =
    log file = {directory}/log
    logging = file
    tls keyfile = {directory}/key.pem
    tls certfile = {directory}/certificate.pem
    tls cafile = {directory}/../ca.pem
    dreplsrv:periodic_startup_interval = 1
    dreplsrv:periodic_interval = 5
    dreplsrv:notify_startup_interval = 1
    dreplsrv:notify_interval = 1
    kccsrv:periodic_startup_interval = 1

[sysvol]
    path = {directory}/state/sysvol
[netlogon]
    path = {directory}/state/sysvol/{domain}/scripts
"""

KRB5_CONF = """[libdefaults]
    default_realm = {realm}
    dns_lookup_realm = false
    dns_lookup_kdc = false
    dns_canonicalize_hostname = false
    rdns = false
    forwardable = true
[realms]
    {realm} = {{
{kdcs}    }}
[domain_realm]
    .{domain} = {realm}
    {domain} = {realm}
"""

# In every Active Directory before anybody adds to it.
ALREADY_THERE = {dn.lower() for dn in [
    BASE, f"CN=Users,{BASE}", CONFIGURATION, f"CN=Services,{CONFIGURATION}",
    *(f"{rdn}CN=Partitions,{CONFIGURATION}" for rdn in ["", "CN=CONTOSO,", "CN=Enterprise Configuration,"]),
    *(f"{rdn}CN=Sites,{CONFIGURATION}" for rdn in ["", "CN=Lisbon,", "CN=Subnets,", "CN=Inter-Site Transports,",
                                                  "CN=IP,CN=Inter-Site Transports,"])]}


def contoso():
    """conf/contoso.ldif as changes of a new Samba forest: the configuration first, because mailboxes link to it."""
    text = (ROOT / "conf/contoso.ldif").read_text(encoding="utf-8")
    blocks = re.split(r"\n\n+", re.sub(r"^#.*\n", "", text, flags=re.M).replace("\n ", "").strip())
    configuration, people = f"dn: CN=DEFAULTIPSITELINK,CN=IP,CN=Inter-Site Transports,CN=Sites,{CONFIGURATION}\n" \
                            "changetype: delete\n\n", ""
    for block in blocks:
        dn, lines = block.split("\n", 1)
        name = dn.removeprefix("dn: ")
        if name.lower() in ALREADY_THERE:
            continue
        change = f"{dn}\nchangetype: add\n"
        if "\nobjectClass: siteLink\n" in block:
            lines += "\nreplInterval: 15\noptions: 1"  # minutes, without which Samba's KCC fails; announce changes
        if "\nobjectClass: user\n" in block:
            lines = re.sub(r"^userPassword: .*$", account(PASSWORD), lines, flags=re.M)
            people += f"{change}{lines}\n\n"
        else:
            configuration += f"{change}{lines}\n\n"
        if "\nobjectClass: site\n" in block:
            configuration += f"dn: CN=Servers,{name}\nchangetype: add\nobjectClass: serversContainer\n\n"
            configuration += f"dn: CN=NTDS Site Settings,{name}\nchangetype: add\nobjectClass: nTDSSiteSettings\n\n"
    people += (f"dn: CN=firstcas,CN=Users,{BASE}\nchangetype: add\nobjectClass: user\nsAMAccountName: firstcas\n"
               f"userPrincipalName: {ACCOUNT}\n{account(ACCOUNT_PASSWORD)}\n\n")
    minutes = -600_000_000
    lockout = (f"dn: {BASE}\nchangetype: modify\nreplace: lockoutThreshold\nlockoutThreshold: {LOCKOUT_THRESHOLD}\n-\n"
               f"replace: lockoutDuration\nlockoutDuration: {30 * minutes}\n-\n"
               f"replace: lockOutObservationWindow\nlockOutObservationWindow: {30 * minutes}\n\n")
    return configuration + people + lockout


def account(password):
    """LDIF lines of an enabled account whose password does not expire."""
    encoded = base64.b64encode(password.encode("utf-16-le")).decode()
    return f"userAccountControl: 66048\nclearTextPassword:: {encoded}"


def crowd(number, password=None):
    """People person-00001@contoso.com ... with mailboxes on mbx-lis, and no password or this one.

    Their homeMDB is left out: Samba keeps the links of a database in one value, and takes a minute for thousands.
    """
    home, more = home_of("mbx-lis"), f"{account(password)}\n" if password else ""
    return f"dn: OU=Crowd,{BASE}\nchangetype: add\nobjectClass: organizationalUnit\n\n" + "".join(
        f"dn: CN={name},OU=Crowd,{BASE}\nchangetype: add\nobjectClass: user\nsAMAccountName: {name}\n"
        f"userPrincipalName: {name}@{DOMAIN}\nmail: {name}@{DOMAIN}\nproxyAddresses: SMTP:{name}@{DOMAIN}\n"
        f"mailNickname: {name}\nmsExchHomeServerName: {home['msExchHomeServerName']}\n"
        f"msExchMailboxGuid:: {base64.b64encode(b'contoso' + number.to_bytes(9, 'big')).decode()}\n{more}\n"
        for number in range(1, number + 1) for name in [f"person-{number:05}"])


def home_of(server):
    """The attributes of mailboxes on a server of Contoso."""
    exchange_2007 = "Exchange Administrative Group (FYDIBOHF23SPDLT)"
    group = "First Administrative Group" if server.startswith("ex03") else exchange_2007
    return {"homeMDB": f"CN=Mailbox Database,CN=First Storage Group,CN=InformationStore,CN={server},CN=Servers,"
                       f"CN={group},CN=Administrative Groups,CN=Contoso,CN=Microsoft Exchange,CN=Services,"
                       f"{CONFIGURATION}",
            "msExchHomeServerName": f"/o=Contoso/ou={group}/cn=Configuration/cn=Servers/cn={server}"}


def records(ldif):
    """LDIF as a list of dictionaries of lists; values in base64 that are no text are bytes."""
    found = []
    for block in ldif.strip().split("\n\n"):
        record = {}
        for line in block.splitlines():
            name, _, value = line.partition(":")
            if line.startswith("#") or not name:
                continue
            if value.startswith(":"):
                value = base64.b64decode(value[1:])
                with contextlib.suppress(UnicodeDecodeError):
                    value = value.decode()
            else:
                value = value.strip()
            record.setdefault(name, []).append(value)
        if "dn" in record:
            found.append(record)
    return found


def make_certificates(directory, controllers):
    """A CA, and a certificate of its for each DC, by name and address."""
    openssl("req", "-x509", *NEW_KEY, "-days", "30", "-subj", "/CN=Contoso Test CA", "-keyout", directory / "ca.key",
            "-out", directory / "ca.pem")
    for dc in controllers:
        dc.directory.mkdir()
        names = f"DNS:{dc.host},DNS:{DOMAIN},IP:{dc.address}"
        certify(directory, dc.directory / "certificate.pem", dc.directory / "key.pem", dc.host, names)


def certify(ca, certificate, key, title, names, usage="serverAuth"):
    """A key, and a certificate for it by the CA in the directory `ca`; `names` are its subjectAltName."""
    request, extensions = certificate.with_suffix(".request"), certificate.with_suffix(".extensions")
    extensions.write_text(f"subjectAltName = {names}\nextendedKeyUsage = {usage}\nbasicConstraints = CA:FALSE\n")
    openssl("req", *NEW_KEY, "-subj", f"/CN={title}", "-keyout", key, "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", ca / "ca.pem", "-CAkey", ca / "ca.key", "-CAcreateserial", "-days",
            "30", "-extfile", extensions, "-out", certificate)
    key.chmod(0o600)


NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


def write_secret(path, text):
    """Without a line end, which ldapsearch -y would take as part of the password."""
    path.touch(0o600)
    path.write_text(text)


def start_of(pid):
    """When a process started, in the kernel's ticks; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # proc(5), field 22
    except OSError:
        return None


def group_runs(group):
    """Whether a process group has a process that is not a zombie."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]  # proc(5)
            if int(its_group) == group and state != "Z":
                return True
    return False


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
