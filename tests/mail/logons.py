"""Who is let in, by which program, with which words; and who is not."""
import base64, re, statistics
from concurrent.futures import ThreadPoolExecutor

import clients
from check import checks, shows
from clients import Wire
from stage import EIGHT_BIT, PASSWORD, REFUSAL_DELAY

CHECKS, check = checks()
LISBON, EX03_LISBON, EX03_PORTO = "cas-lis-[12]", "ex03-lis", "ex03-opo"
# Where each of Contoso's people ends, or the words that they are refused with.
PEOPLE = {"ana": LISBON, "duarte": EX03_PORTO, "elsa": EX03_LISBON, "bruno": "!cas-opo-1.contoso.com",
          "carla": "!mail.madrid.contoso.com", "gil": "!cas-bra-1.contoso.com", "filipe": "!Client Access Server",
          "helena": "!no mailbox"}


def programs(stage):
    """Every program, by every way in which it can log on."""
    ca = stage.directory / "edge.pem"
    found = {}
    for tls in ["start", "at once"]:
        for by in ["LOGIN", "AUTH=PLAIN", "AUTH=LOGIN"]:
            found[f"imaplib, TLS {tls}, {by}"] = lambda *who, tls=tls, by=by: clients.with_imaplib(*who, by, tls)
        for by in ["USER", "AUTH=PLAIN", "AUTH=LOGIN"]:
            found[f"poplib, TLS {tls}, {by}"] = lambda *who, tls=tls, by=by: clients.with_poplib(*who, by, tls)
    for scheme in ["imap", "imaps", "pop3", "pop3s"]:
        for options in [[], ["--sasl-ir"], ["--login-options", "AUTH=PLAIN"], ["--login-options", "AUTH=LOGIN"]]:
            name = " ".join([f"curl {scheme}://", *options])
            found[name] = lambda *who, scheme=scheme, options=options: clients.with_curl(*who, scheme, options)
    for protocol in ["imap", "pop3"]:
        found[f"openssl s_client, {protocol}"] = lambda *who, protocol=protocol: clients.with_openssl(*who, protocol)
    for tls, by in [("STARTTLS", "LOGIN"), ("IMAPS", "PLAIN")]:
        found[f"mbsync, {tls}, {by}"] = lambda *who, tls=tls, by=by: clients.with_mbsync(*who, ca, tls, by)
    return found


def fits(found, user, expected):
    if expected.startswith("!"):
        return not found.server and expected[1:].lower() in found.refusal.lower()
    return found.user == user and re.fullmatch(expected, found.server)


@check("each of Contoso's people, with every program")
def _(it):
    wrong, seen, them = [], {}, programs(it)
    asked = [(name, user) for name in them for user in PEOPLE]
    with ThreadPoolExecutor(16) as several:  # most of the time is the refusals' delay
        came_of_it = list(several.map(lambda one: them[one[0]](it.ports, one[1], PASSWORD), asked))
    for (name, user), found in zip(asked, came_of_it):
        seen.setdefault((user, str(found)), []).append(name)
        if not fits(found, user, PEOPLE[user]):
            wrong.append(f"{user} with {name}: {found}, expected {PEOPLE[user]}")
    lines = [f"    {user:8} {found}  ({len(names)} programs and ways)" for (user, found), names in sorted(seen.items())]
    print("\n".join(["", *lines, ""]))
    assert not wrong, f"{len(wrong)} are wrong:\n" + "\n".join(wrong)
    return f"{len(them)} programs and ways"


@check("under each of their names")
def _(it):
    for user, server in [("duarte", EX03_PORTO), ("elsa", EX03_LISBON), ("ana", LISBON)]:
        for name in [user, user.upper(), f"{user}@contoso.com", f"{user}@CONTOSO.COM", f"CONTOSO\\{user}", f"contoso\\{user}"]:
            for found in [clients.with_imaplib(it.ports, name, PASSWORD), clients.with_poplib(it.ports, name, PASSWORD),
                          clients.with_curl(it.ports, name, PASSWORD, "imaps")]:
                assert fits(found, user, server), f"{name}: {found}"


