"""What becomes of those who have logged on: all that they and their servers say passes, until either of them ends."""
import concurrent.futures, random, re, shutil, signal, socket, time

import clients
from check import checks, shows, within
from clients import Wire
from logons import EX03_PORTO, LISBON, fits, plain
from stage import EIGHT_BIT, PASSWORD

CHECKS, check = checks()
BIG = 20_000_000


def select(wire, user):
    """Logs on and selects INBOX; how many messages there are."""
    shows(wire.log_on(user, PASSWORD), "^l OK")
    answer = "\n".join(wire.ask("s SELECT INBOX"))
    shows(answer, "^s OK")
    return int(re.search(r"^\* (\d+) EXISTS", answer, re.M)[1])


def message(subject, body="Hello.\r\n"):
    return f"From: ana@contoso.com\r\nTo: elsa@contoso.com\r\nSubject: {subject}\r\n\r\n{body}"


# ---- What passes -----------------------------------------------------------------------------------------------------

@check("a hundred sessions at once, of several people: each sees its own mailbox, on its own server")
def _(it):
    people = [("ana", LISBON), ("duarte", EX03_PORTO), ("elsa", "ex03-lis")]

    def one(number):
        user, server = people[number % len(people)]
        program = random.Random(number).choice([clients.with_imaplib, clients.with_poplib])
        found = program(it.ports, user, PASSWORD)
        return None if fits(found, user, server) else f"{user} by {program.__name__}: {found}"

    with concurrent.futures.ThreadPoolExecutor(25) as several:
        wrong = [found for found in several.map(one, range(100)) if found]
    assert not wrong, wrong


@check("who waits for mail (IDLE) is told at once when some comes")
def _(it):
    for tls in ["start", "at once", None]:
        with Wire(it.ports, "imap", tls) as wire:
            number = select(wire, "duarte")
            shows(wire.ask("i IDLE", "+")[-1], r"^\+")
            began = time.monotonic()
            it.servers["ex03-opo"].deliver("duarte", message("While you wait"))
            while not re.match(rf"\* {number + 1} EXISTS", wire.line()):
                pass
            assert time.monotonic() - began < 10
            wire.send("DONE")
            shows(wire.answer("i")[-1], "^i OK")
            shows("\n".join(wire.ask(f"f FETCH {number + 1} BODY[HEADER.FIELDS (SUBJECT)]")), "Subject: While you wait", "^f OK")


def big():
    """Of all bytes that a message may have: lines of text in the letters of 8-bit mail."""
    lines = random.Random(7).randbytes(BIG).translate(bytes.maketrans(b"\0\r\n", b"abc"))
    return message("Big").encode() + b"".join(lines[at:at + 120] + b"\r\n" for at in range(0, len(lines), 120))


@check("a message of 20 MB goes up by APPEND and comes down by FETCH and by RETR, not a byte other")
def _(it):
    whole = big()
    with clients.imap(it.ports) as client:
        client.login("elsa", PASSWORD)
        client.create("Big")
        began = time.monotonic()
        said = client.append("Big", None, None, whole)
        up = time.monotonic() - began
        assert said[0] == "OK", said
        client.select("Big")
        began = time.monotonic()
        fetched = client.fetch("1", "(BODY.PEEK[])")[1][0][1]
        down = time.monotonic() - began
        assert fetched == whole, f"{len(fetched)} of {len(whole)} bytes"
        client.copy("1", "INBOX")
        client.logout()
    with clients.pop(it.ports, "at once") as client:
        client.user("elsa")
        client.pass_(PASSWORD)
        client.utf8 = False
        number = client.stat()[0]
        fetched = b"\r\n".join(client.retr(number)[1]) + b"\r\n"
        assert fetched == whole, f"{len(fetched)} of {len(whole)} bytes by POP3"
        client.dele(number)
        client.quit()
    return f"{len(whole) / up / 1e6:.0f} MB/s up, {len(whole) / down / 1e6:.0f} MB/s down"


@check("mbsync keeps five hundred messages in step, both ways")
def _(it):
    server, directory = it.servers["ex03-opo"], it.directory / "mbsync"
    directory.mkdir()
    for number in range(500):
        server.deliver("duarte", message(f"Number {number}", f"{'x' * number}\r\n"))
    for tls, by in [("STARTTLS", "LOGIN"), ("IMAPS", "PLAIN")]:
        shutil.rmtree(directory)
        directory.mkdir()
        said = clients.mbsync(it.ports, "duarte", PASSWORD, directory, it.directory / "edge.pem", tls, by)
        texts = [file.read_text() for file in directory.glob("INBOX/*/*") if file.is_file()]
        numbers = sorted(int(found[1]) for text in texts if (found := re.search("^Subject: Number ([0-9]+)$", text, re.M)))
        assert numbers == list(range(500)), f"{len(numbers)} by {tls} and {by}:\n{said[-2000:]}"
    (directory / "INBOX/new/1.mine").write_text(message("From here").replace("\r\n", "\n"))
    clients.mbsync(it.ports, "duarte", PASSWORD, directory, it.directory / "edge.pem")
    with clients.imap(it.ports) as client:
        client.login("duarte", PASSWORD)
        client.select()
        assert client.search(None, "SUBJECT", '"From here"')[1] != [b""]


