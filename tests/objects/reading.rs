//! How objects are read: parts, retries, refusals.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use omar_stages::codec::{DecodeOptions, Decoder};
use omar_stages::corpus::address::Address;
use omar_stages::corpus::location::Location;
use omar_stages::corpus::objects::{Patience, Problem, StoreError, Stores};

use crate::program::write_wav;
use crate::proxy::{Fault, Proxy};
use crate::server::{KEY, SECRET, Server};

/// Does not wait long.
const HASTY: Patience = Patience {
    attempts: 3,
    pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(20),
    answer: Duration::from_millis(400),
    deadline: Duration::from_secs(20),
};

fn stores(proxy: &Proxy, secret: &str) -> Stores {
    let variables = [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_ENDPOINT", &proxy.endpoint()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
    ];
    Stores::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())), HASTY)
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn read(stores: &Stores, text: &str) -> Result<Vec<u8>, StoreError> {
    let mut reader = stores.open(&address(text))?;
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(reader.fault().error().expect("what failed was the store")),
    }
}

#[test]
fn a_header_costs_little_and_a_file_is_read_once() {
    let server = Server::start(false);
    let proxy = Proxy::before(server.address());
    let path = server.path("long.wav");
    write_wav(&path, 48_000, 60.0, 1);
    let whole = std::fs::read(&path).unwrap();
    let stores = stores(&proxy, SECRET);
    let open = || Location::parse("s3://music/long.wav").unwrap().handle(&stores).unwrap().open().unwrap();
    let mut decoder = Decoder::new(Box::new(open()), Some("wav"), &DecodeOptions::default()).unwrap();
    let mut block = Vec::new();
    assert!(decoder.next_block(&mut block).unwrap());
    drop(decoder);
    let sent: u64 = proxy.requests().iter().map(|request| request.sent).sum();
    assert!(sent * 5 < whole.len() as u64, "{sent} of {} bytes", whole.len());

    let mut bytes = Vec::new();
    let mut content = open();
    content.read_to_end(&mut bytes).unwrap();
    assert!(bytes == whole);
    let requests = proxy.requests();
    let sent: u64 = requests.iter().map(|request| request.sent).sum();
    assert_eq!(sent, whole.len() as u64);
    // 64 KiB to begin with, blocks that grow to 1 MiB, and the rest.
    assert!(requests.len() <= 6 + whole.len() / (1 << 20), "{} requests", requests.len());
    for at in [5_000_000, 17, 2_000_000, 64 << 10, whole.len() as u64 - 3] {
        content.seek(SeekFrom::Start(at)).unwrap();
        let mut some = [0; 3];
        content.read_exact(&mut some).unwrap();
        assert_eq!(some, whole[at as usize..at as usize + 3], "{at}");
    }
    assert_eq!(content.seek(SeekFrom::End(5)).unwrap(), whole.len() as u64 + 5);
    assert_eq!(content.read(&mut [0; 3]).unwrap(), 0);
}

#[test]
fn more_than_a_thousand_keys_come_in_their_order() {
    let server = Server::start(false);
    let proxy = Proxy::before(server.address());
    for file in 0..2100 {
        server.put(&format!("many/{}/{file:04}.wav", file % 3), b"x");
    }
    server.put("many2/other.wav", b"x");
    let mut names = Vec::new();
    let count = stores(&proxy, SECRET).list(&address("s3://music/many"), &mut |name, stat| {
        assert_eq!(stat.len, 1);
        names.push(name.to_owned());
    });
    let mut expected: Vec<String> = (0..2100).map(|file| format!("{}/{file:04}.wav", file % 3)).collect();
    expected.sort();
    assert_eq!((count.unwrap(), names == expected), (2100, true));
    assert_eq!(proxy.requests().len(), 3, "a thousand at a time");
}

