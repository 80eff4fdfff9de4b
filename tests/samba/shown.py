"""The checks of tests/samba/run."""
import contextlib, os, re, signal, statistics, sys, time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from check import LISBON_OWA, all_of, checks, person, shows, sign_in, staged, within
from edge import KNOWN, Contoso, Edge, Load, names_of_crowd
from forest import ACCOUNT, CONFIGURATION, DOMAIN, PASSWORD, Forest, ForestError, home_of, wait_for

PEOPLE = 1500  # of the crowd; each is unknown to the edge only once
NOTICED = 10  # seconds, within which a moved mailbox is served from its new place
TIMEOUT = 10  # seconds, timeouts.directory
CHECKS, check = checks()


# ---- Finding it ------------------------------------------------------------------------------------------------------

def listed(scheme, domain_controllers, global_catalogs=None, of=("dc1", "dc2")):
    """Lines of [directory.ldap], by the ports."""
    def urls(port):
        return ", ".join(f'"{scheme}://{dc}.{DOMAIN}:{port}"' for dc in of)
    catalogs = f"global_catalogs = [{urls(global_catalogs)}]\n" if global_catalogs else ""
    return f"urls = [{urls(domain_controllers)}]\n{catalogs}"


def checked(it, name, where):
    edge = it.edge_with(name, where + it.account)
    return it.forest.run(edge.binary, "check", "--directory", "-c", edge.config, ok=False)


def shows_contoso(it, done):
    assert done.returncode == 0, done.stderr or done.stdout
    sites = {"Lisbon, where the edge stands": (3, 1 + it.people), "Porto": (3, 1), "Madrid": (2, 1), "Braga": (2, 1),
             "Faro": (1, 1)}
    for site, (servers, mailboxes) in sites.items():
        shows(done.stdout, rf"^site +{site}: {servers} servers?, {mailboxes} mailbox(es)?$")
    shows(done.stdout, rf"5 sites, 13 servers, 6 of them Client Access Servers, {7 + it.people} mailboxes$",
          r"^local site +Lisbon$",
          r"^REFUSED .* of 1 mailbox: The mailbox's site has no Client Access Server\.\n +filipe@contoso\.com$",
          r"^REFUSED .* of 1 mailbox: Integrated Windows authentication is off .*\n +gil@contoso\.com$",
          r"^ +owa: redirected to https://mail\.madrid\.contoso\.com/owa by a page with a link$")
    faults = len(re.findall(r"^(?:REFUSED|odd|notice) ", done.stdout, re.M))
    assert faults == 2 + len(re.findall(r"^notice +the certificate of ", done.stdout, re.M)), done.stdout
    shows(done.stdout, rf"^{faults} things would break users$")


@check("check --directory, servers found by DNS: sites, counts, who is refused and why")
def _(it):
    shows_contoso(it, checked(it, "found", it.found))


@check("check --directory, servers listed: the same by LDAPS, by StartTLS, with and without global catalogs")
def _(it):
    shows_contoso(it, checked(it, "ldaps", listed("ldaps", 636, 3269)))
    shows_contoso(it, checked(it, "ldaps-one-domain", listed("ldaps", 636)))
    shows_contoso(it, checked(it, "starttls", listed("ldap", 389, 3268) + "start_tls = true\n"))
    shows_contoso(it, checked(it, "starttls-found", it.found + "start_tls = true\n"))


@check("check --directory without encryption: the domain controllers refuse, and the cure is told")
def _(it):
    done = checked(it, "plain", listed("ldap", 389, 3268) + "allow_plain = true\n")
    assert done.returncode == 1, done.stdout
    shows(done.stderr, "Transport encryption required", "start_tls|ldaps://")


