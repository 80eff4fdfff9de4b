"""The checks: who answered, as whom, and over which connection."""
import base64, hashlib, http.client, os, random, shutil, signal, sys, tempfile, time, traceback
from collections import Counter
from pathlib import Path

import spnego

import clients
import ews
from clients import chromium, curl, kerberos_session, last, ntlm_session, person
from hammer import Hammer
from organisation import PASSWORD, Organisation

LISBON, PORTO = ("cas-lis-1", "cas-lis-2"), ("cas-opo-1", "cas-opo-2")
ANA, BRUNO = ("-u", f"CONTOSO\\ana:{PASSWORD}"), ("-u", f"CONTOSO\\bruno:{PASSWORD}")
DEVICE = "/Microsoft-Server-ActiveSync?Cmd=Ping&User=bruno&DeviceId=d&DeviceType=t"
EWS = "/EWS/Exchange.asmx"
CHECKS = []


def check(what):
    def register(function):
        CHECKS.append((what, function))
        return function
    return register


def expect(answers, name, servers):
    """All answers are 200, to `name`, from one of `servers`, over one connection."""
    seen = [(it.status, it.person, it.server, it.connection) for it in answers]
    assert answers and all(it.status == 200 and it.person == name and it.server in servers for it in answers), \
        f"expected {name} at {servers}: {seen}"
    assert len({it.connection for it in answers}) == 1, f"expected one upstream connection: {seen}"


def accepted(answers):
    """What is left without the legs of handshakes."""
    return [it for it in answers if it.status not in (100, 401)]


def asked(edge):
    """The requests that the servers have answered."""
    return [it for it in edge.requests() if it[3] != "closed"]


def wait_until(condition, otherwise, seconds=1):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


# ---- NTLM ------------------------------------------------------------------------------------------------------------

@check("curl --ntlm: one handshake, then the same upstream connection")
def _(contoso):
    for tls in (False, True):
        answers = curl(contoso.iis, ["/owa/", "/owa/second", EWS], "--ntlm", *ANA, tls=tls)
        assert [it.status for it in answers] == [401, 200, 200, 200], [it.status for it in answers]
        expect(accepted(answers), "ana", LISBON)
        assert answers[0].connection == answers[1].connection, "challenge and answer came over two connections"
        assert answers[1].headers.get("persistent-auth") == "true", "IIS's Persistent-Auth did not come through"


@check("requests-ntlm, both kinds of servers, with and without TLS: one upstream connection a session")
def _(contoso):
    for edge in (contoso.apache, contoso.iis):
        for url in (edge.url, edge.tls_url):
            with ntlm_session(edge, "ana") as session:
                paths = ("/owa/", EWS, "/rpc/rpcproxy.dll", "/owa/")
                expect([last(session.get(url + path)) for path in paths], "ana", LISBON)


@check("two users at once never share an upstream connection, nor does who comes after them")
def _(contoso):
    for edge in (contoso.apache, contoso.iis):
        with ntlm_session(edge, "ana") as ana, ntlm_session(edge, "bruno") as bruno, clients.session(edge) as nobody:
            rounds = [[last(session.get(edge.url + EWS)) for session in (ana, bruno, nobody)] for _ in range(5)]
        with ntlm_session(edge, "bruno") as later, clients.session(edge) as nobody:
            after, stranger = last(later.get(edge.url + EWS)), last(nobody.get(edge.url + EWS))
        of_ana, of_bruno, of_nobody = (list(answers) for answers in zip(*rounds))
        expect(of_ana, "ana", LISBON)
        expect(of_bruno, "bruno", LISBON)
        expect([after], "bruno", LISBON)
        assert all(it.status == 401 and it.person is None for it in [*of_nobody, stranger]), "nobody was let in"
        assert len({of_ana[0].connection, of_bruno[0].connection, after.connection}) == 3, "a connection was used again"


@check("the upstream connection ends within a second of its client")
def _(contoso):
    session = ntlm_session(contoso.iis, "ana")
    connection = last(session.get(contoso.iis.url + "/owa/")).connection
    session.close()
    wait_until(lambda: any(it[1] == connection and it[3] == "closed" for it in contoso.iis.requests()),
               f"{connection} is still open")


