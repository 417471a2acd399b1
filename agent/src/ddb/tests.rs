//! The byte examples of the protocol, and replies that a broken or hostile node could send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const CONNECT_OK: &[u8] = b"606069726 0 1\nOK\n";

fn endpoint() -> Endpoint {
    Endpoint::new("127.0.0.1", 8922)
}

/// A connection whose other end has already been greeted; the other end is returned.
async fn greeted() -> (Connection, DuplexStream) {
    let (ours, mut theirs) = duplex(1 << 20);
    theirs.write_all(CONNECT_OK).await.unwrap();
    let connection = Connection::greet(&endpoint(), Box::new(ours), None).await.unwrap();
    let mut request = vec![0; 32];
    let n = theirs.read(&mut request).await.unwrap();
    assert_eq!(&request[..n], b"API 0 8 / 32_1_4_2\nconnect\n");
    (connection, theirs)
}

/// Answers one call with these bytes and then closes the stream.
async fn answered(reply: &[u8]) -> Result<Value, Error> {
    let (mut connection, mut theirs) = greeted().await;
    let reply = reply.to_vec();
    let server = tokio::spawn(async move {
        let mut request = [0; 1024];
        assert_ne!(theirs.read(&mut request).await.unwrap(), 0);
        // A client that gives up half-way is what some cases want.
        drop(theirs.write_all(&reply).await);
        drop(theirs.shutdown().await);
    });
    let value = connection.script("1+1", &Call::plain(Duration::from_secs(5))).await;
    let good = match &value {
        Ok(_) => true,
        Err(error) => error.is_server(),
    };
    assert_eq!(connection.is_usable(), good, "{value:?}");
    // The other end may still be writing what we no longer read.
    drop(connection);
    server.await.unwrap();
    value
}

/// The object of a reply given in hex.
async fn object(hex: &str) -> Result<Value, Error> {
    let mut reply = b"606069726 1 1\nOK\n".to_vec();
    reply.extend(bytes(hex));
    answered(&reply).await
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.split_ascii_whitespace().map(|b| u8::from_str_radix(b, 16).unwrap()).collect()
}

#[tokio::test]
async fn requests_have_the_documented_bytes() {
    let (mut connection, mut theirs) = greeted().await;
    let server = tokio::spawn(async move {
        let mut seen = Vec::new();
        for reply in [&b"606069726 1 1\nOK\n\x04\0\x02\0\0\0"[..], b"606069726 0 1\nOK\n"] {
            let mut request = [0; 1024];
            let n = theirs.read(&mut request).await.unwrap();
            seen.push(request[..n].to_vec());
            theirs.write_all(reply).await.unwrap();
        }
        seen
    });
    let call = Call::urgent(Duration::from_secs(5));
    assert_eq!(connection.script("1+1", &call).await.unwrap().integer(), Some(2));
    let arguments = [Value::text("admin"), Value::bool(true), Value::int(5)];
    let call = Call::plain(Duration::from_secs(5));
    let nothing = connection.function("login", &arguments, &call).await.unwrap();
    assert_eq!(nothing, Value::Nothing);
    let seen = server.await.unwrap();
    assert_eq!(seen[0], b"API 606069726 10 / 33_1_8_2\nscript\n1+1");
    let mut expected = b"API 606069726 18 / 32_1_4_2\nfunction\nlogin\n3\n1".to_vec();
    expected.extend(bytes("12 00 61 64 6d 69 6e 00 01 00 01 04 00 05 00 00 00"));
    assert_eq!(seen[1], expected);
}

#[tokio::test]
async fn a_table_is_sent_as_the_official_client_sends_it() {
    let mut out = Vec::new();
    let columns = vec![
        ("time".to_owned(), Vector::timestamp(vec![1_795_000_000_000])),
        ("id".to_owned(), Vector::int(vec![1])),
    ];
    encode::value(&mut out, &Value::Table(Table { rows: 1, columns })).unwrap();
    let expected = "00 06 01 00 00 00 02 00 00 00 00 74 69 6d 65 00 69 64 00 \
        0c 01 01 00 00 00 01 00 00 00 00 4e a3 ed a1 01 00 00 04 01 01 00 00 00 01 00 00 00 \
        01 00 00 00";
    let time = 1_795_000_000_000_i64.to_le_bytes();
    let mut expected = bytes(expected);
    expected[29..37].copy_from_slice(&time);
    assert_eq!(out, expected);
    let uneven = Table { rows: 2, columns: vec![("a".to_owned(), Vector::int(vec![1]))] };
    assert!(encode::value(&mut Vec::new(), &Value::Table(uneven)).is_err());
}