LOCAL = (0, r"proxied to cas-lis-[12] in Lisbon\b", "local-site")
PORTO = (0, r"proxied to cas-opo-[12] in Porto\b", "proxy-to-site")
MADRID = "redirected to https://mail.madrid.contoso.com"
DECISIONS = {  # "The stand-in organisation" of the design: exit status, decision and rule, by user and protocol
    "ana": {"owa": LOCAL, "activesync": LOCAL, "ews": LOCAL},
    "CONTOSO\\bruno": {"owa": PORTO, "activesync": PORTO, "ews": PORTO},
    "carla@contoso.com": {"owa": (0, f"{MADRID}/owa by a page with a link", "owa-redirect"),
                          "activesync": (0, f"{MADRID}/Microsoft-Server-ActiveSync by a 451", "activesync-redirect"),
                          "ews": (0, "proxied to cas-mad-1 in Madrid", "proxy-to-site")},
    "duarte": {protocol: (0, "passed straight to ex03-opo.contoso.com over http", "back-end-2003")
               for protocol in ["exchange", "activesync"]},
    "elsa": {protocol: (0, "passed straight to ex03-lis.contoso.com over http", "back-end-2003")
             for protocol in ["exchange", "activesync"]},
    "filipe": {"owa": (1, "refused", "no-client-access-server")},
    "gil": {"owa": (1, "refused", "no-integrated-authentication")},
    "helena": {"owa": (1, "refused", "no-mailbox")},
}


def explains(it, edge, user, protocol, status, decision, rule):
    done = it.forest.run("env", "-u", "KRB5CCNAME", edge.binary, "explain", "-c", edge.config, "--user", user,
                         "--protocol", protocol, ok=False)
    assert done.returncode == status, (user, protocol, done.returncode, done.stdout, done.stderr)
    shows(done.stdout, rf"^decision +{decision}", rf"^because +{rule}: ")


@check("explain decides for every user of Contoso as the organisation's table says")
def _(it):
    for user, decisions in DECISIONS.items():
        for protocol, expected in decisions.items():
            explains(it, it.edge, user, protocol, *expected)


@check("a keytab in place of the password: explain by Kerberos within TLS, which dc2 takes")
def _(it):
    key = f'bind_keytab = "{it.forest.keytab}"\nca = "{it.forest.ca}"\n'
    for name, where in [("gssapi-ldaps", listed("ldaps", 636, 3269, ["dc2"])),
                        ("gssapi-starttls", listed("ldap", 389, 3268, ["dc2"]) + "start_tls = true\n")]:
        explains(it, it.edge_with(name, where + key), "bruno", "owa", *PORTO)


# ---- The main job ----------------------------------------------------------------------------------------------------

DEVICE = "Microsoft-Server-ActiveSync?Cmd={}&User={}&DeviceId=d&DeviceType=t"
CURLS = [
    ("-u ana:Pass-word1 URL/owa/", r"^HTTP/1.1 200", "^X-Contoso-Server: cas-lis-[12]", "^X-Contoso-User: ana"),
    (r"-u CONTOSO\bruno:Pass-word1 URL/owa/", r"^HTTP/1.1 200", "^X-Contoso-Server: cas-opo-[12]",
     "^X-Contoso-User: bruno"),
    ("-u carla@contoso.com:Pass-word1 URL/owa/", r"^HTTP/1.1 200", 'href="https://mail.madrid.contoso.com/owa'),
    ("-u carla:wrong URL/owa/", r"^HTTP/1.1 401", "!madrid"),
    ("-u stranger:wrong URL/owa/", r"^HTTP/1.1 401"),
    (f"-u carla:Pass-word1 -X POST URL/{DEVICE.format('Sync', 'carla')}", r"^HTTP/1.1 451",
     "^X-MS-Location: https://mail.madrid.contoso.com/Microsoft-Server-ActiveSync"),
    ("-u carla:Pass-word1 -X POST URL/EWS/Exchange.asmx -d <x/>", r"^HTTP/1.1 200", "^X-Contoso-Server: cas-mad-1"),
    ("-u duarte:Pass-word1 URL/exchange/duarte/", r"^HTTP/1.1 200", "^X-Contoso-Server: ex03-opo"),
    ("-u elsa:Pass-word1 URL/exchange/elsa/", r"^HTTP/1.1 200", "^X-Contoso-Server: ex03-lis"),
    ("-u filipe:Pass-word1 URL/owa/", r"^HTTP/1.1 403", "without a Client Access Server"),
    ("-u gil:Pass-word1 URL/owa/", r"^HTTP/1.1 403", "Integrated Windows authentication"),
    ("-u helena:Pass-word1 URL/owa/", r"^HTTP/1.1 403", "no mailbox"),
    (rf"--ntlm -u CONTOSO\bruno:Pass-word1 -X POST URL/{DEVICE.format('Ping', 'bruno')}", r"^HTTP/1.1 200",
     "^X-Contoso-Server: cas-opo-[12]", "^X-Contoso-User: bruno"),
    (r"--ntlm -u CONTOSO\bruno:wrong URL/owa/", r"^HTTP/1.1 401", "^X-Contoso-Server: cas-lis-", "!^HTTP/1.1 [235]"),
]


