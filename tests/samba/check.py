"""The checks of `tests/samba/forest check`: what firstcas' tests take for granted about the forest."""
import base64, contextlib, os, re, shutil, signal, socket, struct, sys, tempfile, time, traceback
from collections import Counter
from pathlib import Path

from forest import (BASE, CONFIGURATION, DOMAIN, LOCKOUT_THRESHOLD, PASSWORD, PORTS, REALM, ROOT, Forest, ForestError,
                    home_of, records, wait_for)

LISBON_OWA = ("CN=owa (Default Web Site),CN=HTTP,CN=Protocols,CN=cas-lis-1,CN=Servers,CN=Exchange Administrative Group "
              "(FYDIBOHF23SPDLT),CN=Administrative Groups,CN=Contoso,CN=Microsoft Exchange,CN=Services,"
              f"{CONFIGURATION}")


def checks():
    """A list of checks, and what registers a function as one of them, by a sentence."""
    registered = []

    def check(what):
        def register(function):
            registered.append((what, function))
            return function
        return register

    return registered, check


CHECKS, check = checks()


def sign_in(forest, port, *credentials, dc=None, more=(), host=None):
    """Status and what the server says to a sign-in (and a search of the root entry, which anybody may)."""
    dc = dc or forest.dc1
    url = dc.url(port) if host is None else dc.url(port).replace(dc.host, host)
    done = forest.run("ldapsearch", "-H", url, *more, *credentials, "-LLL", "-b", "", "-s", "base", "1.1", ok=False)
    return done.returncode, done.stderr


def person(name, password=PASSWORD):
    return "-x", "-D", f"{name}@{DOMAIN}", "-w", password


def answer(forest, port, base, filter="(objectClass=*)", *attributes):
    """Status and output of a search by the account firstcas at dc1."""
    done = forest.run("ldapsearch", "-H", forest.dc1.url(port), *forest.sign_in, "-o", "ldif-wrap=no", "-b", base,
                      filter, *attributes, ok=False)
    return done.returncode, done.stdout


def highest_usn(forest, dc, port="ldaps"):
    root = forest.search("(objectClass=*)", ["highestCommittedUSN"], "", port, dc, "base")[0]
    return int(root["highestCommittedUSN"][0])


def changed_since(forest, usn, base, dc, port="ldaps"):
    return [it["dn"][0] for it in forest.search(f"(uSNChanged>={usn + 1})", ["uSNChanged"], base, port, dc)]


