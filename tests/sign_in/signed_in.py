"""The checks of tests/sign_in/run."""
import os, random, re, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

import table
from check import all_of, checks, shows, staged, within
from edge import Client, Load
from forest import DOMAIN, LOCKOUT_THRESHOLD, REALM
from stage import EDGES_ACCOUNT, EDGES_NAME, PEOPLE, SERVERS_ACCOUNT, TIMEOUT, Stage, service
from table import EWS, LISBON, OWA, PORTO, device, person

CROWD = [f"person-{number:05}" for number in range(1, PEOPLE + 1)]  # at home in Lisbon
PERSONS, NEIGHBOURS = CROWD[:6], CROWD[6:]  # who meet with mishaps, and who share ana's servers
CHECKS, check = checks()


def serves(answer, user, server):
    """It is a 200, as this user, of a server whose name begins so."""
    assert answer.status == 200 and answer.server.startswith(server) and person(answer.as_whom) == user, \
        f"{answer} as {answer.as_whom}, expected {user} at {server}: {answer.body[:300]}"


def refuses(answer, *statuses):
    """The edge itself answers; by a fault in place of a 403 where it is EWS."""
    assert answer.status in statuses and answer.server == "-", f"{answer}: {answer.body[:300]}"


def tells(edge, event, since, *patterns):
    """An event comes, and its sentences show all patterns."""
    within(15, lambda: edge.events(event, since), f"{event}:\n{edge.log()[since:][-2000:]}")
    shows("\n".join(edge.events(event, since)), *patterns)


# ---- Everybody -------------------------------------------------------------------------------------------------------

def everybody(way, ask, rows):
    """Checks of the table, by each way to tickets."""
    for by in ["password", "delegation"]:
        @check(f"each of Contoso's people by {way}, with a ticket by {by}")
        def _(it, by=by):
            edge = it.by_password if by == "password" else it.by_delegation
            lines, wrong = table.outcome(edge, by, way, ask, rows)
            print("\n".join(["", table.HEADING, *lines, ""]))
            assert not wrong, f"{len(wrong)} of {len(rows)} are wrong:\n" + "\n".join(wrong)


everybody("Basic", table.by_basic, table.BASIC)
everybody("form", table.by_form, table.FORM)


@check("an ActiveSync request with Basic for bruno ends in Porto as bruno")
def _(it):
    for edge in it.both:
        for name in ["bruno", "CONTOSO\\bruno", "bruno@contoso.com"]:
            serves(edge.ask(name, device("bruno", "Ping"), method="POST"), "bruno", PORTO)


@check("an upload goes through whole, and the server's part of the sign-in stays behind")
def _(it):
    body = random.randbytes(300_000)
    for edge in it.both:
        for user, server in [("ana", LISBON), ("bruno", PORTO)]:
            client = Client(edge)
            for _ in range(3):
                answer = client.ask(user, EWS, method="POST", body=body)
                serves(answer, user, server)
                assert answer.headers["X-Contoso-Body"].startswith(f"{len(body)} "), answer.headers["X-Contoso-Body"]
                leaked = [name for name in ["WWW-Authenticate", "Persistent-Auth"] if name in answer.headers]
                assert not leaked, leaked
            client.close()


# ---- Who is asked for what -------------------------------------------------------------------------------------------

@check("a wrong password is a 401, and counts once in the directory")
def _(it):
    for edge, user in zip(it.both, ["carla", "bruno"]):
        it.forest.replace(it.forest.dn_of(user), {"lockoutTime": 0})  # which forgets the wrong ones
        refuses(edge.ask(user, EWS, password="Wrong-word1", method="POST"), 401)
        counted = it.forest.wrong_passwords_counted(user)
        assert counted == 1, f"badPwdCount of {user} is {counted}"


@check("who asks without a credential is asked for a password, although the servers do not take one")
def _(it):
    for edge in it.both:
        answer = edge.curl("URL" + EWS, tls=True)
        shows(answer, "^HTTP/1.1 401", "^WWW-Authenticate: Basic", "^WWW-Authenticate: Negotiate")


@check("by delegation nobody's password is needed: who has a client certificate is served")
def _(it):
    for user, server in [("ana", LISBON), ("bruno", PORTO)]:
        answers = it.by_delegation.curl(*it.certificate_of(user), "URL" + OWA, "URL" + OWA, tls=True)
        assert len(re.findall(r"^HTTP/1.1 200", answers, re.M)) == 2, answers
        shows(answers, f"^X-Contoso-Server: {server}", f"^X-Contoso-User: {user}@{REALM}$")