#[tokio::test]
async fn scalars_are_read() {
    assert!(object("00 00 00").await.unwrap().is_null());
    assert_eq!(object("01 00 01").await.unwrap().boolean(), Some(true));
    assert!(object("01 00 80").await.unwrap().is_null());
    assert_eq!(object("04 00 02 00 00 00").await.unwrap().integer(), Some(2));
    assert!(object("04 00 00 00 00 80").await.unwrap().is_null());
    let double = object("10 00 00 00 00 00 00 00 f8 3f").await.unwrap();
    assert_eq!(double.scalar().unwrap().number(0), Some(1.5));
    assert_eq!(object("12 00 61 62 00").await.unwrap().word().as_deref(), Some("ab"));
    let time = object("0c 00 7b c8 a0 6a 85 01 00 00").await.unwrap();
    assert_eq!(time.integer(), Some(1_672_531_200_123));
    let uuid = "13 00 0f 0e 0d 0c 0b 0a 09 08 07 06 05 04 03 02 01 00";
    let uuid = object(uuid).await.unwrap();
    assert_eq!(uuid.word().as_deref(), Some("00010203-0405-0607-0809-0a0b0c0d0e0f"));
    let function = object("14 00 01 66 00").await.unwrap();
    assert_eq!(function.word().as_deref(), Some("f"));
    let decimal = object("25 00 02 00 00 00 2c 01 00 00").await.unwrap();
    assert_eq!((decimal.integer(), decimal.scalar().unwrap().scale), (Some(300), 2));
}

#[tokio::test]
async fn every_fixed_size_type_is_read_as_scalar_and_in_a_vector() {
    for code in 0..=60_u8 {
        let Some(kind) = Kind::from_code(code) else { continue };
        if matches!(kind, Kind::Any | Kind::Function) {
            continue;
        }
        let decimal = matches!(kind, Kind::Decimal32 | Kind::Decimal64 | Kind::Decimal128);
        let width = match kind {
            Kind::Void | Kind::Bool | Kind::Char | Kind::Text | Kind::Symbol => 1,
            Kind::Short => 2,
            Kind::Long | Kind::Timestamp | Kind::Nanotime | Kind::Nanotimestamp | Kind::Double => 8,
            Kind::Duration | Kind::Decimal64 => 8,
            Kind::Uuid | Kind::IpAddr | Kind::Int128 | Kind::Complex | Kind::Point => 16,
            Kind::Decimal128 => 16,
            Kind::Int | Kind::Date | Kind::Month | Kind::Time | Kind::Minute | Kind::Second => 4,
            Kind::Datetime | Kind::Float | Kind::DateHour | Kind::Decimal32 | Kind::Blob => 4,
            Kind::Any | Kind::Function => unreachable!("left out above"),
        };
        let mut scalar = vec![code, 0];
        let mut vector = vec![code, 1, 2, 0, 0, 0, 1, 0, 0, 0];
        if decimal {
            scalar.extend([0; 4]);
            vector.extend([0; 4]);
        }
        scalar.extend(vec![0; width]);
        vector.extend(vec![0; 2 * width]);
        for object in [scalar, vector] {
            let mut reply = b"1 1 1\nOK\n".to_vec();
            reply.extend(&object);
            let value = answered(&reply).await.unwrap_or_else(|e| panic!("{kind:?}: {e}"));
            assert!(value.vector().is_some_and(|v| v.kind == kind && !v.is_empty()));
        }
    }
}

