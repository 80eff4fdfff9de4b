//! Signing in at real mail servers.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
};

use crate::{
    dovecot::{Dovecot, PASSWORD, Port, Wish},
    harness::DEADLINE,
};

#[test]
fn dovecot_starts_stops_and_starts_again() {
    let mut server = Dovecot::start(Wish { name: "ex03-opo", people: &[("duarte", PASSWORD)], ..Wish::default() });
    for _ in 0..2 {
        server.deliver("duarte", "Subject: moin\n\nmoin\n");
        let stream = TcpStream::connect(server.address(Port::Pop3)).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut lines = BufReader::new(&stream).lines();
        (&stream).write_all(b"USER duarte\r\nPASS Pass-word1\r\nSTAT\r\n").expect("sent");
        let mut said = [(); 4].map(|()| lines.next().expect("a line").expect("read"));
        assert_eq!(said[0], "+OK ex03-opo");
        assert!(said[3].starts_with("+OK "), "{said:?}");
        said[3].truncate(5);
        assert_ne!(said[3], "+OK 0", "{}", server.log());
        server.stop();
        assert!(TcpStream::connect(server.address(Port::Pop3)).is_err());
        server.start_again();
    }
}