@check("who is proven by Kerberos, and whose mailbox moves, is served there over the same connection, by delegation")
def _(it):
    keytab = ('\n#keytab = "/etc/firstcas/http.keytab"\n', f'\nkeytab = "{it.servers_keytab}"\n')
    edge = it.edge("opens-tickets", "delegation", changes=[keytab])
    client = Client(edge)
    serves(client.request("ana", "POST", EWS, {"Authorization": f"Negotiate {it.token('ana')}"}), "ana", LISBON)
    serves(client.request("ana", "POST", EWS, {}), "ana", LISBON)
    try:
        it.forest.move("ana", "mbx-opo")
        tells(edge, "FC128", 0, "ana@contoso.com moved from mbx-lis to mbx-opo")
        for _ in range(3):
            serves(client.request("ana", "POST", EWS, {}), "ana", PORTO)
    finally:
        client.close()
        it.forest.move("ana", "mbx-lis")
        for edge in it.both:
            within(15, lambda: edge.ask("ana").server.startswith(LISBON), "ana is in Lisbon again")


@check("who is proven by NTLM in Lisbon and at home in Porto is served there over the same connection, by delegation")
def _(it):
    edge = it.edge("takes-ntlm", "delegation", changes=it.lisbon_with_ntlm())
    for user, home in [("bruno", PORTO), ("ana", LISBON)]:
        client = Client(edge)
        serves(it.by_ntlm(client, user, EWS), user, LISBON)
        for _ in range(3):
            serves(client.request(user, "POST", EWS, {}), user, home)
        client.close()


@check("hundreds of requests at once, of many people over connections that they share: each answer is its asker's")
def _(it):
    people = [*((neighbour, OWA, LISBON) for neighbour in [*NEIGHBOURS, "ana"]), ("bruno", OWA, PORTO),
              ("carla", EWS, table.MADRID), ("duarte", "/exchange/duarte/", table.EX03_PORTO),
              ("elsa", "/exchange/elsa/", table.EX03_LISBON)]

    def one_client(number):
        choose, client = random.Random(number), Client(it.both[number % 2])
        try:
            return [(*choice, client.ask(choice[0], choice[1])) for choice in choose.choices(people, k=20)]
        finally:
            client.close()

    with ThreadPoolExecutor(32) as several:
        answers = [answer for answers in several.map(one_client, range(32)) for answer in answers]
    for user, _, server, answer in answers:
        serves(answer, user, server)
    slowest = max(answer.seconds for *_, answer in answers)
    assert not [event for edge in it.both for event in edge.events("FC141")], "somebody was cut off"
    return f"{len(answers)} answers (slowest {slowest:.2f} s)"


# ---- Losing the key distribution centre ------------------------------------------------------------------------------

SIGNED_IN = [("ana", LISBON), ("bruno", PORTO)]


def goes_on(edge, lose, regain, stranger):
    """What happens under load while nobody gives tickets: SIGNED_IN notice nothing, a stranger is refused soon."""
    for user, server in SIGNED_IN:
        serves(edge.ask(user), user, server)
    is_lost = threading.Event()
    with Load(edge, iter(lambda: stranger if is_lost.is_set() else "ana", None), SIGNED_IN) as load:
        load.goes_on(unknown=10)
        lose()
        is_lost.set()
        try:
            load.goes_on(unknown=30)
            back = time.monotonic()
        finally:
            regain()
        again = within(30, lambda: load.unknown[-1].user == stranger and load.unknown[-1].status == 200,
                       "the stranger is served")
    for answer in load.known:
        serves(answer, answer.user, dict(SIGNED_IN)[answer.user])
    refused = [answer for answer in load.unknown if answer.user == stranger and answer.at + answer.seconds < back]
    assert len(refused) > 20, len(refused)
    for answer in refused:
        refuses(answer, 503)
        assert answer.retry_after and answer.seconds < TIMEOUT + 1, str(answer)
    waited = sorted(answer.seconds for answer in refused)
    return (f"{len(load.known)} answers for the signed in (slowest {max(it.seconds for it in load.known):.2f} s), "
            f"{len(refused)} refusals (median {waited[len(waited) // 2]:.2f} s, slowest {waited[-1]:.2f} s), "
            f"served again after {again:.1f} s")


@check("the KDC alone is silent, under load: the signed in go on, others get a 503 soon, until it is back")
def _(it):
    figures = []
    for edge in it.both:
        since = edge.mark()
        figures.append(goes_on(edge, it.freeze_kdc, it.thaw_kdc, PERSONS[0]))
        tells(edge, "FC180", since, REALM)
        tells(edge, "FC181", since, REALM)
    return "; ".join(figures)