#[tokio::test]
async fn vectors_and_tables_are_read() {
    let ints = "04 01 03 00 00 00 01 00 00 00 01 00 00 00 02 00 00 00 00 00 00 80";
    let ints = object(ints).await.unwrap();
    let ints = ints.vector().unwrap();
    assert_eq!((ints.integer(0), ints.integer(1), ints.integer(2)), (Some(1), Some(2), None));
    let texts = object("12 01 02 00 00 00 01 00 00 00 61 00 00").await.unwrap();
    assert_eq!(texts.vector().unwrap().words(), ["a", ""]);
    let symbols = "91 01 03 00 00 00 01 00 00 00 00 00 00 00 03 00 00 00 00 61 00 62 00 01 00 00 \
        00 02 00 00 00 01 00 00 00";
    let symbols = object(symbols).await.unwrap();
    assert_eq!(symbols.vector().unwrap().words(), ["a", "b", "a"]);
    let any = "19 01 02 00 00 00 01 00 00 00 04 00 00 00 00 00 12 00 00";
    let any = object(any).await.unwrap();
    assert_eq!(any.vector().unwrap().integer(0), Some(0));
    let dictionary = "19 05 12 01 01 00 00 00 01 00 00 00 61 00 19 01 01 00 00 00 01 00 00 00 04 \
        00 01 00 00 00";
    let dictionary = object(dictionary).await.unwrap();
    assert_eq!(dictionary.dictionary().unwrap().word("a").as_deref(), Some("1"));
    let table = "00 06 01 00 00 00 02 00 00 00 00 6e 6f 64 65 00 76 61 6c 75 65 00 12 01 01 00 00 \
        00 01 00 00 00 6e 31 00 12 01 01 00 00 00 01 00 00 00 76 00";
    let table = object(table).await.unwrap();
    let table = table.table().unwrap();
    assert_eq!(table.column("node").unwrap().str(0), Some("n1"));
    assert_eq!(table.column("Value").unwrap().str(0), Some("v"));
    let empty = "00 06 00 00 00 00 01 00 00 00 00 61 00 04 01 00 00 00 00 01 00 00 00";
    assert_eq!(object(empty).await.unwrap().table().unwrap().rows, 0);
    let set = object("04 04 04 01 01 00 00 00 01 00 00 00 07 00 00 00").await.unwrap();
    assert_eq!(set.vector().unwrap().integer(0), Some(7));
    let matrix = "04 03 02 12 01 01 00 00 00 01 00 00 00 6e 00 04 03 02 00 00 00 01 00 00 00 01 00 \
        00 00 02 00 00 00";
    let Value::Matrix(matrix) = object(matrix).await.unwrap() else { panic!("no matrix") };
    assert_eq!((matrix.rows, matrix.columns, matrix.vector.integer(1)), (2, 1, Some(2)));
    assert_eq!(matrix.column_labels.unwrap().words(), ["n"]);
    // Two rows: [1, 2] and [3].
    let arrays =
        "44 01 02 00 00 00 03 00 00 00 02 00 01 00 02 01 01 00 00 00 02 00 00 00 03 00 00 00";
    let arrays = object(arrays).await.unwrap();
    let Data::Arrays { lengths, values } = &arrays.vector().unwrap().data else { panic!() };
    assert_eq!((lengths.as_slice(), values.integer(2)), (&[2, 1][..], Some(3)));
}

#[tokio::test]
async fn a_second_column_uses_the_base_of_the_first() {
    let symbols = "00 06 01 00 00 00 02 00 00 00 00 61 00 62 00 \
        91 01 01 00 00 00 01 00 00 00 07 00 00 00 02 00 00 00 00 78 00 01 00 00 00 \
        91 01 01 00 00 00 01 00 00 00 07 00 00 00 00 00 00 00 01 00 00 00";
    let table = object(symbols).await.unwrap();
    assert_eq!(table.table().unwrap().column("b").unwrap().str(0), Some("x"));
}

#[tokio::test]
async fn big_endian_nodes_are_understood() {
    let mut reply = b"1 1 0\nOK\n".to_vec();
    reply.extend(bytes("01 04 00 00 00 01 00 00 00 01 00 00 00 07"));
    assert_eq!(answered(&reply).await.unwrap().vector().unwrap().integer(0), Some(7));
    let mut reply = b"1 1 0\nOK\n".to_vec();
    reply.extend(bytes("00 13 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f"));
    let uuid = answered(&reply).await.unwrap().word();
    assert_eq!(uuid.as_deref(), Some("00010203-0405-0607-0809-0a0b0c0d0e0f"));
}

#[tokio::test]
async fn messages_in_front_are_skipped() {
    let value = answered(b"MSG\nhello\nworld\0MSG\nagain\x00606069726 0 1\nOK\n").await.unwrap();
    assert_eq!(value, Value::Nothing);
}

