"""What becomes of each of Contoso's people, by each way in: asked for, looked at, and printed for a human to read."""
import ssl
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import quote, urlencode

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
    return Browser(edge, row.user).log_on(row.path)


def outcome(edge, by, way, ask, rows):
    """A line for each row, and what is not as it has to be."""
    lines, wrong = [], []
    for row in rows:
        answer = ask(edge, row)
        as_whom = row.user if row.server != EDGE else EDGE
        shown = answer.body + answer.headers.get("X-MS-Location", "")
        if (answer.status, person(answer.as_whom)) != (row.status, as_whom) or not answer.server.startswith(row.server) \
                or row.shows not in shown:
            wrong.append(f"{row.method} {row.path} by {way}: {answer} as {answer.as_whom}; expected {row}; {shown[:300]!r}")
        server = answer.server if answer.server != EDGE else "the edge"
        path = row.path.partition("?")[0]
        lines.append(f"{row.user:8} {way:6} {by:11} {path:28} {answer.status or '-':<7} {server:10} {answer.as_whom:19} "
                     f"{row.shows}".rstrip() + ("" if not wrong or not wrong[-1].startswith(f"{row.method} {row.path} ")
                                                else "   <-- wrong"))
    return lines, wrong


HEADING = (f"{'user':8} {'way in':6} {'ticket by':11} {'asked for':28} {'status':7} {'answered by':10} {'as whom':19} "
           "what it says")


def person(user):
    """`ana@CONTOSO.COM` is ana."""
    return user.partition("@")[0].lower()