# ---- How it ends -----------------------------------------------------------------------------------------------------

@check("who asks and then says no more (half-close) still gets the whole answer")
def _(it):
    with Wire(it.ports, "imap", tls=None) as wire:
        select(wire, "elsa")
        wire.send("f FETCH 1 BODY[]", "o LOGOUT")
        wire.socket.shutdown(socket.SHUT_WR)
        shows(wire.ends(), "You have reached ex03-lis, elsa", "^f OK", "^o OK")
    with Wire(it.ports, "pop3", tls=None) as wire:
        shows(wire.log_on("elsa", PASSWORD), r"^\+OK")
        wire.send("RETR 1", "QUIT")
        wire.socket.shutdown(socket.SHUT_WR)
        shows(wire.ends(), "You have reached ex03-lis, elsa", r"^\+OK Logging out")


def sessions_of(server):
    """How many Dovecot has."""
    return len(server.doveadm("who", "-1").splitlines()) - 1


@check("a client that vanishes leaves no session at its server")
def _(it):
    server = it.servers["ex03-opo"]
    within(10, lambda: sessions_of(server) == 0, "nobody is left of earlier checks")
    wires = [Wire(it.ports, "imap", tls) for tls in ["start", "at once", None]]
    for wire in wires:
        select(wire, "duarte")
    assert sessions_of(server) == 3, server.doveadm("who", "-1")
    for wire in wires:
        wire.socket.close()
    within(10, lambda: sessions_of(server) == 0, "its sessions end")


@check("a server that stops ends its sessions; logons are put off, not refused, and served when it is back")
def _(it):
    server = it.servers["ex03-lis"]
    with Wire(it.ports) as wire:
        select(wire, "elsa")
        server.stop()
        wire.ends(10)
    try:
        for found, words in [(clients.with_imaplib(it.ports, "elsa", PASSWORD), "^.?UNAVAILABLE"),
                             (clients.with_poplib(it.ports, "elsa", PASSWORD), "^.?SYS/TEMP")]:
            shows(found.refusal, words, "!authentication", "!ex03")
        shows(clients.with_imaplib(it.ports, "elsa", "Wrong-word1").refusal, "AUTHENTICATIONFAILED")
    finally:
        server.start()
    found = []
    within(60, lambda: found.append(clients.with_imaplib(it.ports, "elsa", PASSWORD)) or found[-1].server, f"she is served: {found[-1:]}")
    found = clients.with_poplib(it.ports, "elsa", PASSWORD)
    assert fits(found, "elsa", "ex03-lis"), found


@check("where one server of the pool stops, the other takes its people, and both when they are back")
def _(it):
    pool = [it.servers["cas-lis-1"], it.servers["cas-lis-2"]]
    for stopped, other in [pool, pool[::-1]]:
        stopped.stop()
        try:
            for program in [clients.with_imaplib, clients.with_poplib] * 2:
                found = program(it.ports, "ana", PASSWORD)
                assert fits(found, "ana", other.name), f"{stopped.name} is stopped: {found}"
        finally:
            stopped.start()
        within(60, lambda: clients.with_imaplib(it.ports, "ana", PASSWORD).server, "she is served")
    for server in pool:
        server.stop()
    try:
        shows(clients.with_imaplib(it.ports, "ana", PASSWORD).refusal, "^.?UNAVAILABLE")
    finally:
        for server in pool:
            server.start()
    within(60, lambda: clients.with_imaplib(it.ports, "ana", PASSWORD).server, "she is served again")


# ---- The edge itself -------------------------------------------------------------------------------------------------

def fetches(wire):
    shows("\n".join(wire.ask("f FETCH 1 BODY[]")), "You have reached", "^f OK")


@check("a reload (SIGHUP) leaves sessions alone, and those who have not logged on")
def _(it):
    since = it.main.mark()
    with Wire(it.ports) as inside, Wire(it.ports) as outside:
        select(inside, "duarte")
        it.main.signal(signal.SIGHUP)
        within(15, lambda: it.main.events("FC160", since), "the configuration comes into force")
        fetches(inside)
        select(outside, "elsa")
        fetches(outside)
    assert clients.with_imaplib(it.ports, "ana", PASSWORD).server


@check("an upgrade leaves sessions with the old process, which ends when they have")
def _(it):
    edge = it.edge("upgraded")
    old = edge.pid()
    with Wire(edge.ports) as inside, Wire(edge.ports, "pop3") as reading, Wire(edge.ports) as waiting:
        select(inside, "duarte")
        number = select(waiting, "elsa")
        shows(waiting.ask("i IDLE", "+")[-1], r"^\+")
        shows(reading.log_on("duarte", PASSWORD), r"^\+OK")
        edge.upgrade()
        assert edge.pid() != old
        fetches(inside)
        reading.send("RETR 1")
        shows("\n".join(reading.several()), "You have reached")
        for program in [clients.with_imaplib, clients.with_poplib]:
            assert fits(program(edge.ports, "ana", PASSWORD), "ana", LISBON)
        it.servers["ex03-lis"].deliver("elsa", message("After the upgrade"))
        while not re.match(rf"\* {number + 1} EXISTS", waiting.line()):
            pass
        assert edge.process.poll() is None, "the old process has ended"
        for wire in [inside, waiting]:
            wire.send("DONE" if wire is waiting else "n NOOP", "o LOGOUT")
            shows(wire.ends(), "^o OK")
        shows(reading.ask("QUIT")[0], r"^\+OK")
    within(75, lambda: edge.process.poll() is not None, "the old process ends")  # after a minute at the soonest
    edge.stop()