#[tokio::test]
async fn server_errors_keep_the_connection_and_carry_their_tag() {
    let error =
        answered(b"606069726 0 1\nSyntax Error: [line #1] Cannot recognize the token foo\n")
            .await
            .unwrap_err();
    assert!(error.is_server() && error.is_unknown_function() && error.tag().is_none());
    let error = answered(b"1 0 1\n<NotLeader>10.10.11.2:8920:HActl44\n").await.unwrap_err();
    let leader = Some(Endpoint::new("10.10.11.2", 8920));
    let expected = Tag::NotLeader { leader, alias: Some("HActl44".to_owned()) };
    assert_eq!(error.tag(), Some(&expected));
    let error = answered(b"1 0 1\nrpc(`a, f) => <DataNodeNotAvail>node44\n").await.unwrap_err();
    assert_eq!(error.tag(), Some(&Tag::DataNodeNotAvail));
    let error = answered(b"1 0 1\nLogin is required for script execution with client authentication enabled. RefId: S04009\n").await.unwrap_err();
    assert!(error.is_missing_right() && !error.is_unknown_function());
}

/// Everything here must end in an error, quickly, without a panic and without much memory.
#[tokio::test]
async fn hostile_replies_are_refused() {
    let long_header = [b"1".repeat(5000), b" 1 1\n".to_vec()].concat();
    let long_error = [b"1 0 1\n".to_vec(), b"x".repeat(70_000), b"\n".to_vec()].concat();
    let cases: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"garbage\n".to_vec(),
        b"1 1\nOK\n".to_vec(),
        b"1 1 2\nOK\n".to_vec(),
        b"1 2 1\nOK\n".to_vec(),
        b"1 -1 1\nOK\n".to_vec(),
        b"a/b 1 1\nOK\n\0\0\0".to_vec(),
        long_header,
        long_error,
        b"MSG\nnever ending".to_vec(),
    ];
    for case in cases {
        let error = answered(&case).await.unwrap_err();
        let fine = matches!(error, Error::Protocol { .. } | Error::Io { .. });
        assert!(fine, "{error:?} for {:?}", String::from_utf8_lossy(&case));
    }
    for (hex, words) in [
        // Row counts of 2^31-1 and below zero, of numbers, texts, blobs and bases.
        ("04 01 ff ff ff 7f 01 00 00 00", ""),
        ("04 01 ff ff ff ff 01 00 00 00", "-1 rows"),
        ("12 01 ff ff ff 7f 01 00 00 00", ""),
        ("20 00 ff ff ff 7f", ""),
        ("91 01 01 00 00 00 01 00 00 00 00 00 00 00 ff ff ff 7f", ""),
        ("04 01 ff ff ff 7f ff ff ff 7f", ""),
        // A symbol beyond its base, and a base that was never sent.
        ("91 01 01 00 00 00 01 00 00 00 00 00 00 00 01 00 00 00 00 05 00 00 00", "symbol 5"),
        ("91 01 01 00 00 00 01 00 00 00 09 00 00 00 00 00 00 00 00 00 00 00", "symbol 0"),
        // Unknown type, unknown form, chart, compressed vector, a vector of functions.
        ("3f 00 00", "unknown type 63"),
        ("04 0b 00", "unknown form 11"),
        ("04 07 00", "unknown form 7"),
        ("1a 01 01 00 00 00 01 00 00 00 00", "unknown type 26"),
        ("14 01 01 00 00 00 01 00 00 00 01 66 00", "functions"),
        ("19 00 00", "scalar of type ANY"),
        // Tables: too wide, uneven, a scalar as column.
        ("00 06 01 00 00 00 ff ff ff 7f 00", "columns"),
        (
            "00 06 02 00 00 00 01 00 00 00 00 61 00 04 01 01 00 00 00 01 00 00 00 01 00 00 00",
            "rows",
        ),
        ("00 06 01 00 00 00 01 00 00 00 00 61 00 04 00 01 00 00 00", "form 0"),
        // A dictionary with more keys than values.
        ("19 05 04 01 01 00 00 00 01 00 00 00 01 00 00 00 04 01 00 00 00 00 01 00 00 00", "1 keys"),
        // Array vectors: an empty block, one longer than the rows, too many values, texts.
        ("44 01 02 00 00 00 03 00 00 00 00 00 01 00", "block of 0"),
        ("44 01 02 00 00 00 03 00 00 00 09 00 01 00", "block of 9"),
        ("44 01 01 00 00 00 01 00 00 00 01 00 04 00 ff ff ff ff", "more than 1 values"),
        ("44 01 01 00 00 00 01 00 00 00 01 00 03 00", "counts of 3"),
        ("52 01 01 00 00 00 01 00 00 00 01 00 01 00 01", "type 18"),
    ] {
        let error = object(hex).await.unwrap_err();
        assert!(!error.is_server(), "{hex}");
        assert!(error.to_string().contains(words), "{hex}: {error}");
    }
}

