//! Passes bytes on between a client and its server, both ways, until either has gone or neither says anything any more.