@check("SIGTERM ends sessions that say nothing, and lets a message that is on its way arrive whole")
def _(it):
    edge = it.edge("drained")
    with clients.imap(edge.ports) as client:
        client.login("duarte", PASSWORD)
        client.create("Big")
        whole = big()
        client.append("Big", None, None, whole)
        client.logout()
    with Wire(edge.ports, tls=None) as busy, Wire(edge.ports, tls=None) as idle, Wire(edge.ports) as waiting, \
            Wire(edge.ports, "pop3") as early:
        shows(busy.log_on("duarte", PASSWORD), "^l OK")
        shows(busy.ask("s SELECT Big")[-1], "^s OK")
        select(idle, "elsa")
        select(waiting, "elsa")
        shows(waiting.ask("i IDLE", "+")[-1], r"^\+")
        busy.send("f FETCH 1 BODY.PEEK[]")
        size = int(re.search(r"\{(\d+)\}", busy.line())[1])
        edge.signal(signal.SIGTERM)
        for wire in [idle, waiting, early]:
            wire.ends(10)
        received = busy.buffer
        while len(received) < size:
            more = busy.socket.recv(1 << 20)
            assert more, f"{len(received)} of {size} bytes, then the end"
            received += more
            time.sleep(0.005)  # a client that is no faster than its line
        assert received[:size] == whole
    within(35, lambda: edge.process.poll() is not None, "the edge ends")
    edge.stop()
    assert edge.process.returncode == 0 and not edge.events("FC166"), edge.log()[-2000:]


# ---- What is told ----------------------------------------------------------------------------------------------------

@check("no alarm is raised about servers that no client is sent to by these protocols")
def _(it):
    alarms = [alarm for edge in it.edges for alarm in edge.events("FC110") if "cas-lis-" not in alarm and "ex03-" not in alarm]
    assert not alarms, alarms


@check("the access log has a line for each logon, with where it led or why not, and one for each session's end")
def _(it):
    since = it.main.mark()
    clients.with_imaplib(it.ports, "duarte", PASSWORD)
    clients.with_poplib(it.ports, "bruno", PASSWORD)
    clients.with_imaplib(it.ports, "igor", PASSWORD)
    with Wire(it.ports, "pop3") as wire:
        for password in ["Wrong-word1", PASSWORD]:
            wire.log_on("duarte", password)
        shows(wire.ask("QUIT")[0], r"^\+OK")

    def sessions():
        """The lines of each, by its number, but of those that were there before."""
        found = {}
        for line in it.main.lines(since):
            line = dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line))
            found.setdefault(line["request"], []).append(line)
        return [lines for lines in found.values() if lines[0]["stage"] == "logon" or lines[0]["ended"] == "goodbye"]

    def have_ended(count):
        return len(sessions()) >= count and all(lines[-1]["stage"] == "end" for lines in sessions())

    within(10, lambda: have_ended(4), "four sessions end")
    with Wire(it.ports) as wire:  # what was told twice is told before this
        shows(wire.ask("o LOGOUT")[-1], "^o OK")
    within(10, lambda: have_ended(5), "the fifth ends")
    told = sorted([[line[key] for key in ["stage", "protocol", "user", "cas", "denial"]] for line in lines] for lines in sessions())
    print("\n".join(["", *(f"    {' '.join(line)}" for lines in told for line in lines), ""]))

    def session(protocol, user, *logons):
        return [*(["logon", protocol, user, *logon] for logon in logons), ["end", protocol, user, *logons[-1]]]

    assert told == sorted([
        session("imap4", "duarte", ["ex03-opo", "-"]),
        session("pop3", "bruno", ["-", "other-server"]),
        session("imap4", "igor", ["ex03-lis", "server-refused"]),
        session("pop3", "duarte", ["-", "wrong-password"], ["ex03-opo", "-"]),
        [["end", "imap4", "-", "-", "-"]],
    ])


@check("no password is in any log, raw or in base64, and nothing has panicked")
def _(it):
    secrets = {PASSWORD, "Wrong-word1", EIGHT_BIT}
    everybody = ["ana", "bruno", "carla", "duarte", "elsa", "filipe", "gil", "helena", "julia", "igor", "kim"]
    secrets |= {plain(user, secret)[at:] for user in everybody for secret in list(secrets) for at in [0, 8]}
    logs = [log for edge in it.edges for log in [edge.log_file]]
    assert logs
    for log in logs:
        text = log.read_text(errors="replace")
        found = [secret for secret in secrets if secret in text]
        assert not found, f"{found} in {log}"
        shows(text, "!panicked")
