"""What becomes of each of Contoso's people, by each way in: asked for, looked at, and printed for a human to read."""
import ssl
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import urlencode

from edge import Client
from forest import PASSWORD

OWA, EWS = "/owa/", "/EWS/Exchange.asmx"
LISBON, PORTO, MADRID, EX03_LISBON, EX03_PORTO = "cas-lis-", "cas-opo-", "cas-mad-1", "ex03-lis", "ex03-opo"
EDGE = "-"  # answers itself
HOME_OF_CARLA = "https://mail.madrid.contoso.com/"


def device(user, command="Sync"):
    return f"/Microsoft-Server-ActiveSync?Cmd={command}&User={user}&DeviceId=d&DeviceType=t"


@dataclass
class Row:
    user: str
    path: str
    method: str
    status: int
    server: str  # how its name begins
    shows: str = ""  # is in the answer's body or in its X-MS-Location

    def fits(self, answer):
        shown = answer.body + answer.headers.get("X-MS-Location", "")
        as_whom = EDGE if self.server == EDGE else self.user
        return (answer.status, person(answer.as_whom)) == (self.status, as_whom) and self.shows in shown \
            and answer.server.startswith(self.server)


# "The stand-in organisation" of the design.
BASIC = [
    *(Row(user, path, method, 200, server)
      for user, server in [("ana", LISBON), ("bruno", PORTO)]
      for path, method in [(OWA, "GET"), (EWS, "POST"), (device(user), "POST")]),
    Row("carla", OWA, "GET", 200, EDGE, f"{HOME_OF_CARLA}owa"),
    Row("carla", EWS, "POST", 200, MADRID),
    Row("carla", device("carla"), "POST", 451, EDGE, f"{HOME_OF_CARLA}Microsoft-Server-ActiveSync"),
    *(Row(user, path, method, 200, server)
      for user, server in [("duarte", EX03_PORTO), ("elsa", EX03_LISBON)]
      for path, method in [(f"/exchange/{user}/", "GET"), (device(user), "POST")]),
    *(Row(user, path, method, 403, EDGE, why)
      for user, why in [("filipe", "without a Client Access Server"), ("gil", "Integrated Windows authentication"),
                        ("helena", "no mailbox")]
      for path, method in [(OWA, "GET"), (device(user), "POST")]),
]
FORM = [row for row in BASIC if row.method == "GET"]


def by_basic(edge, row):
    return edge.ask(row.user, row.path, method=row.method)


def by_form(edge, row):
    browser = Browser(edge, row.user)
    try:
        return browser.log_on(row.path)
    finally:
        browser.close()


class Browser(Client):
    """Follows redirects, keeps cookies, and fills in the form when it is shown."""

    def __init__(self, edge, user):
        super().__init__(edge, tls=ssl.create_default_context(cafile=edge.ca))
        self.user, self.cookies = user, {}

    def log_on(self, path, password=PASSWORD):
        """What is answered to somebody who asks for a page, is shown the form, and fills it in."""
        form = Form(self.get(path).body)
        assert form.action, f"{path} leads to no form"
        return self.post(form.action, {**form.hidden, "username": f"CONTOSO\\{self.user}", "password": password})

    def get(self, path):
        return self.follow(self.visit("GET", path))

    def post(self, path, fields):
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.follow(self.visit("POST", path, form, urlencode(fields)))

    def follow(self, answer):
        for _ in range(3):
            if answer.status != 302:
                break
            answer = self.visit("GET", answer.headers["Location"])
        return answer

    def visit(self, method, path, headers=None, body=None):
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"Accept": "text/html", "Cookie": cookies, **(headers or {})}
        answer = self.request(self.user, method, path, headers, body)
        for cookie in answer.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer


class Form(HTMLParser):
    """Where a page's form is sent, and its hidden fields."""

    def __init__(self, page):
        super().__init__()
        self.action, self.hidden = None, {}
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "form":
            self.action = values["action"]
        if tag == "input" and values.get("type") == "hidden":
            self.hidden[values["name"]] = values["value"]


def outcome(edge, by, way, ask, rows):
    """A line for each row, and what is not as it has to be."""
    lines, wrong = [], []
    for row in rows:
        answer = ask(edge, row)
        lines.append(COLUMNS.format(row.user, way, by, row.path.partition("?")[0], answer.status or "-",
                                    "the edge" if answer.server == EDGE else answer.server, answer.as_whom,
                                    row.shows).rstrip())
        if not row.fits(answer):
            wrong.append(f"{answer} as {answer.as_whom}, expected {row}: {answer.body[:300]}")
            lines[-1] += "  <-- wrong"
    return lines, wrong


COLUMNS = "{:8} {:6} {:10} {:29} {:<6} {:11} {:19} {}"
HEADING = COLUMNS.format("user", "way in", "ticket by", "asked for", "status", "answered by", "as whom", "what it says")


def person(user):
    """`ana@CONTOSO.COM` is ana, and so is `CONTOSO\\ana`."""
    return user.partition("@")[0].rpartition("\\")[2].lower()