@check("IIS takes a new handshake on a live connection: the new user is served on it, the old one never again")
def _(contoso):
    connection = http.client.HTTPConnection("127.0.0.1", contoso.iis.port, timeout=20)

    def ask(credential=None):
        connection.request("GET", EWS, headers={"Authorization": credential} if credential else {})
        response = connection.getresponse()
        response.read()
        return clients.Answer(response.status, {name.lower(): value for name, value in response.getheaders()})

    def handshake(name):
        context = spnego.client(f"CONTOSO\\{name}", PASSWORD, protocol="ntlm", options=spnego.NegotiateOptions.use_ntlm)
        challenge = ask("NTLM " + base64.b64encode(context.step()).decode())
        token = context.step(base64.b64decode(challenge.headers["www-authenticate"].partition(" ")[2]))
        return [challenge, ask("NTLM " + base64.b64encode(token).decode()), ask()]

    first, second = handshake("ana"), handshake("bruno")
    connection.close()
    expect(first[1:], "ana", LISBON)
    assert second[0].status == 401 and second[0].person is None, "the new handshake was answered as the old user"
    expect(second[1:], "bruno", LISBON)
    assert first[1].connection == second[1].connection, "the new handshake went to another connection"


@check("a wrong password: the server's own 401 comes through, and nobody asks again and again")
def _(contoso):
    before = len(asked(contoso.iis))
    answers = curl(contoso.iis, ["/owa/"], "--ntlm", "-u", "CONTOSO\\ana:wrong")
    assert [it.status for it in answers] == [401, 401], [it.status for it in answers]
    assert answers[-1].server in LISBON and "www-authenticate" in answers[-1].headers, answers[-1]
    seen = asked(contoso.iis)[before:]
    assert len(seen) == 2, f"curl's two legs became {seen}"
    for edge in (contoso.apache, contoso.iis):
        before = len(asked(edge))
        with ntlm_session(edge, "ana", "wrong") as session:
            answer = last(session.get(edge.url + "/owa/"))
        assert (answer.status, answer.person) == (401, None) and answer.server in LISBON, answer
        wait_until(lambda: len(asked(edge)) >= before + 3, "the server's log has not all requests")
        seen = asked(edge)[before:]
        assert len(seen) == 3, f"an anonymous request and two legs became {seen}"


@check("a POST of 1 MB with Expect: 100-continue behind NTLM arrives whole, once")
def _(contoso):
    content = random.Random(1).randbytes(1_000_000)
    wanted = f"{len(content)} {hashlib.md5(content).hexdigest()}"
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        for tls in (False, True):
            before = len(contoso.iis.requests())
            answers = curl(contoso.iis, ["/owa/"], "--ntlm", *ANA, "-H", "Expect: 100-continue", "-H",
                           "Content-Type: application/octet-stream", "--data-binary", f"@{file.name}", tls=tls)
            assert any(it.status == 100 for it in answers), "no 100 Continue"
            expect(accepted(answers), "ana", LISBON)
            assert accepted(answers)[0].body == wanted, f"{accepted(answers)[0].body}, not {wanted}"
            taken = [it for it in contoso.iis.requests()[before:] if it[5] == "200"]
            assert len(taken) == 1, f"delivered more than once: {taken}"
    for edge in (contoso.apache, contoso.iis):
        with ntlm_session(edge, "ana") as session:
            answer = last(session.post(edge.url + "/owa/", data=content))
        expect([answer], "ana", LISBON)
        assert answer.body == wanted, f"{answer.body}, not {wanted}"


@check("exchangelib lists an inbox over one upstream connection, in the site of its X-AnchorMailbox")
def _(contoso):
    for name, servers in (("ana", LISBON), ("bruno", PORTO)):
        account, seen = clients.ews_account(contoso.iis, name)
        assert [item.subject for item in account.inbox.all().only("subject")] == [ews.SUBJECT]
        account.protocol.close()
        expect([it for it in seen if it.status == 200], name, servers)


@check("exchangelib resolves a name")
def _(contoso):
    account, seen = clients.ews_account(contoso.iis, "ana")
    assert account.protocol.resolve_names(["ana"])[0].email_address == "ana@contoso.com"
    account.protocol.close()
    expect([it for it in seen if it.status == 200], "ana", LISBON)


@check("a request without hint stays on the connection that one with X-AnchorMailbox has authenticated")
def _(contoso):
    for edge in (contoso.apache, contoso.iis):
        with ntlm_session(edge, "ana") as session:
            expect([last(session.get(edge.url + EWS, headers=headers))
                    for headers in ({"X-AnchorMailbox": "ana@contoso.com"}, {}) * 2], "ana", LISBON)


@check("Chromium with the user in the URL")
def _(contoso):
    before = len(contoso.iis.requests())
    page = chromium(contoso.iis, "ana", "/owa/")
    assert "ana on iis-" in page and "cas-lis-" in page, page
    served = [it for it in contoso.iis.requests()[before:] if it[5] == "200"]
    assert {it[4] for it in served} >= {"/owa/", "/owa/second.js"}, f"the page's script was not served: {served}"
    assert {person(it[2]) for it in served} == {"ana"}, served


# ---- Kerberos --------------------------------------------------------------------------------------------------------