@check("curl as in the demo: each of Contoso's people is served, redirected or refused as there")
def _(it):
    for line, *patterns in CURLS:
        shows(it.edge.curl(*line.split()), *patterns)
    shows(it.edge.curl("-u", f"ana:{PASSWORD}", "URL/owa/", tls=True), "^X-Contoso-Server: cas-lis-")


@check("NTLM keeps its connection; at the wrong site it is sent to its own, once, and remembered by a cookie")
def _(it):
    text = it.edge.curl("--ntlm", "-u", f"CONTOSO\\ana:{PASSWORD}", "URL/owa/", "URL/owa/")
    connections = re.findall(r"^X-Contoso-Connection: (\d+)", text, re.M | re.I)
    assert len(connections) >= 3 and len(set(connections)) == 1, text
    jar = it.directory / "jar"
    again = ["-L", "-c", str(jar), "-b", str(jar), "--ntlm", "-u", f"CONTOSO\\bruno:{PASSWORD}", "URL/owa/"]
    text = it.edge.curl(*again)
    shows(text, "^HTTP/1.1 307", "^Set-Cookie: firstcas-affinity=")
    end = text.rpartition("\nHTTP/1.1 ")[2]
    shows(end, r"\A200", "^X-Contoso-Server: cas-opo-", "^X-Contoso-User: bruno")
    shows(it.edge.curl(*again), "^HTTP/1.1 200", "^X-Contoso-Server: cas-opo-", "!^HTTP/1.1 307")


# ---- Following it ----------------------------------------------------------------------------------------------------

def moves(it, user, server, expected, dc=None):
    """Moves a mailbox; how many seconds later the answers are what is expected. The DCs agree afterwards."""
    it.forest.move(user, server, dc)
    seconds = within(NOTICED, lambda: expected in (answer := it.edge.ask(user)).server + answer.body,
                     f"{user} on {server} is answered by or with {expected}")
    it.forest.replicate(*([it.forest.dc2, it.forest.dc1] if dc is it.forest.dc2 else []))
    return seconds


@check("bruno's mailbox moves to mbx-lis by ldapmodify, at either DC, and back: his requests follow")
def _(it):
    taken = {}
    for dc in it.forest.controllers:
        assert it.edge.ask("bruno").server.startswith("cas-opo-")
        since = it.edge.mark()
        there = moves(it, "bruno", "mbx-lis", "cas-lis-", dc)
        back = moves(it, "bruno", "mbx-opo", "cas-opo-", dc)
        taken[dc.name] = f"{there:.1f} and {back:.1f} s after moves at {dc.name}"
        told = it.edge.events("FC128", since)
        assert told == [f"bruno@contoso.com moved from {here} to {there}"
                        for here, there in [("mbx-opo", "mbx-lis"), ("mbx-lis", "mbx-opo")]], told
    return ", ".join(taken.values())


@check("carla's mailbox moves to Porto and back: link page, proxied, link page")
def _(it):
    page = "https://mail.madrid.contoso.com/owa"
    assert page in it.edge.ask("carla").body
    there = moves(it, "carla", "mbx-opo", "cas-opo-")
    return f"{there:.1f} and {moves(it, 'carla', 'mbx-mad', page):.1f} s"


OPORTO_1 = LISBON_OWA.split(",", 3)[3].replace("CN=cas-lis-1", "CN=cas-opo-1")


def put(it, server_dn, site):
    it.forest.replace(server_dn, {"msExchServerSite": f"CN={site},CN=Sites,{CONFIGURATION}"})