@check("the domain controller is stopped, under load, and started again: the same")
def _(it):
    dc = it.forest.dc1
    return "; ".join(goes_on(edge, dc.stop, lambda: dc.pid() or dc.start(), PERSONS[1]) for edge in it.both)


# ---- What an administrator has to mend -------------------------------------------------------------------------------

@check("a server without service principal name is named (OWA71), and served once it has one")
def _(it):
    edge = it.edge("no-spn", "password")
    it.samba_tool("spn", "delete", service("cas-mad-1"), SERVERS_ACCOUNT)
    try:
        refuses(edge.ask("carla", EWS, method="POST"), 500)
        tells(edge, "OWA71", 0, "HTTP/cas-mad-1.contoso.com")
    finally:
        it.samba_tool("spn", "add", service("cas-mad-1"), SERVERS_ACCOUNT)
    seconds = within(60, lambda: edge.ask("carla", EWS, method="POST").server == table.MADRID, "carla is served")
    return f"{seconds:.1f} s after it"


@check("a server that delegation is not allowed to is named (FC183)")
def _(it):
    edge = it.edge("not-allowed", "delegation")
    it.samba_tool("delegation", "del-service", EDGES_ACCOUNT, service("cas-mad-1"))
    try:
        refuses(edge.ask("carla", EWS, method="POST"), 500)
        tells(edge, "FC183", 0, "delegation to HTTP/cas-mad-1.contoso.com is not allowed")
        serves(edge.ask("bruno"), "bruno", PORTO)
    finally:
        it.samba_tool("delegation", "add-service", EDGES_ACCOUNT, service("cas-mad-1"))
    serves(edge.ask("carla", EWS, method="POST"), "carla", table.MADRID)


@check("delegation by an account that may not change the protocol, or without service principal name, is told (FC183)")
def _(it):
    for name, spoil, mend in [
            ("protocol", ["delegation", "for-any-protocol", EDGES_ACCOUNT, "off"],
             ["delegation", "for-any-protocol", EDGES_ACCOUNT, "on"]),
            ("nameless", ["spn", "delete", EDGES_NAME, EDGES_ACCOUNT],
             ["spn", "add", EDGES_NAME, EDGES_ACCOUNT])]:
        edge = it.edge(name, "delegation")
        it.samba_tool(*spoil)
        try:
            refuses(edge.ask("bruno"), 403)
            tells(edge, "FC183", 0, "bruno@contoso.com")
        finally:
            it.samba_tool(*mend)


@check("krb5.conf need not say that tickets are forwardable, which delegation cannot do without")
def _(it):
    krb5_conf = it.other_krb5_conf("not-forwardable", "forwardable = true", "forwardable = false")
    serves(it.edge("not-forwardable", "delegation", krb5_conf=krb5_conf).ask("bruno"), "bruno", PORTO)


@check("a wrong key in the keytab is told (FC184), and does not lock the edge's account however many come")
def _(it):
    edge = it.edge("wrong-key", "delegation", keytab=it.wrong_keytab())
    for _ in range(2 * LOCKOUT_THRESHOLD):
        for user in ["ana", "bruno"]:
            refuses(edge.ask(user), 403)
    tells(edge, "FC184", 0, "own account")
    counted = it.forest.wrong_passwords_counted(EDGES_ACCOUNT)
    assert counted < 3, f"badPwdCount of {EDGES_ACCOUNT} is {counted}"
    serves(it.edge("right-key", "delegation").ask("bruno"), "bruno", PORTO)
    return f"badPwdCount {counted}"


@check("a clock ten minutes off: the library goes by the KDC's; if it may not (kdc_timesync = 0), that is told (FC182)")
def _(it):
    # What the command faketime sets, which would leave a process of its own in between.
    late = {"LD_PRELOAD": "/usr/$LIB/faketime/libfaketimeMT.so.1", "FAKETIME": "+10m"}
    serves(it.edge("late", "password", env=late).ask("bruno"), "bruno", PORTO)
    strict = it.other_krb5_conf("strict", "forwardable = true", "forwardable = true\n    kdc_timesync = 0")
    for by in ["password", "delegation"]:
        edge = it.edge(f"late-{by}", by, krb5_conf=strict, env=late)
        refuses(edge.ask("bruno"), 503)
        tells(edge, "FC182", 0, "clock")