@check("curl --negotiate with a Kerberos ticket for the public name, with and without TLS")
def _(contoso):
    for tls in (False, True):
        answers = curl(contoso.apache, ["/owa/", EWS], "--negotiate", "-u", ":", ticket=contoso.tickets["ana"], tls=tls)
        expect(accepted(answers), "ana", LISBON)
    answers = curl(contoso.apache, [DEVICE, DEVICE], "--negotiate", "-u", ":", ticket=contoso.tickets["bruno"])
    expect(accepted(answers), "bruno", PORTO)


@check("requests-kerberos, asked and unasked: one upstream connection a session")
def _(contoso):
    for unasked in (False, True):
        for url in (contoso.apache.url, contoso.apache.tls_url):
            with kerberos_session(contoso.apache, contoso.tickets["ana"], unasked) as session:
                expect([last(session.get(url + path)) for path in ("/owa/", EWS, "/owa/")], "ana", LISBON)


@check("without a ticket curl --negotiate ends with the server's 401")
def _(contoso):
    answers = curl(contoso.apache, ["/owa/"], "--negotiate", "-u", ":")
    assert answers and all(it.status == 401 and it.person is None for it in answers), answers


# ---- Which site ------------------------------------------------------------------------------------------------------

@check("User= of an ActiveSync query, X-AnchorMailbox and explicit logon lead the handshake to Porto")
def _(contoso):
    hints = [(DEVICE, {}), ("/owa/bruno@contoso.com/", {}), (EWS, {"X-AnchorMailbox": "bruno@contoso.com"})]
    for path, headers in hints:
        options = [option for name, value in headers.items() for option in ("-H", f"{name}: {value}")]
        answers = curl(contoso.iis, [path, path], "--ntlm", *BRUNO, *options)
        expect(accepted(answers), "bruno", PORTO)
        assert answers[0].connection == answers[1].connection, "challenge and answer came over two connections"
        for edge in (contoso.apache, contoso.iis):
            with ntlm_session(edge, "bruno") as session:
                expect([last(session.get(edge.url + path, headers=headers)) for _ in range(2)], "bruno", PORTO)


@check("without a hint Lisbon challenges")
def _(contoso):
    for edge in (contoso.apache, contoso.iis):
        with clients.session(edge) as session:
            answer = last(session.get(edge.url + "/owa/"))
        assert answer.status == 401 and answer.server in LISBON, answer
    answers = curl(contoso.iis, [EWS], "--ntlm", *BRUNO)
    assert answers[0].status == 401 and answers[0].server in LISBON, answers[0]
    expect(accepted(answers), "bruno", LISBON)


# ---- Which site, once the user is known ------------------------------------------------------------------------------

def follow(contoso, jar, *more):
    return curl(contoso.iis, ["/owa/"], "-L", "-c", jar, "-b", jar, "--ntlm", *BRUNO, *more)


@check("curl -L --ntlm with a jar: accepted in Lisbon, bruno gets a 307 and a cookie and ends at Porto")
def _(contoso):
    with tempfile.TemporaryDirectory() as directory:
        jar = f"{directory}/jar"
        answers = follow(contoso, jar)
        moved = [it for it in answers if it.status == 307]
        assert len(moved) == 1, [it.status for it in answers]
        head = moved[0].headers
        assert head["location"].endswith("/owa/") and head["connection"].lower() == "close", head
        assert "set-cookie" in head, head
        assert not any(word in head["set-cookie"].lower() for word in ("porto", "opo", "bruno")), head["set-cookie"]
        expect([accepted(answers)[-1]], "bruno", PORTO)
        again = follow(contoso, jar)
        assert not [it for it in again if it.status == 307], "the cookie did not help"
        assert again[0].server in PORTO, "Lisbon was asked in spite of the cookie"
        expect(accepted(again), "bruno", PORTO)


@check("ana, at home in Lisbon, is sent nowhere")
def _(contoso):
    answers = curl(contoso.iis, ["/owa/"], "-L", "--ntlm", *ANA)
    assert [it.status for it in answers] == [401, 200], [it.status for it in answers]


@check("a wrong password is sent nowhere and gets no cookie")
def _(contoso):
    answers = curl(contoso.iis, ["/owa/"], "-L", "--ntlm", "-u", "CONTOSO\\bruno:wrong")
    assert all(it.status == 401 and "set-cookie" not in it.headers for it in answers), answers


@check("requests-ntlm: bruno ends at Porto")
def _(contoso):
    for edge in (contoso.apache, contoso.iis):
        with ntlm_session(edge, "bruno") as session:
            expect([last(session.get(edge.url + "/owa/")) for _ in range(3)], "bruno", PORTO)


@check("Chromium: bruno ends at Porto")
def _(contoso):
    page = chromium(contoso.iis, "bruno", "/owa/")
    assert "bruno on iis-" in page and "cas-opo-" in page, page