@check("with a domain and a slash, as IMAP4 programs write it for Exchange")
def _(it):
    found = clients.with_imaplib(it.ports, "contoso/duarte", PASSWORD)
    assert fits(found, "duarte", EX03_PORTO), found


@check("with a password of any bytes, quoted, as a literal, by SASL and by PASS")
def _(it):
    for by in ["AUTH=PLAIN", "AUTH=LOGIN"]:
        found = clients.with_imaplib(it.ports, "julia", EIGHT_BIT, by)
        assert fits(found, "julia", EX03_LISBON), f"{by}: {found}"
    for by in ["USER", "AUTH=PLAIN"]:
        found = clients.with_poplib(it.ports, "julia", EIGHT_BIT, by)
        assert fits(found, "julia", EX03_LISBON), f"{by}: {found}"
    escaped = EIGHT_BIT.replace("\\", "\\\\").replace('"', '\\"')
    bytes_of_it = EIGHT_BIT.encode()
    for tls in ["start", "at once"]:
        with Wire(it.ports, "imap", tls) as wire:
            shows(wire.ask(f'q LOGIN julia "{escaped}"')[-1], "^q OK")
        with Wire(it.ports, "imap", tls) as wire:
            shows(wire.ask("q LOGIN {5}", "+")[-1], r"^\+ ")
            shows(wire.ask(f"julia {{{len(bytes_of_it)}}}", "+")[-1], r"^\+ ")
            wire.send(bytes_of_it)
            shows(wire.answer("q")[-1], "^q OK")
        with Wire(it.ports, "imap", tls) as wire:
            wire.send("q LOGIN {5+}", f"julia {{{len(bytes_of_it)}+}}", bytes_of_it)
            answer = wire.answer("q")
            shows(answer[-1], "^q OK")
            assert not [line for line in answer if line.startswith("+")], answer


@check("with a first answer in the command, or without, or not at all")
def _(it):
    said = base64.b64encode(b"\0elsa\0" + PASSWORD.encode()).decode()
    for protocol, command, ok in [("imap", "p AUTHENTICATE PLAIN", "^p OK"), ("pop3", "AUTH PLAIN", r"^\+OK")]:
        with Wire(it.ports, protocol) as wire:
            shows(wire.ask(f"{command} {said}", "p")[-1], ok)
        with Wire(it.ports, protocol) as wire:
            shows(wire.ask(command, "+")[-1], r"^\+")
            wire.send("*")
            shows(wire.answer("p")[-1], "^(p BAD|-ERR)")
            shows(wire.ask(command, "+")[-1], r"^\+")
            wire.send(said)
            shows(wire.answer("p")[-1], ok)


# ---- Refused ---------------------------------------------------------------------------------------------------------

@check("who is wrong learns nothing of where a mailbox is")
def _(it):
    for user in ["bruno", "carla", "gil", "filipe", "helena"]:
        for found in [clients.with_imaplib(it.ports, user, "Wrong-word1"), clients.with_poplib(it.ports, user, "Wrong-word1")]:
            shows(found.refusal, "!contoso", "!porto", "!madrid", "!site", "!mailbox", "!server", "authenticat|logon|password")


@check("a wrong password and a name that nobody has: one answer, at one time")
def _(it):
    kinds = {"wrong, mailbox in Lisbon": [f"l{n:02}" for n in range(7)],
             "wrong, mailbox in Porto": [f"p{n:02}" for n in range(7)],
             "wrong, mailbox on Exchange 2003": [f"b{n:02}" for n in range(7)],
             "wrong, no mailbox": [f"n{n:02}" for n in range(7)],
             "unknown": [f"nobody{n:02}" for n in range(7)],
             "unknown in a domain of its own": [f"stranger{n:02}@example.org" for n in range(7)],
             "8-bit": [f"joão{n:02}" for n in range(7)]}
    for by, log_on in [("IMAP4", lambda *who: clients.with_imaplib(*who, "AUTH=PLAIN", "at once")),
                       ("POP3", lambda *who: clients.with_poplib(*who, "USER", "at once"))]:
        answers, medians = set(), {}
        for kind, names in kinds.items():
            found = [log_on(it.ports, name, f"Wrong-{by}-{name}".encode("ascii", "replace").decode()) for name in names]
            answers |= {each.refusal for each in found}
            medians[kind] = statistics.median(each.seconds for each in found)
        print(f"\n    {by}: {' or '.join(answers)}")
        print("\n".join(f"    {seconds * 1000:7.1f} ms  {kind}" for kind, seconds in medians.items()))
        assert len(answers) == 1, answers
        spread = max(medians.values()) - min(medians.values())
        assert min(medians.values()) >= REFUSAL_DELAY - 0.01, "sooner than mail.refusal_delay"
        assert spread < 0.05, f"{spread * 1000:.0f} ms apart"