#[tokio::test]
async fn deep_nesting_and_large_replies_are_refused() {
    let mut deep = b"1 1 1\nOK\n".to_vec();
    for _ in 0..50_000 {
        deep.extend(bytes("19 01 01 00 00 00 01 00 00 00"));
    }
    let error = answered(&deep).await.unwrap_err();
    assert!(error.to_string().contains("nested more than 16 deep"), "{error}");

    // 1 MiB of empty strings would be 24 MiB of memory.
    let mut wide = b"1 1 1\nOK\n\x12\x01\0\0\x10\0\x01\0\0\0".to_vec();
    wide.extend(vec![0; 1 << 20]);
    let error = answered(&wide).await.unwrap_err();
    assert!(error.to_string().contains("larger than 16777216 bytes"), "{error}");
    // A text without end.
    let mut endless = b"1 1 1\nOK\n\x12\0".to_vec();
    endless.extend(vec![b'x'; 17 << 20]);
    let error = answered(&endless).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn random_bytes_never_panic() {
    // A linear congruential generator: the same cases each time.
    let mut state = 1_u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for round in 0..3000 {
        let mut reply = b"1 1 1\nOK\n".to_vec();
        // A known form in front makes the rest go deep.
        reply.extend([next() % 48, [1, 3, 4, 5, 6, 0][round % 6]]);
        for _ in 0..(next() % 60) {
            reply.push(if next() % 3 == 0 { next() } else { next() % 4 });
        }
        drop(answered(&reply).await);
    }
}

#[tokio::test]
async fn a_cancelled_call_poisons_the_connection() {
    let (mut connection, mut theirs) = greeted().await;
    {
        let call = Call::plain(Duration::from_secs(60));
        let mut cancelled = Box::pin(connection.script("777", &call));
        // Polled once, so that the request is on its way, and then dropped.
        let polled = tokio::time::timeout(Duration::ZERO, &mut cancelled).await;
        assert!(polled.is_err());
    }
    theirs.write_all(b"1 1 1\nOK\n\x04\0\x09\x03\0\0").await.unwrap();
    let after = connection.script("1+1", &Call::plain(Duration::from_secs(1))).await;
    assert!(matches!(after, Err(Error::Closed { .. })), "{after:?}");
}

#[tokio::test]
async fn a_node_that_never_answers_costs_the_deadline() {
    let (mut connection, _theirs) = greeted().await;
    let error = connection.script("1", &Call::plain(Duration::from_millis(50))).await.unwrap_err();
    assert!(error.to_string().contains("did not answer within 50 ms"), "{error}");
    assert!(error.outcome_unknown() && !connection.is_usable());
}

#[tokio::test]
async fn a_listener_that_never_accepts_costs_the_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The kernel accepts for it; nobody answers.
    let here = Endpoint::new("127.0.0.1", port);
    let error = Connection::open(&here, None, None, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    drop(listener);
    let error = Connection::open(&here, None, None, Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, Error::Io { what: "connect to", .. }), "{error}");
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn logins_are_told_apart_and_passwords_never_show() {
    let login = Login::new("probe", "s3cret");
    for (reply, refused) in [
        (&b"1 0 1\nThe user name or password is incorrect. RefId: S04\n"[..], true),
        (b"1 0 1\nuser probe with s3cret is locked\n", true),
        (b"1 1 1\nOK\n\x01\0\0", true),
        (b"1 0 1\n<ControllerNotReady>The password store is not ready\n", false),
        (b"1 0 1\nThe number of connections exceeds the limit. RefId: S00006\n", false),
    ] {
        let (ours, mut theirs) = duplex(4096);
        theirs.write_all(reply).await.unwrap();
        let opened = Connection::greet(&endpoint(), Box::new(ours), Some(&login)).await;
        let error = opened.unwrap_err();
        assert_eq!(matches!(error, Error::Refused { .. }), refused, "{error:?}");
        for text in [format!("{error} {error:?}"), format!("{login:?}")] {
            assert!(!text.contains("s3cret"), "{text}");
        }
        let mut sent = [0; 256];
        let n = theirs.read(&mut sent).await.unwrap();
        assert_eq!(&sent[..n], b"API 0 32 / 32_1_4_2\nconnect\nlogin\nprobe\ns3cret\nfalse");
    }
    let (ours, _theirs) = duplex(4096);
    let bad = Login::new("probe", "a\nb");
    let error = Connection::greet(&endpoint(), Box::new(ours), Some(&bad)).await.unwrap_err();
    assert!(matches!(error, Error::Request { .. }));
}