def srv(name, server):
    """Targets and ports of SRV records, asked by UDP (RFC 1035, RFC 2782)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 33, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dns:
        dns.settimeout(5)
        dns.sendto(query, (server, PORTS["dns"]))
        reply = dns.recv(4096)
    place, found = len(query), set()
    for _ in range(struct.unpack(">H", reply[6:8])[0]):
        place = labels_at(reply, place)[1] + 10
        length = struct.unpack(">H", reply[place - 2:place])[0]
        port = struct.unpack(">H", reply[place + 4:place + 6])[0]
        found.add(f"{labels_at(reply, place + 6)[0]}:{port}")
        place += length
    return found


def labels_at(message, place):
    labels, end = [], None
    while length := message[place]:
        if length >= 0xC0:  # a pointer to an earlier name
            end = end or place + 2
            place = struct.unpack(">H", message[place:place + 2])[0] & 0x3FFF
        else:
            labels.append(message[place + 1:place + 1 + length].decode())
            place += 1 + length
    return ".".join(labels), end or place + 1


# ---- Finding it ------------------------------------------------------------------------------------------------------

@check("SRV records name both DCs, and the nearest for every site")
def _(forest):
    for dc in forest.controllers:
        for service, port in [("_ldap", 389), ("_gc", 3268)]:
            everywhere = {f"{it.host}:{port}" for it in forest.controllers}
            found = srv(f"{service}._tcp.{DOMAIN}", dc.address)
            assert found == everywhere, (dc.name, found)
            for site, host in [("Lisbon", "dc1"), ("Madrid", "dc1"), ("Porto", "dc2"), ("Braga", "dc2")]:
                found = srv(f"{service}._tcp.{site}._sites.{DOMAIN}", dc.address)
                assert found == {f"{host}.{DOMAIN}:{port}"}, (dc.name, site, found)
    assert srv("_ldap._tcp.example.org", forest.dc1.address) == set()


@check("each DC names itself, its naming contexts and its highest USN to anybody, on the LDAP and the GC port")
def _(forest):
    for dc in forest.controllers:
        for port in ["ldap", "ldaps", "gc", "gcs"]:
            root = records(forest.run("ldapsearch", "-x", "-H", dc.url(port), "-LLL", "-o", "ldif-wrap=no", "-b", "",
                                      "-s", "base"))[0]
            assert root["dsServiceName"] == [f"CN=NTDS Settings,CN={dc.name.upper()},CN=Servers,CN={dc.site},CN=Sites,"
                                             f"{CONFIGURATION}"], root["dsServiceName"]
            assert root["defaultNamingContext"] == root["rootDomainNamingContext"] == [BASE]
            assert root["configurationNamingContext"] == [CONFIGURATION] and int(root["highestCommittedUSN"][0]) > 1000
            assert root["isGlobalCatalogReady"] == ["TRUE"] and root["dnsHostName"] == [dc.host]


# ---- Signing in ------------------------------------------------------------------------------------------------------

@check("a password is taken over LDAPS and StartTLS, by UPN, DN and DOMAIN\\name, and refused in clear")
def _(forest):
    for dc in forest.controllers:
        for port in ["ldaps", "gcs"]:
            status, said = sign_in(forest, port, *forest.sign_in, dc=dc)
            assert status == 0, (dc.name, port, said)
        for port in ["ldap", "gc"]:
            assert sign_in(forest, port, *forest.sign_in, dc=dc, more=["-ZZ"])[0] == 0
            status, said = sign_in(forest, port, *forest.sign_in, dc=dc)
            assert status == 8 and "BindSimple: Transport encryption required." in said, (status, said)
    for name in [f"CN=Ana Almeida,CN=Users,{BASE}", "CONTOSO\\ana", f"ana@{DOMAIN}"]:
        assert sign_in(forest, "ldaps", "-x", "-D", name, "-w", PASSWORD)[0] == 0, name


@check("a DC's certificate is for its name and its address, and of no other authority")
def _(forest):
    for dc in forest.controllers:
        for port, more in [("ldaps", []), ("ldap", ["-ZZ"])]:
            assert sign_in(forest, port, *forest.sign_in, dc=dc, more=more, host=dc.address)[0] == 0
            done = forest.run("ldapsearch", *more, "-H", dc.url(port), "-x", "-b", "", "-s", "base", ok=False,
                              env={"LDAPTLS_CACERT": "/dev/null"})
            assert done.returncode, "a stranger's certificate was believed"


@check("Kerberos signs in by the keytab, at both DCs and both ports, sealed; not within TLS, not unsealed")
def _(forest):
    tickets = tickets_of_checks(forest)
    forest.run("kinit", "-k", "-t", forest.keytab, f"firstcas@{REALM}", env=tickets)
    for dc in forest.controllers:
        for port in ["ldap", "gc"]:
            found = forest.run("ldapsearch", "-Q", "-Y", "GSSAPI", "-H", dc.url(port), "-LLL", "-b", BASE,
                               "(sAMAccountName=ana)", "cn", env=tickets)
            assert "cn: Ana Almeida" in found, found
    for port, more, status in [("ldap", ["-O", "maxssf=0"], 8), ("ldaps", [], 53)]:
        done = forest.run("ldapsearch", "-Q", "-Y", "GSSAPI", *more, "-H", forest.dc1.url(port), "-b", "", "-s", "base",
                          ok=False, env=tickets)
        assert done.returncode == status, (port, done.returncode, done.stderr)


@check("everybody of Contoso can sign in, by password and by Kerberos")
def _(forest):
    for name in re.findall(r"^sAMAccountName: (\S+)$", (ROOT / "conf/contoso.ldif").read_text(), re.M):
        assert sign_in(forest, "ldaps", *person(name))[0] == 0, name
        forest.run("kinit", f"{name}@{REALM}", stdin=PASSWORD + "\n", env=tickets_of_checks(forest))


def tickets_of_checks(forest):
    """Where the checks keep Kerberos tickets, so that nobody else uses them."""
    return {"KRB5CCNAME": f"FILE:{forest.directory}/tickets-of-checks"}


@check("a wrong password, a stranger, a disabled and a locked account are all 49, told apart by `data`")
def _(forest):
    def refused(data, *credentials):
        status, said = sign_in(forest, "ldaps", *credentials)
        assert status == 49 and f"AcceptSecurityContext error, data {data}," in said, (credentials, status, said)

    refused("52e", *person("ana", "wrong"))
    assert sign_in(forest, "ldaps", *person("ana"))[0] == 0  # a right one forgets the wrong ones
    refused("52e", *person("nobody", "wrong"))
    refused("52e", *person("nobody"))
    refused("52e", *person("ana", ""))
    refused("52e", *person("ana.almeida"))  # an address is no UPN
    filipe = forest.dn_of("filipe")
    forest.replace(filipe, {"userAccountControl": 66050})
    refused("533", *person("filipe"))
    refused("52e", *person("filipe", "wrong"))
    forest.replace(filipe, {"userAccountControl": 66048})
    assert sign_in(forest, "ldaps", *person("filipe"))[0] == 0
    for _ in range(LOCKOUT_THRESHOLD):
        refused("52e", *person("gil", "wrong"))
    refused("775", *person("gil"))
    refused("775", *person("gil", "wrong"))
    forest.replace(forest.dn_of("gil"), {"lockoutTime": 0})
    assert sign_in(forest, "ldaps", *person("gil"))[0] == 0


# ---- Reading ---------------------------------------------------------------------------------------------------------

@check("the account firstcas is nobody special: member of no group, and may write nothing")
def _(forest):
    assert "memberOf" not in forest.search("(sAMAccountName=firstcas)", ["memberOf"])[0]
    change = f"dn: {forest.dn_of('bruno')}\nchangetype: modify\nreplace: mailNickname\nmailNickname: x\n"
    done = forest.run("ldapmodify", "-H", forest.dc1.url("ldaps"), *forest.sign_in, stdin=change, ok=False)
    assert done.returncode == 50, (done.returncode, done.stderr)


@check("it reads all of conf/contoso.ldif, on the LDAP and the GC port of both DCs")
def _(forest):
    text = re.sub(r"^#.*\n", "", (ROOT / "conf/contoso.ldif").read_text(encoding="utf-8"), flags=re.M)
    wanted = records(re.sub(r"\n\n+", "\n\n", text.replace("\n ", "")))
    assert len(wanted) > 150
    for dc in forest.controllers:
        for port in ["ldaps", "gcs"]:
            found = {}
            for base in [BASE, CONFIGURATION]:
                found |= {it["dn"][0].lower(): it for it in forest.search("(objectClass=*)", (), base, port, dc)}
            for record in wanted:
                there = found[record["dn"][0].lower()]
                for name, values in record.items():
                    if name in ("dn", "userPassword"):
                        continue
                    lost = comparable(values) - comparable(there.get(name, []))
                    assert not lost, (dc.name, port, record["dn"], name, lost)


def comparable(values):
    return {(it if isinstance(it, bytes) else it.encode()).lower() for it in values}


@check("every attribute that src/directory/schema.rs names is readable, people's in the global catalog too")
def _(forest):
    source = (ROOT / "src/directory/schema.rs").read_text().split("pub mod attribute {")[1].split("\n}\n")[0]
    names = dict(re.findall(r'pub const (\w+): &str = "(\w+)";', source))
    lists = {name: {names[it] for it in re.findall(r"[A-Z_]+", text)}
             for name, text in re.findall(r"pub const (OF_\w+): &\[&str\] = &\[([^\]]*)\];", source)}
    assert {"OF_PEOPLE", "OF_TOPOLOGY", "OF_DOMAINS"} <= lists.keys() and all(lists.values()), lists
    helena = forest.dn_of("helena")
    forest.replace(helena, {"msExchMasterAccountSid": "S-1-5-21-1-2-3-1234"})  # Contoso has no linked mailbox
    lists["OF_PEOPLE"] -= {"entryUUID"}  # OpenLDAP's
    for port, base, which in [("ldaps", BASE, "OF_PEOPLE"), ("gcs", "", "OF_PEOPLE"),
                              ("ldaps", CONFIGURATION, "OF_TOPOLOGY"), ("ldaps", CONFIGURATION, "OF_DOMAINS")]:
        seen = {name for it in forest.search("(objectClass=*)", lists[which], base, port) for name in it}
        assert lists[which] <= seen, (port, which, lists[which] - seen)
    sid = struct.pack("<8B5I", 1, 5, 0, 0, 0, 0, 0, 5, 21, 1, 2, 3, 1234)  # [MS-DTYP] 2.4.2.2
    found = forest.search(f"(msExchMasterAccountSid={octets(sid)})", ["cn"], "", "gcs")
    assert [it["dn"] for it in found] == [[helena]], found
    forest.modify(f"dn: {helena}\nchangetype: modify\ndelete: msExchMasterAccountSid\n")


def octets(value):
    """For a filter (RFC 4515)."""
    return "".join(f"\\{byte:02x}" for byte in value)


@check("people are found by each of their names in the global catalog")
def _(forest):
    home = {name: escaped(value) for name, value in home_of("mbx-lis").items()}
    recipients = escaped("/o=Contoso/ou=Exchange Administrative Group (FYDIBOHF23SPDLT)/cn=Recipients")
    for filter in ["proxyAddresses=smtp:ANA@contoso.com", "proxyAddresses=smtp:ana.almeida@contoso.com",
                   "mailNickname=ana", "userPrincipalName=ana@contoso.com", "sAMAccountName=ANA",
                   f"msExchMailboxGuid={octets(base64.b64decode('VuLR/cxZKV6R1Yg9xpX1AQ=='))}",
                   f"legacyExchangeDN={recipients}/cn=ana", f"&(homeMDB={home['homeMDB']})(cn=Ana*)",
                   f"&(msExchHomeServerName={home['msExchHomeServerName']})(cn=Ana*)"]:
        for port, base in [("gcs", ""), ("ldaps", BASE)]:
            found = [it["dn"][0] for it in forest.search(f"({filter})", ["cn"], base, port)]
            assert found == [f"CN=Ana Almeida,CN=Users,{BASE}"], (port, filter, found)


def escaped(text):
    return text.replace("(", "\\28").replace(")", "\\29")


@check("from the domain's root: three referrals on the LDAP port, none on the GC port, which has the configuration too")
def _(forest):
    status, found = answer(forest, "ldaps", BASE, "(sAMAccountName=ana)", "1.1")
    assert status == 0 and found.count("\nref: ") == 3, found
    assert f"\nref: ldaps://{DOMAIN}/{CONFIGURATION}\n" in found, found
    status, found = answer(forest, "ldaps", CONFIGURATION, "(cn=cas-lis-1)", "1.1")
    assert status == 0 and found.count("\nref: ") == 1, found
    for base in ["", BASE, CONFIGURATION]:
        status, found = answer(forest, "gcs", base, "(cn=cas-lis-1)", "versionNumber")
        assert status == 0 and "\nref: " not in found and "versionNumber: " in found, found
    assert answer(forest, "ldaps", "")[0] == 32


@check("searches in pages give everything")
def _(forest):
    whole = {it["dn"][0] for it in forest.search("(objectClass=*)", ["1.1"], CONFIGURATION)}
    paged = forest.run("ldapsearch", "-H", forest.dc1.url("ldaps"), *forest.sign_in, "-LLL", "-o", "ldif-wrap=no", "-b",
                       CONFIGURATION, "-E", "pr=100/noprompt", "(objectClass=*)", "1.1")
    pages = [it["dn"][0] for it in records(paged)]
    assert len(pages) == len(set(pages)) and set(pages) == whole and len(whole) > 1000, (len(pages), len(whole))


# ---- Following it ----------------------------------------------------------------------------------------------------

@check("a moved mailbox is found by (uSNChanged>=N) on every port of the DC where it moved, and soon at the other")
def _(forest):
    waits = []
    for here, there, server in [(forest.dc1, forest.dc2, "mbx-lis"), (forest.dc2, forest.dc1, "mbx-opo")] * 3:
        before, before_there = highest_usn(forest, here), highest_usn(forest, there)
        assert before == highest_usn(forest, here, "gcs")
        bruno = forest.dn_of("bruno")
        forest.move("bruno", server, here)
        started = time.monotonic()
        for port, base in [("ldaps", BASE), ("gcs", ""), ("gcs", BASE)]:
            assert bruno in changed_since(forest, before, base, here, port), port
        assert wait_for(lambda: bruno in changed_since(forest, before_there, BASE, there), 20), "not within 20 s"
        waits.append(time.monotonic() - started)
        moved = forest.search("(sAMAccountName=bruno)", ["homeMDB", "msExchHomeServerName"], "", "gcs", there)[0]
        assert moved | {name: [it] for name, it in home_of(server).items()} == moved, moved
        assert highest_usn(forest, there) > before_there
    return f"after {min(waits):.1f} to {max(waits):.1f} s"


@check("a changed URL is found by (uSNChanged>=N) in the configuration, on every port, and soon at the other DC")
def _(forest):
    before = {dc: highest_usn(forest, dc) for dc in forest.controllers}
    for url in ["https://elsewhere.contoso.com/owa", "https://cas-lis-1.contoso.com/owa"]:
        forest.replace(LISBON_OWA, {"msExchInternalHostName": url})
        for port in ["ldaps", "gcs"]:
            assert LISBON_OWA in changed_since(forest, before[forest.dc1], CONFIGURATION, forest.dc1, port), port
        for port in ["ldaps", "gcs"]:
            changed = f"(msExchInternalHostName={url})"
            assert wait_for(lambda: forest.search(changed, ["cn"], LISBON_OWA, port, forest.dc2), 20), port
    assert LISBON_OWA in changed_since(forest, before[forest.dc2], CONFIGURATION, forest.dc2)


@check("a deleted person is gone from searches and raises the highest USN")
def _(forest):
    dn = f"CN=Zita Zarco,CN=Users,{BASE}"
    forest.modify(f"dn: {dn}\nchangetype: add\nobjectClass: user\nsAMAccountName: zita\n")
    assert wait_for(lambda: forest.search("(sAMAccountName=zita)", ["cn"], dc=forest.dc2), 20), "not at dc2 within 20 s"
    before = highest_usn(forest, forest.dc1)
    forest.modify(f"dn: {dn}\nchangetype: delete\n")
    assert not forest.search("(sAMAccountName=zita)", ["cn"]) and highest_usn(forest, forest.dc1) > before
    assert not changed_since(forest, before, BASE, forest.dc1), "tombstones are shown to an ordinary search"
    assert wait_for(lambda: not forest.search("(sAMAccountName=zita)", ["cn"], dc=forest.dc2), 20), "still at dc2"


@check("samba-tool drs replicate carries a change over at once")
def _(forest):
    forest.move("bruno", "mbx-mad")
    forest.replicate()
    moved = forest.search("(sAMAccountName=bruno)", ["msExchHomeServerName"], dc=forest.dc2)[0]["msExchHomeServerName"]
    assert moved == [home_of("mbx-mad")["msExchHomeServerName"]], moved
    forest.move("bruno", "mbx-opo")
    forest.replicate()


# ---- Losing it -------------------------------------------------------------------------------------------------------

@check("a frozen DC accepts connections and says nothing, and goes on when it is thawed")
def _(forest):
    forest.dc2.freeze()
    try:
        with socket.create_connection((forest.dc2.address, PORTS["ldap"]), 2) as connection:
            connection.settimeout(1)
            connection.sendall(bytes.fromhex("300c020101600702010304008000"))  # an anonymous bind
            try:
                raise AssertionError(f"it said {connection.recv(100)!r}")
            except TimeoutError:
                pass
    finally:
        forest.dc2.thaw()
    assert wait_for(lambda: sign_in(forest, "ldaps", *forest.sign_in, dc=forest.dc2)[0] == 0, 5)


@check("a stopped DC refuses connections, and catches up when it is started again")
def _(forest):
    started = time.monotonic()
    forest.dc2.stop()
    stopped = time.monotonic() - started
    assert sign_in(forest, "ldaps", *forest.sign_in, dc=forest.dc2)[0] == 255
    forest.move("bruno", "mbx-lis")
    started = time.monotonic()
    forest.dc2.start()
    again = time.monotonic() - started
    moved = f"(&(sAMAccountName=bruno)(msExchHomeServerName={escaped(home_of('mbx-lis')['msExchHomeServerName'])}))"
    assert wait_for(lambda: forest.search(moved, ["cn"], dc=forest.dc2), 30), "not within 30 s"
    caught_up = time.monotonic() - started
    forest.move("bruno", "mbx-opo")
    return f"stopped in {stopped:.1f} s, started in {again:.1f} s, caught up after {caught_up:.1f} s"


def main(directory=None):
    sys.stdout.reconfigure(line_buffering=True)
    if directory:
        return run(Forest(directory))
    with tempfile.TemporaryDirectory(prefix="samba-") as temporary:
        forest = Forest(Path(temporary) / "forest")
        started = time.monotonic()
        with forest:
            print(f"ok      the forest was made and started in {time.monotonic() - started:.1f} s")
            return run(forest)


def run(forest):
    results = Counter(one(forest, *it) for it in CHECKS)
    print(f"samba: {results['ok']} passed, {results['FAILED']} failed")
    return 1 if results["FAILED"] else 0


def one(subject, what, function, after_failure=lambda: None):
    """Makes one check and says what became of it."""
    began = time.monotonic()
    try:
        figures = function(subject)
        print(f"ok      {what}{': ' + figures if figures else ''}  ({time.monotonic() - began:.1f} s)")
        return "ok"
    except Exception as error:
        print(f"FAILED  {what}: {error}")
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        with contextlib.suppress(Exception):
            after_failure()
        return "FAILED"


def shows(text, *patterns):
    """Every pattern is found in the text; those after `!` are not."""
    for pattern in patterns:
        unwanted, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        found = re.search(pattern, text, re.M | re.I)
        assert bool(found) != unwanted, f"{pattern!r} is {'' if unwanted else 'not '}in\n{text[:3000]}"


def within(seconds, condition, what):
    """Waits until `condition`, for so many seconds at most; how many it took."""
    began = time.monotonic()
    assert wait_for(condition, seconds), f"not within {seconds} s: {what}"
    return time.monotonic() - began


def all_of(checks, name, subject, began, after_failure=lambda: None):
    """Makes those checks that ONLY in the environment does not exclude, and sums up; the exit status."""
    only = os.environ.get("ONLY", "")
    results = Counter(one(subject, *it, after_failure) for it in checks if only in it[0])
    print(f"{name}: {results['ok']} passed, {results['FAILED']} failed, in {time.monotonic() - began:.0f} s")
    return 1 if results["FAILED"] or not results["ok"] else 0


def staged(name, make, run):
    """Runs checks on the stage that `make` makes in a directory of its own, and ends all that they started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.stdout.reconfigure(line_buffering=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    stage, status = make(directory), 1
    try:
        status = run(stage)
    except ForestError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        pass
    finally:
        stage.stop()
        left = users_of(directory)
        if os.environ.get("KEEP"):
            print(f"logs: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=bool(left))
    if left:
        print(f"FAILED  nothing that was started is left: {', '.join(sorted(left))}")
        return 1
    return status


def users_of(directory):
    """The processes that have a file of it open, as each has that was started here: its log."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(file)).is_relative_to(directory):
                process = file.parent.parent
                found.add(f"{(process / 'comm').read_text().strip()} {process.name}")
    return found
