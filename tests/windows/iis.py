"""Second CASs with IIS's semantics: NTLM and Negotiate/NTLM, judged by pyspnego against a file of users.

As IIS does, it takes a new handshake on an authenticated connection, which forgets who was there before; it says
`Persistent-Auth: true` where the connection is authenticated; and its 401 keeps the connection open. Accepts what
gss-ntlmssp refuses: the NTLM of curl and of Chromium.

Usage: iis.py CERTIFICATE KEY LOG SERVER=PORT...      (users: NTLM_USER_FILE)
"""
import base64, hashlib, http.server, itertools, socketserver, ssl, sys, threading

import spnego
from spnego import NegotiateOptions

import ews

_connections = itertools.count(1)
_log_lock = threading.Lock()


class Connection(http.server.BaseHTTPRequestHandler):
    """One client connection, with the user that it authenticated."""
    protocol_version = "HTTP/1.1"
    server_version = "Microsoft-IIS/7.0"
    timeout = 120
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self):
        self.request.do_handshake()
        super().setup()
        self.number, self.user, self.handshake = f"iis-{next(_connections)}", None, None

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self.read_chunks()
        challenges = self.authenticate(self.headers.get("Authorization"))
        status, content, content_type = 401, b"You are not authorized to view this page.", "text/html"
        if self.user:
            status, content, content_type = 200, self.page(), "text/html"
            if self.path.lower().startswith("/ews/") and self.command == "POST":
                content, content_type = ews.answer(body), "text/xml; charset=utf-8"
        self.note(self.command, self.path, status)  # first, so that who has the answer finds the note
        self.send_response(status)
        for challenge in challenges:
            self.send_header("WWW-Authenticate", challenge)
        if self.user:
            self.send_header("Persistent-Auth", "true")
        self.send_header("X-Contoso-Server", self.server.name)
        self.send_header("X-Contoso-User", self.user or "-")
        self.send_header("X-Contoso-Connection", self.number)
        self.send_header("X-Contoso-Body", f"{len(body)} {hashlib.md5(body).hexdigest()}")
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_OPTIONS = do_PUT = do_RPC_IN_DATA = do_RPC_OUT_DATA = answer

    def authenticate(self, credential):
        """Takes one leg of a handshake and returns the `WWW-Authenticate` fields of the answer."""
        offers = ["Negotiate", "NTLM"]
        if not credential:
            return [] if self.user else offers
        scheme, _, token = credential.partition(" ")
        try:
            token = base64.b64decode(token, validate=True)
            if is_first_leg(token) or self.handshake is None:
                self.user, self.handshake = None, new_handshake(token)
            reply = self.handshake.step(token)
        except Exception as error:  # whatever is wrong with a stranger's token, it authenticates nobody
            self.log_error("%s: %s", self.number, error)
            self.user, self.handshake = None, None
            return offers
        reply = base64.b64encode(reply).decode() if reply else ""
        if self.handshake.complete:
            self.user, self.handshake = self.handshake.client_principal, None
            return [f"{scheme} {reply}"] if reply else []
        return [f"{scheme} {reply}"]

    def finish(self):
        super().finish()
        self.note("closed", "-", 0)

    def note(self, method, path, status):
        with _log_lock:
            print(self.server.name, self.number, self.user or "", method, path, status, sep="\t", file=self.server.log,
                  flush=True)

    def page(self):
        """A page with a second request in it, for browsers."""
        script = "" if "second" in self.path else '<script src="/owa/second.js"></script>'
        return f"<title>{self.server.name}</title>{script}<p>{self.user} on {self.number}</p>".encode()

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return body

    def log_request(self, *_):
        pass


def is_first_leg(token):
    """A NEGOTIATE_MESSAGE ([MS-NLMP] 2.2.1.1), bare or in the token that opens SPNEGO (RFC 4178)."""
    return token.startswith(b"NTLMSSP\0\x01") or token.startswith(b"\x60")


def new_handshake(token):
    if token.startswith(b"NTLMSSP\0"):
        return spnego.server(protocol="ntlm", options=NegotiateOptions.use_ntlm)
    return spnego.server(protocol="negotiate", options=NegotiateOptions.use_negotiate)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, name, port, tls, log):
        self.name, self.tls, self.log = name, tls, log
        super().__init__(("127.0.0.1", port), Connection)

    def get_request(self):
        client, address = super().get_request()
        client.settimeout(120)
        return self.tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that left is no error
            super().handle_error(request, client_address)


def main(certificate, key, log, *servers):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    log = open(log, "a", encoding="utf-8")
    for name, port in (server.split("=") for server in servers):
        threading.Thread(target=Server(name, int(port), tls, log).serve_forever).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