@check("an EWS request keeps Lisbon's answer, and its cookie takes the next connection to Porto")
def _(contoso):
    with tempfile.TemporaryDirectory() as directory:
        options = ["-c", f"{directory}/jar", "-b", f"{directory}/jar", "--ntlm", *BRUNO]
        expect(accepted(curl(contoso.iis, [EWS], *options)), "bruno", LISBON)
        expect(accepted(curl(contoso.iis, [EWS], *options)), "bruno", PORTO)


@check("with a keytab the edge reads the Kerberos name: bruno's first request goes to Porto")
def _(contoso):
    edge = contoso.edge_with_keytab()
    for name, servers in (("bruno", PORTO), ("ana", LISBON)):
        answers = curl(edge, ["/owa/", EWS], "--negotiate", "-u", ":", ticket=contoso.tickets[name])
        expect(accepted(answers), name, servers)
        with kerberos_session(edge, contoso.tickets[name], unasked=True) as session:
            expect([last(session.get(edge.url + path)) for path in ("/owa/", EWS)], name, servers)


# ---- All at once -----------------------------------------------------------------------------------------------------

def hammer(contoso, edge, kinds, changes_user):
    it = Hammer(edge, kinds, contoso.tickets, contoso.seed, changes_user)
    it.run(contoso.hammer_seconds)
    told = ", ".join(f"{count} {what}" for what, count in sorted(it.counts.items()))
    print(f"        seed {contoso.seed}: {told}")
    assert not it.wrong, f"{len(it.wrong)} wrong: " + "; ".join(it.wrong[:5])
    assert it.counts["of users"] > 100 and it.counts["of nobody"] > 100, "too few answers to prove anything"
    assert not it.lost, f"{len(it.lost)} users were forgotten: " + "; ".join(it.lost[:5])


@check("isolation at Apache: anonymous, NTLM, Negotiate and unasked Kerberos on keep-alive connections")
def _(contoso):
    kinds = ["anonymous", "ntlm", "negotiate", "kerberos", "kerberos"]
    hammer(contoso, contoso.apache_hammered, kinds, changes_user=False)


@check("isolation at IIS: anonymous, NTLM and Negotiate, and users that change on a connection")
def _(contoso):
    hammer(contoso, contoso.iis_hammered, ["anonymous", "ntlm", "negotiate"], changes_user=True)


@check("an edge that delegates has forwardable tickets, though krb5.conf says otherwise, which is read all the same")
def _(contoso):
    edge = contoso.edge_that_delegates()
    told = Path(f"/proc/{edge.pid}/environ").read_text().split("\0")
    env = dict(it.split("=", 1) for it in told if it.startswith("KRB5_"))
    assert env["KRB5_CONFIG"] == f"/proc/self/fd/0:{contoso.kdc.env['KRB5_CONFIG']}", env
    assert "F" not in contoso.kdc.flags(KRB5_CLIENT_KTNAME=env["KRB5_CLIENT_KTNAME"])
    env["KRB5_CONFIG"] = env["KRB5_CONFIG"].replace("/proc/self/", f"/proc/{edge.pid}/")
    assert "F" in contoso.kdc.flags(**env), env


@check("no edge had anything to report")
def _(contoso):
    events = [f"{edge.name}: {event}" for edge in contoso.edges for event in edge.events()]
    assert not events, "\n".join(events[:10])


# ---- Running them ----------------------------------------------------------------------------------------------------

def main(binary):
    if not os.access(binary, os.X_OK):
        print(f"{binary} is not there: make build", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.stdout.reconfigure(line_buffering=True)
    directory = Path(tempfile.mkdtemp(prefix="windows-"))
    directory.chmod(0o755)  # Apache's own user reads what is in it
    contoso = Organisation(directory, binary)
    contoso.seed = int(os.environ.get("HAMMER_SEED") or random.randrange(1 << 32))
    contoso.hammer_seconds = float(os.environ.get("HAMMER_SECONDS") or 5)
    try:
        return run(contoso)
    except KeyboardInterrupt:
        return 1
    finally:
        contoso.stop()
        if os.environ.get("KEEP"):
            print(f"logs: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def run(contoso):
    contoso.start()
    os.environ.update(contoso.kdc.env)
    clients.resolve_public_name()
    contoso.tickets = {name: contoso.kdc.ticket(name, PASSWORD) for name in ("ana", "bruno", "carla")}
    results = Counter(one(contoso, *it) for it in CHECKS)
    print(f"windows: {results['ok']} passed, {results['FAILED']} failed")
    return 1 if results["FAILED"] else 0


def one(contoso, what, function):
    try:
        function(contoso)
        print(f"ok      {what}")
        return "ok"
    except Exception as error:
        print(f"FAILED  {what}: {error}")
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        return "FAILED"