#[test]
fn what_passes_is_tried_again() {
    let server = Server::start(false);
    let proxy = Proxy::before(server.address());
    let content = noise(300_000);
    server.put("a.bin", &content);
    let stores = stores(&proxy, SECRET);
    let slow = Fault::Slow(Duration::from_secs(2));
    for fault in [Fault::Status(503), Fault::Status(429), Fault::Status(500), Fault::Reset, Fault::Cut, slow] {
        proxy.fail("a.bin", fault, 2);
        assert!(read(&stores, "s3://music/a.bin").unwrap() == content, "{fault:?}");
    }
    proxy.requests();
    proxy.fail("a.bin", Fault::Status(503), 100);
    let error = read(&stores, "s3://music/a.bin").expect_err("it never ends");
    assert_eq!((error.problem, proxy.requests().len()), (Problem::Unavailable, 3));
    assert!(error.to_string().starts_with("`s3://music/a.bin`: the store answers 503 (asked 3 times in "), "{error}");
}

#[test]
fn what_is_decided_is_not() {
    let server = Server::start(false);
    let proxy = Proxy::before(server.address());
    server.put("a.bin", b"something");
    let message = |secret: &str, text: &str| {
        let error = read(&stores(&proxy, secret), text).expect_err("refused");
        assert_eq!(proxy.requests().len(), 1, "{error}");
        assert!(!format!("{error:?}").contains(secret));
        error.to_string()
    };
    assert_eq!(message(SECRET, "s3://music/b.bin"), "`s3://music/b.bin`: 404 Not Found: there is no such object");
    let denied = message("wrong-secret", "s3://music/a.bin");
    let expected =
        "`s3://music/a.bin`: 403 Forbidden (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_REGION or";
    assert!(denied.starts_with(expected), "{denied}");
    let nowhere = Server::start(false);
    let closed = nowhere.address();
    drop(nowhere);
    let error = stores(&Proxy::before(closed), SECRET).stat(&address("s3://music/a.bin")).expect_err("nobody");
    assert_eq!(error.problem, Problem::Unavailable);
    let error = stores(&proxy, SECRET).list(&address("s3://nowhere/x"), &mut |_, _| {}).expect_err("no bucket");
    assert_eq!(error.to_string(), "`s3://nowhere/x`: 404 Not Found: there is no such bucket");
}

#[test]
fn an_object_that_changes_is_noticed() {
    let server = Server::start(false);
    let proxy = Proxy::before(server.address());
    server.put("a.bin", &noise(1 << 20));
    let stores = stores(&proxy, SECRET);
    let mut reader = stores.open(&address("s3://music/a.bin")).unwrap();
    reader.read_exact(&mut [0; 100]).unwrap();
    server.put("a.bin", &noise((1 << 20) + 1));
    reader.seek(SeekFrom::Start(500_000)).unwrap();
    let error = reader.read(&mut [0; 100]).expect_err("another object");
    assert_eq!(error.to_string(), "`s3://music/a.bin`: the object has changed while it was read");
    assert_eq!(reader.fault().error().map(|error| error.problem), Some(Problem::Changed));
    // Every further read says so, too: nothing of the new object is taken for the old one.
    reader.seek(SeekFrom::Start(0)).unwrap();
    assert!(reader.read(&mut [0; 100]).is_err());
}

#[test]
fn the_web_is_read_by_parts_where_it_can_and_as_a_whole_where_not() {
    let server = Server::start(true);
    let proxy = Proxy::before(server.address());
    let content = noise(3_000_000);
    server.put("a b%.bin", &content);
    server.put("empty.bin", b"");
    let web = format!("{}/music", proxy.endpoint());
    let stores = Stores::new([], HASTY);
    let listed = address(&web).join("a b%.bin").unwrap();
    assert_eq!(stores.stat(&listed).unwrap().len, 3_000_000);
    proxy.requests();
    let mut reader = stores.open(&listed).unwrap();
    reader.read_exact(&mut [0; 100]).unwrap();
    assert!(proxy.requests().iter().map(|request| request.sent).sum::<u64>() < 100_000);
    assert!(read(&stores, &listed.to_string()).unwrap() == content);
    proxy.fail("GET", Fault::NoRanges, 2);
    assert!(read(&stores, &listed.to_string()).unwrap() == content);
    assert!(read(&stores, &format!("{web}/empty.bin")).unwrap().is_empty());
    let error = stores.list(&address(&web), &mut |_, _| {}).expect_err("no listing");
    assert!(error.message.starts_with("the web has no listing"), "{error}");
}