@check("a refusal that names a server takes as long")
def _(it):
    for user in ["bruno", "filipe", "helena"]:
        found = clients.with_imaplib(it.ports, user, PASSWORD)
        assert REFUSAL_DELAY - 0.01 <= found.seconds < REFUSAL_DELAY + 0.5, found.seconds


@check("the server behind refuses in its own words, and the next logon over the connection is let in")
def _(it):
    for user, imap, pop in [("igor", "CONTACTADMIN. Mailbox-is-being-moved", "Mailbox-is-being-moved"),
                            ("kim", "AUTHENTICATIONFAILED. Authentication failed", "Authentication failed")]:
        with Wire(it.ports) as wire:
            shows(wire.ask(f"word LOGIN {user} {PASSWORD}")[-1], f"^word NO .*{imap}")
            shows(wire.ask(f"again AUTHENTICATE PLAIN {plain(user)}")[-1], f"^again NO .*{imap}")
            shows(wire.log_on("elsa", PASSWORD), "^l OK")
        with Wire(it.ports, "pop3") as wire:
            shows(wire.log_on(user, PASSWORD), f"^-ERR .*{pop}")
            shows(wire.log_on("elsa", PASSWORD), r"^\+OK")


def plain(user, password=PASSWORD):
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@check("nobody guesses on and on: after nine wrong passwords a person's logons wait, from that client")
def _(it):
    edge = it.edge("guessed-at", ('\nrefusal_delay = "500ms"\n', '\nrefusal_delay = "10ms"\n'))
    refusals = [clients.with_imaplib(edge.ports, "elsa", f"Wrong-{n}", tls="at once").refusal for n in range(14)]
    refusals.append(clients.with_poplib(edge.ports, "elsa", PASSWORD, tls="at once").refusal)
    assert len(set(refusals[:3])) == 1 and refusals[-1] and refusals[-1] != refusals[0], refusals
    found = clients.with_imaplib(edge.ports, "duarte", PASSWORD)
    assert fits(found, "duarte", EX03_PORTO), f"somebody else: {found}"
    edge.stop()
    return refusals[-1]


# ---- Before TLS ------------------------------------------------------------------------------------------------------

@check("without TLS nobody logs on, and nobody is offered to")
def _(it):
    with bare(it, "imap") as wire:
        shows(f"{wire.greeting}\n" + "\n".join(wire.ask("a CAPABILITY")), "STARTTLS", "LOGINDISABLED", "!AUTH=")
        for command in [f"b LOGIN duarte {PASSWORD}", f"c AUTHENTICATE PLAIN {plain('duarte')}", "d AUTHENTICATE LOGIN"]:
            shows(wire.ask(command)[-1], r"^\w (NO|BAD)")
    with bare(it, "pop3") as wire:
        wire.send("CAPA")
        shows("\n".join(wire.several()), "^STLS$", "!^SASL", "!^USER")
        for command in ["USER duarte", f"AUTH PLAIN {plain('duarte')}", "AUTH LOGIN"]:
            shows(wire.ask(command)[-1], "^-ERR")
    for scheme in ["imap", "pop3"]:
        said = clients.said_by(["curl", "-sv", "-m", "20", "-u", f"duarte:{PASSWORD}", f"{scheme}://127.0.0.1:{it.ports[scheme]}/"])
        shows(said, "LOGINDISABLED|^< STLS", "!You have reached", f"!{PASSWORD}", f"!{plain('duarte')}")