@check("a changed organisation is in force and told soon: a server's site, a virtual directory's URL")
def _(it):
    since, told = it.edge.mark(), []
    usual, other = (f"https://cas-lis-1.contoso.com/{path}" for path in ["owa", "elsewhere"])

    def is_told(sentence):
        told.append(sentence)
        return within(15, lambda: sentence in it.edge.events("FC122", since), f"FC122 {sentence}")

    assert it.edge.ask("bruno").server == "cas-opo-1"  # by the hash of his mailbox
    put(it, OPORTO_1, "Lisbon")
    try:
        taken = [is_told("cas-opo-1 moved from Porto to Lisbon")]
        assert it.edge.ask("bruno").server == "cas-opo-2"
    finally:
        put(it, OPORTO_1, "Porto")
    taken.append(is_told("cas-opo-1 moved from Lisbon to Porto"))
    assert it.edge.ask("bruno").server == "cas-opo-1"
    it.forest.replace(LISBON_OWA, {"msExchInternalHostName": other})
    try:
        taken.append(is_told(f"cas-lis-1: the InternalURL of /owa changed from {usual} to {other}"))
    finally:
        it.forest.replace(LISBON_OWA, {"msExchInternalHostName": usual})
    taken.append(is_told(f"cas-lis-1: the InternalURL of /owa changed from {other} to {usual}"))
    assert it.edge.events("FC122", since) == told, it.edge.events("FC122", since)
    return ", ".join(f"{seconds:.1f}" for seconds in taken) + " s after the changes"


@check("SIGHUP makes it be read at once")
def _(it):
    edge = it.edge_with("hangup", it.found + it.account, 'watch_interval = "10s"')  # which looks 10 s after its start
    try:
        edge.start()
        put(it, OPORTO_1, "Lisbon")
        edge.process.send_signal(signal.SIGHUP)
        told = "cas-opo-1 moved from Porto to Lisbon"
        return f"{within(3, lambda: told in edge.events('FC122'), told):.1f} s after it"
    finally:
        put(it, OPORTO_1, "Porto")
        edge.stop()


# ---- Losing it -------------------------------------------------------------------------------------------------------

# Ways to lose a DC, and to get it back: connections are refused, or nothing is ever answered.
STOPPED = (lambda dc: dc.stop(), lambda dc: dc.pid() or dc.start())
FROZEN = (lambda dc: dc.freeze(), lambda dc: dc.thaw())


def goes_well(answers, expected):
    """All answers are 200s of the right servers; the slowest."""
    failed = [it for it in answers if it.status != 200 or not it.server.startswith(expected[it.user])]
    assert not failed, f"{len(failed)} of {len(answers)} failed: " + "; ".join(map(str, failed[:5]))
    return max(it.seconds for it in answers)


def known_ones(load):
    assert len(load.known) > 100, f"only {len(load.known)} answers"
    slowest = goes_well(load.known, dict(KNOWN))
    return f"{len(load.known)} answers for known mailboxes (slowest {slowest:.2f} s)"


def unknown_ones(answers):
    slowest = goes_well(answers, Counter({it.user: "cas-lis-" for it in answers}))
    assert slowest < TIMEOUT, f"one took {slowest:.1f} s"
    return f"{len(answers)} for unknown ones (slowest {slowest:.2f} s)"


def services(it, event, since):
    """The servers that events are about, by their URLs: a DC has one for LDAP and one for its global catalog."""
    return sorted(sentence.split()[0] for sentence in it.edge.events(event, since))


def loses_the_preferred(it, lose, regain):
    since = it.edge.mark()
    with Load(it.edge, it.names) as load:
        load.goes_on(unknown=20)
        lose(it.forest.dc1)
        try:
            load.goes_on(unknown=60)
            within(10, lambda: services(it, "FC124", since), "FC124")
        finally:
            regain(it.forest.dc1)
        back = within(30, lambda: services(it, "FC125", since) == services(it, "FC124", since), "FC125 for each FC124")
        load.goes_on(unknown=20)
    figures = f"{known_ones(load)}, {unknown_ones(load.unknown)}, told to be back after {back:.1f} s"
    away = services(it, "FC124", since)
    assert len(set(away)) == len(away) and all("//dc1." in service for service in away), away
    assert not it.edge.events("FC121", since), it.edge.events("FC121", since)
    is_asked_first(it)
    return figures