@check("check --directory tries the sign-in, and says what is to be mended")
def _(it):
    def checked(*patterns):
        edge = it.by_delegation
        done = it.forest.run(edge.binary, "check", "--directory", "-c", edge.config, ok=False,
                             env={"KRB5CCNAME": "MEMORY:firstcas"})
        shows(done.stdout, *patterns)

    checked(r"^ +7 of 7 service principal names are one account's$", r"^ +it can sign in for \S+ everywhere$", "!^odd ")
    it.samba_tool("spn", "delete", service("cas-mad-1"), SERVERS_ACCOUNT)
    it.samba_tool("delegation", "del-service", EDGES_ACCOUNT, service("cas-opo-1"))
    try:
        checked(r"^ +6 of 7 service", r"^odd +cas-mad-1: no account has the service principal name HTTP/cas-mad-1\.",
                r"^odd .* delegation to HTTP/cas-opo-1\.contoso\.com is not allowed$", "!it can sign in for")
    finally:
        it.samba_tool("spn", "add", service("cas-mad-1"), SERVERS_ACCOUNT)
        it.samba_tool("delegation", "add-service", EDGES_ACCOUNT, service("cas-opo-1"))


UNUSABLE, CHANGE = "Your account cannot be used", "Change your password"


def is_disabled(it, user):
    it.forest.replace(it.forest.dn_of(user), {"userAccountControl": 66050})


def has_expired(it, user):
    it.forest.replace(it.forest.dn_of(user), {"accountExpires": 132 * 10 ** 15})  # 2019, in FILETIME


def is_locked_out(it, user):
    for _ in range(LOCKOUT_THRESHOLD):
        it.wrong_password(user)


def has_to_change(it, user):
    it.forest.replace(it.forest.dn_of(user), {"userAccountControl": 512})  # or else it never expires
    it.forest.replace(it.forest.dn_of(user), {"pwdLastSet": 0})


@check("whose account is disabled, expired or locked, or whose password has to be changed, is told (FC185)")
def _(it):
    edge = it.by_delegation
    for user, spoil, hears in [(PERSONS[2], is_disabled, UNUSABLE), (PERSONS[3], has_expired, UNUSABLE),
                               (PERSONS[4], is_locked_out, ""),  # which the directory tells anybody
                               (PERSONS[5], has_to_change, CHANGE)]:
        since = edge.mark()
        spoil(it, user)
        answer = edge.curl(*it.certificate_of(user), "URL" + OWA, tls=True)
        shows(answer, "^HTTP/1.1 403", "!^X-Contoso-Server", "You cannot be signed in")
        tells(edge, "FC185", since, f"{user}@{DOMAIN}")
        for by_basic in it.both:
            answer = by_basic.ask(user)
            refuses(answer, 401)
            shows(answer.body, hears)


# ---- Telling it ------------------------------------------------------------------------------------------------------

@check("explain says how each server is told who somebody is: by which ticket, as whom, for which service")
def _(it):
    for edge, by in [(it.by_password, "with the user's password"),
                     (it.by_delegation, f"by delegation from {EDGES_ACCOUNT}@{REALM}")]:
        for user, protocol, server in [("bruno", "owa", "cas-opo-1"), ("duarte", "exchange", "ex03-opo")]:
            told = it.forest.run(edge.binary, "explain", "-c", edge.config, "--user", user, "--protocol", protocol,
                                 env={"KRB5CCNAME": "MEMORY:firstcas"})
            shows(told, rf"^(sign-in)? +{server} +Kerberos {by}, as {user}@{REALM} to {service(server)}$")


@check("no password and no ticket is in any log")
def _(it):
    logs = sorted(it.directory.glob("*.log"))
    assert len(logs) > 2, logs
    for log in logs:
        shows(log.read_text(errors="replace"), "!pass-word1", "!wrong-word", "!negotiate [a-z0-9+/]{20}", "!panicked")


# ---- Running them ----------------------------------------------------------------------------------------------------

def main(binary):
    if not os.access(binary, os.X_OK):
        print(f"{binary} is not there: make build", file=sys.stderr)
        return 1
    return staged("sign-in", lambda directory: Stage(binary, directory), run)


def run(stage):
    began = time.monotonic()
    stage.start()
    stage.both = stage.by_password, stage.by_delegation = [stage.edge(by, by) for by in ["password", "delegation"]]
    print(f"        the domain controller, Apache and the edges run after {time.monotonic() - began:.1f} s")
    return all_of(CHECKS, "sign-in", stage, began)