def bare(it, protocol):
    """Before TLS, which could begin by a command."""
    ports = {f"{protocol}-plain": it.ports[protocol]}
    return Wire(ports, protocol, tls=None)


@check("where it is allowed, somebody does")
def _(it):
    for program in [clients.with_imaplib, clients.with_poplib]:
        found = program(it.ports, "duarte", PASSWORD, tls=None)
        assert fits(found, "duarte", EX03_PORTO), found


@check("what comes in clear after STARTTLS and STLS is not done")
def _(it):
    since = it.main.mark()
    imap = ("imap", "a STARTTLS", [f"b LOGIN duarte {PASSWORD}", "c SELECT INBOX"], "d NOOP")
    for protocol, begin, smuggled, ask in [imap, ("pop3", "STLS", ["USER duarte", f"PASS {PASSWORD}"], "NOOP")]:
        with bare(it, protocol) as wire:
            wire.send(begin, *smuggled)
            wire.answer("a")
            wire.begin_tls()
            answer = wire.ask(ask)
            # The first that is said under TLS is the answer to the first that was asked under it.
            shows(answer[0], "^d OK" if protocol == "imap" else "^[+-]")
            wire.socket.settimeout(0.5)
            try:
                more = wire.socket.recv(4096)
            except TimeoutError:
                more = b""
            assert not more, f"more is said: {more}"
            shows(wire.log_on("duarte", PASSWORD), "OK")
    logons = [line for line in it.main.lines(since) if "stage=logon" in line]
    assert len(logons) == 2, logons


# ---- In one go -------------------------------------------------------------------------------------------------------

@check("what a client sends with its logon, without waiting, its server answers")
def _(it):
    for tls in ["start", "at once", None]:
        with Wire(it.ports, "imap", tls) as wire:
            wire.send("n NOOP", f"a LOGIN elsa {PASSWORD}", "b SELECT INBOX", "c FETCH 1 BODY[HEADER.FIELDS (SUBJECT)]",
                      "d LOGOUT")
            said = wire.ends()
            shows(said, "^n OK", "^a OK", "^b OK", "You have reached ex03-lis, elsa", "^c OK", r"^\* BYE", "^d OK")
            order = [said.index(f"\r\n{tag} OK") for tag in "abcd"]
            assert order == sorted(order), said
        with Wire(it.ports, "pop3", tls) as wire:
            wire.send("USER elsa", f"PASS {PASSWORD}", "STAT", "RETR 1", "QUIT")
            said = wire.ends()
            shows(said, "You have reached ex03-lis, elsa", "!^-ERR")
            assert len(re.findall(r"^\+OK", said, re.M)) == 5, said


@check("who is refused in one go with what was to follow has that refused as well, and nothing reaches a server")
def _(it):
    with Wire(it.ports) as wire:
        wire.send(f"a LOGIN bruno {PASSWORD}", "b SELECT INBOX", "c LOGOUT")
        shows(wire.ends(), "^a NO", "^b (NO|BAD)", "^c OK")


@check("the edge offers what it does, and what the servers do, and no more")
def _(it):
    with Wire(it.ports, "imap", "at once") as wire:
        offered = set(" ".join(wire.ask("a CAPABILITY")[:-1]).split()[2:])
        shows(wire.log_on("elsa", PASSWORD), "^l OK")
        really = set(next(line for line in wire.ask("b CAPABILITY") if line.startswith("* CAPABILITY")).split()[2:])
    assert "IMAP4rev1" in offered and "AUTH=PLAIN" in offered, offered
    its_own = {word for word in offered if word.startswith("AUTH=")} | {"SASL-IR"}
    assert offered - its_own <= really, offered - its_own - really
    with Wire(it.ports, "pop3", "at once") as wire:
        wire.send("CAPA")
        offered = {line.split()[0] for line in wire.several()[1:-1]}
        wire.log_on("elsa", PASSWORD)
        wire.send("CAPA")
        really = {line.split()[0] for line in wire.several()[1:-1]}
    its_own = {"USER", "SASL", "RESP-CODES", "AUTH-RESP-CODE"}
    assert its_own <= offered and offered - its_own <= really, (offered, really)