def is_asked_first(it):
    """The preferred DC is the one that answers: the other one could not."""
    it.forest.dc2.freeze()
    try:
        answers = [it.edge.ask(next(it.names)) for _ in range(10)]
    finally:
        it.forest.dc2.thaw()
    goes_well(answers, Counter({answer.user: "cas-lis-" for answer in answers}))
    slowest = max(answer.seconds for answer in answers)
    assert slowest < 2, f"another one was asked first, for {slowest:.1f} s"


@check("the preferred DC is stopped under load and started again: nobody notices; told once, and asked again")
def _(it):
    return loses_the_preferred(it, *STOPPED)


@check("the preferred DC freezes under load and thaws: nobody notices; told once, and asked again")
def _(it):
    return loses_the_preferred(it, *FROZEN)


@check("while the preferred DC is frozen, a mailbox moved at the other one is noticed as soon as ever")
def _(it):
    dc1, dc2 = it.forest.controllers
    bruno = it.forest.dn_of("bruno")
    is_asked_first(it)
    assert it.edge.ask("bruno").server.startswith("cas-opo-")
    dc1.freeze()
    try:
        it.forest.replace(bruno, home_of("mbx-lis"), dc2)
        seconds = within(NOTICED, lambda: it.edge.ask("bruno").server.startswith("cas-lis-"), "bruno is in Lisbon")
    finally:
        dc1.thaw()
        it.put_back()
    return f"{seconds:.1f} s"


@contextlib.contextmanager
def without_domain_controllers(it, lose, regain):
    try:
        for dc in it.forest.controllers:
            lose(dc)
        yield
    finally:
        for dc in it.forest.controllers:
            regain(dc)


def are_refused_at_once(answers):
    assert answers and all(it.status == 503 and it.retry_after and it.server == "-" for it in answers), \
        "; ".join(str(it) for it in answers if it.status != 503 or not it.retry_after)[:1000]
    median = statistics.median(it.seconds for it in answers)
    assert median < 1, f"the median is {median:.2f} s"
    return f"{len(answers)} refused (median {median * 1000:.0f} ms, slowest {max(it.seconds for it in answers):.2f} s)"


def served_again(it, since):
    """How soon. The directory is told to be back once."""
    seconds = within(20, lambda: it.edge.ask(next(it.names)).status == 200, "unknown mailboxes are served again")
    within(20, lambda: it.edge.events("FC123", since), "FC123")
    assert len(it.edge.events("FC123", since)) == 1, it.edge.events("FC123", since)
    return seconds


def loses_both(it, lose, regain):
    since = it.edge.mark()
    with Load(it.edge, it.names) as load:
        load.goes_on(unknown=20)
        with without_domain_controllers(it, lose, regain):
            away = time.monotonic()
            time.sleep(10)  # which is what is measured
            back = time.monotonic()
        again = served_again(it, since)
        load.goes_on(unknown=20)
    refused = are_refused_at_once([answer for answer in load.unknown if away < answer.at < back])
    assert len(it.edge.events("FC121", since)) == 1, it.edge.events("FC121", since)
    assert all(answer.status in (200, 503) for answer in load.unknown), "; ".join(map(str, load.unknown))
    return f"{known_ones(load)}, {refused}, served again {again:.1f} s after the DCs are back"


@check("both DCs stop under load for 10 s: who is known is served, others get a prompt 503; told once each")
def _(it):
    return loses_both(it, *STOPPED)


@check("both DCs freeze under load for 10 s: the same")
def _(it):
    return loses_both(it, *FROZEN)


@check("an edge that starts without DCs serves whom it knew, from the kept topology, and says how old that is")
def _(it):
    it.edge.stop()
    with without_domain_controllers(it, *STOPPED):
        started = it.edge.start()
        assert started < 15, f"the start took {started:.1f} s"
        for user, server in KNOWN[:2]:
            answer = it.edge.ask(user)
            assert answer.status == 200 and answer.server.startswith(server), str(answer)
        refused = are_refused_at_once([it.edge.ask(next(it.names)) for _ in range(10)])
        told = it.edge.events("FC121")
        assert len(told) == 1, told
        shows(told[0], r"^started without directory, with the topology of \d+ (s|min) ago that was read from "
                       r"the domain controllers of contoso\.com: ")
    again = served_again(it, 0)
    return f"started in {started:.1f} s; {refused}; served again {again:.1f} s after the DCs are back"


# ---- Sparing it ------------------------------------------------------------------------------------------------------

@check("50 wrong passwords of carla: the directory is asked about three at most, and her account is not locked")
def _(it):
    assert sign_in(it.forest, "ldaps", *person("carla"))[0] == 0  # which forgets earlier ones
    since = it.edge.mark()
    with ThreadPoolExecutor(10) as several:
        answers = list(several.map(lambda number: it.edge.ask("carla", password=f"Wrong-word{number}"), range(50)))
    assert all(answer.status == 401 and "madrid" not in answer.body for answer in answers), Counter(map(str, answers))
    counted = [it.forest.wrong_passwords_counted("carla", dc) for dc in it.forest.controllers]
    assert 1 <= max(counted) and sum(counted) <= 3, counted
    for dc in it.forest.controllers:
        status, said = sign_in(it.forest, "ldaps", *person("carla"), dc=dc)
        assert status == 0, (dc.name, status, said)
    told = it.edge.events("FC127", since)
    assert len(told) == 1 and "carla@contoso.com" in told[0], told
    return f"badPwdCount {' and '.join(map(str, counted))}"


@check("no password is in any log")
def _(it):
    logs = sorted(it.directory.glob("*.log"))
    assert len(logs) > 2, logs
    for log in logs:
        shows(log.read_text(errors="replace"), "!pass-word1", "!wrong-word", "!panicked")


# ---- Running them ----------------------------------------------------------------------------------------------------

class Surroundings:
    def __init__(self, folder, directory):
        self.folder, self.directory, self.contoso, self.edge = folder, directory, None, None
        self.forest = Forest(os.environ.get("FOREST") or directory / "forest", people=PEOPLE)

    def start(self):
        self.forest.start()
        self.people = len(self.forest.search("(sAMAccountName=person-*)", ["1.1"]))
        if len(self.forest.controllers) < 2 or self.people < PEOPLE:
            raise ForestError(f"{self.forest.directory} has not two DCs and {PEOPLE} people; give another FOREST")
        self.names = names_of_crowd(self.people)
        self.put_back()  # a run that was ended may have left something elsewhere
        name_servers = ", ".join(f'"{dc.address}"' for dc in self.forest.controllers)
        self.found = f'domain = "{DOMAIN}"\ndns_servers = [{name_servers}]\n'
        self.account = (f'bind_dn = "{ACCOUNT}"\nbind_password_file = "{self.forest.account_password}"\n'
                        f'ca = "{self.forest.ca}"\n')
        self.contoso = Contoso(self.folder, self.directory, self.people)
        self.edge = self.edge_with("edge", self.found + self.account)
        self.edge.start()

    def put_back(self):
        """Everything to where the checks expect it."""
        self.forest.replicate(self.forest.dc2, self.forest.dc1)  # lest a change there come after these
        self.forest.move("bruno", "mbx-opo")
        self.forest.move("carla", "mbx-mad")
        put(self, OPORTO_1, "Porto")
        self.forest.replace(LISBON_OWA, {"msExchInternalHostName": "https://cas-lis-1.contoso.com/owa"})
        self.forest.replicate()
        if self.edge:
            wait_for(lambda: self.edge.ask("bruno").server == "cas-opo-1", 30)

    def edge_with(self, name, ldap, options=""):
        return Edge(name, self.folder / "firstcas", self.directory, self.contoso, ldap, options)

    def stop(self):
        for started in [self.edge, self.contoso, self.forest]:
            if started:
                started.stop()


def main(folder):
    for binary in [folder / "firstcas", folder / "examples/contoso"]:
        if not os.access(binary, os.X_OK):
            print(f"{binary} is not there: make build", file=sys.stderr)
            return 1
    return staged("samba", lambda directory: Surroundings(folder, directory), run)


def run(surroundings):
    began = time.monotonic()
    surroundings.start()
    print(f"        forest, contoso and edge run after {time.monotonic() - began:.1f} s")
    # What a failed check has changed is put back, so that the next can say its own.
    return all_of(CHECKS, "samba", surroundings, began, surroundings.put_back)
