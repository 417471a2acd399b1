//! The byte examples of real dialogues, both ways, and hostile input.

use proptest::prelude::*;

use super::*;
use crate::value::{Cell, Decimal, Function, Matrix, Scalar, Table, Type, Value, Vector};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn decoded(bytes: &[u8]) -> Value {
    let (value, rest) = decode(bytes, true, &Limits::default()).expect("bytes of a value");
    assert!(rest.is_empty(), "{rest:?} left over");
    value
}

/// The examples of captured traffic: hex, value.
fn examples() -> Vec<(&'static str, Value)> {
    let id: [u8; 16] = std::array::from_fn(|place| u8::try_from(place).expect("below 16"));
    let one_int = Table::empty([("a", Type::Int)]);
    vec![
        ("00 00 00", Value::Nothing),
        ("00 00 01", Value::null()),
        ("01 00 01", Value::bool(true)),
        ("01 00 80", Value::scalar(Type::Bool, Cell::Null)),
        ("04 00 02 00 00 00", Value::int(2)),
        ("04 00 00 00 00 80", Value::scalar(Type::Int, Cell::Null)),
        ("10 00 00 00 00 00 00 00 f8 3f", Value::double(1.5)),
        ("12 00 61 62 00", Value::string("ab")),
        ("0c 00 7b c8 a0 6a 85 01 00 00", Value::timestamp(1_672_531_200_123)),
        ("13 00 0f 0e 0d 0c 0b 0a 09 08 07 06 05 04 03 02 01 00", Value::uuid(id)),
        (
            "04 01 03 00 00 00 01 00 00 00 01 00 00 00 02 00 00 00 00 00 00 80",
            Vector::new(Type::Int, vec![Cell::Int(1), Cell::Int(2), Cell::Null]).into(),
        ),
        ("12 01 02 00 00 00 01 00 00 00 61 00 00", Vector::strings(["a", ""]).into()),
        (
            "91 01 03 00 00 00 01 00 00 00 00 00 00 00 03 00 00 00 00 61 00 62 00 \
             01 00 00 00 02 00 00 00 01 00 00 00",
            Vector::symbols(["a", "b", "a"]).into(),
        ),
        (
            "19 01 02 00 00 00 01 00 00 00 04 00 00 00 00 00 12 00 00",
            Value::any([Value::int(0), Value::string("")]),
        ),
        (
            "19 05 12 01 01 00 00 00 01 00 00 00 61 00 19 01 01 00 00 00 01 00 00 00 \
             04 00 01 00 00 00",
            Value::dictionary([("a", Value::int(1))]),
        ),
        (
            "00 06 01 00 00 00 02 00 00 00 00 6e 6f 64 65 00 76 61 6c 75 65 00 \
             12 01 01 00 00 00 01 00 00 00 6e 31 00 12 01 01 00 00 00 01 00 00 00 76 00",
            Value::table([("node", Vector::strings(["n1"])), ("value", Vector::strings(["v"]))])
                .expect("even"),
        ),
        (
            "00 06 00 00 00 00 01 00 00 00 00 61 00 04 01 00 00 00 00 01 00 00 00",
            Value::Table(one_int),
        ),
    ]
}

#[test]
fn captured_bytes_are_written() {
    for (hex, value) in examples() {
        assert_eq!(encode(&value, Reader::Client).unwrap(), bytes(hex), "{value:?}");
    }
}

#[test]
fn captured_bytes_are_read() {
    for (hex, value) in examples() {
        assert_eq!(decoded(&bytes(hex)), value, "{hex}");
    }
}

#[test]
fn the_appenders_table_is_read() {
    let hex = "00 06 01 00 00 00 03 00 00 00 00 74 69 6d 65 00 6e 61 6d 65 00 69 64 00 \
               0c 01 01 00 00 00 01 00 00 00 e8 2b c1 03 a2 01 00 00 \
               91 01 01 00 00 00 01 00 00 00 00 00 00 00 02 00 00 00 00 41 6d 61 7a 6f 6e 00 \
               01 00 00 00 04 01 01 00 00 00 01 00 00 00 01 00 00 00";
    let table = decoded(&bytes(hex));
    let table = table.as_table().unwrap();
    assert_eq!(table.cell(0, "name").and_then(Cell::as_str), Some("Amazon"));
    assert_eq!(table.cell(0, "id").and_then(Cell::as_i64), Some(1));
    assert_eq!(table.column("time").map(|column| column.ty), Some(Type::Timestamp));
}

/// Every type there is, as a scalar with a value, as a null, and as a vector.
#[test]
fn every_type_survives_a_round_trip() {
    let decimal = |units| Cell::Decimal(Box::new(Decimal { scale: 2, units }));
    let cases = [
        (Type::Bool, Cell::Int(1)),
        (Type::Char, Cell::Int(-7)),
        (Type::Short, Cell::Int(-300)),
        (Type::Int, Cell::Int(70_000)),
        (Type::Long, Cell::Int(1 << 40)),
        (Type::Date, Cell::Int(19_358)),
        (Type::Month, Cell::Int(24_276)),
        (Type::Time, Cell::Int(5)),
        (Type::Minute, Cell::Int(5)),
        (Type::Second, Cell::Int(5)),
        (Type::DateTime, Cell::Int(1_700_000_000)),
        (Type::Timestamp, Cell::Int(1_700_000_000_000)),
        (Type::NanoTime, Cell::Int(1)),
        (Type::NanoTimestamp, Cell::Int(1_700_000_000_000_000_000)),
        (Type::Float, Cell::Real(1.5)),
        (Type::Double, Cell::Real(-2.25)),
        (Type::Symbol, Cell::text("s")),
        (Type::String, Cell::text("海豚")),
        (Type::Uuid, Cell::Bytes(vec![7; 16])),
        (Type::DateHour, Cell::Int(400_000)),
        (Type::IpAddr, Cell::Bytes((0..16).collect())),
        (Type::Int128, Cell::Bytes((1..17).collect())),
        (Type::Blob, Cell::Bytes(vec![0, 1, 2])),
        (Type::Complex, Cell::Bytes([1.0f64.to_le_bytes(), 2.0f64.to_le_bytes()].concat())),
        (Type::Point, Cell::Bytes([0.5f64.to_le_bytes(), 0.0f64.to_le_bytes()].concat())),
        (Type::Duration, Cell::Bytes(vec![3, 0, 0, 0, 2, 0, 0, 0])),
        (Type::Decimal32, decimal(-1234)),
        (Type::Decimal64, decimal(1 << 40)),
        (Type::Decimal128, decimal(1 << 100)),
    ];
    for (ty, cell) in cases {
        let null = if ty.is_text() { Cell::text("") } else { Cell::Null };
        let scalar = Value::scalar(ty, cell.clone());
        assert_eq!(decoded(&encode(&scalar, Reader::Client).unwrap()), scalar);
        let nothing = Value::Scalar(Scalar::new(ty, null.clone()));
        assert_eq!(decoded(&encode(&nothing, Reader::Client).unwrap()), nothing);
        let vector = Value::Vector(Vector::new(ty, vec![cell.clone(), null, cell]));
        assert_eq!(decoded(&encode(&vector, Reader::Client).unwrap()), vector);
        let set = Value::Set(vector.to_vector().unwrap());
        assert_eq!(decoded(&encode(&set, Reader::Client).unwrap()), set);
    }
}

#[test]
fn matrices_and_pairs_survive_a_round_trip() {
    let matrix = Value::Matrix(Matrix {
        row_labels: None,
        column_labels: Some(Vector::strings(["a", "b"])),
        rows: 1,
        columns: 2,
        cells: Vector::ints([1, 2]),
    });
    assert_eq!(decoded(&encode(&matrix, Reader::Client).unwrap()), matrix);
    let pair = Value::Pair(Vector::ints([1, 0]));
    assert_eq!(decoded(&encode(&pair, Reader::Client).unwrap()), pair);
}

#[test]
fn nodes_exchange_functions_with_their_arguments() {
    let inner = Function::named("getConfig").bind(vec![None, Some(Value::string("x"))]);
    let outer = Value::Function(
        Function::defined("f", "def f(a){ return a }").bind(vec![Some(Value::Function(inner))]),
    );
    assert_eq!(decoded(&encode(&outer, Reader::Node).unwrap()), outer);
    // A client gets the definition as text.
    let Value::Function(seen) = decoded(&encode(&outer, Reader::Client).unwrap()) else {
        panic!("not a function");
    };
    assert_eq!(seen.name, "def f(a){ return a }");
}

#[test]
fn a_second_column_may_reuse_a_symbol_base() {
    let hex = "00 06 01 00 00 00 02 00 00 00 00 61 00 62 00 \
               91 01 01 00 00 00 01 00 00 00 05 00 00 00 02 00 00 00 00 78 00 01 00 00 00 \
               91 01 01 00 00 00 01 00 00 00 05 00 00 00 00 00 00 00 01 00 00 00";
    let table = decoded(&bytes(hex));
    assert_eq!(table.as_table().unwrap().cell(0, "b").and_then(Cell::as_str), Some("x"));
}

#[test]
fn big_endian_objects_are_read() {
    let read = |hex: &str| decode(&bytes(hex), false, &Limits::default()).unwrap().0;
    assert_eq!(read("00 04 00 00 00 02"), Value::int(2));
    assert_eq!(read("00 10 3f f8 00 00 00 00 00 00"), Value::double(1.5));
    assert_eq!(read("01 12 00 00 00 01 00 00 00 01 61 00"), Vector::strings(["a"]).into());
    let id: [u8; 16] = std::array::from_fn(|place| u8::try_from(place).unwrap());
    assert_eq!(read("00 13 000102030405060708090a0b0c0d0e0f"), Value::uuid(id));
}

async fn request(bytes: &[u8]) -> Result<Option<Request>, Error> {
    let mut reader = bytes;
    let read = Request::read(&mut reader, &Limits::default()).await?;
    assert!(reader.is_empty(), "bytes left over");
    Ok(read)
}

#[tokio::test]
async fn captured_requests_are_read() {
    let connect = request(b"API 0 32 / 32_1_4_2\nconnect\nlogin\nadmin\n123456\nfalse").await;
    let connect = connect.unwrap().unwrap();
    assert!(!connect.api2);
    assert_eq!(connect.priority, Some(4));
    let Body::Connect { login: Some(login) } = &connect.body else { panic!("{connect:?}") };
    assert_eq!((login.user.as_str(), login.password.as_str()), ("admin", "123456"));
    assert!(!format!("{connect:?}").contains("123456"), "a password in Debug");

    let script = request(b"API2 606069726 10 / 32_1_4_64__0\nscript\n1+1").await.unwrap().unwrap();
    assert_eq!(script.body, Body::Script("1+1".to_owned()));
    assert!(script.api2 && script.session == "606069726");

    let mut call = b"API2 606069726 18 / 32_1_4_64__0\nfunction\nlogin\n3\n1".to_vec();
    call.extend(bytes("12 00 61646d696e00 12 00 31323334353600 01 00 00"));
    let call = request(&call).await.unwrap().unwrap();
    let args = vec![Value::string("admin"), Value::string("123456"), Value::bool(false)];
    assert_eq!(call.body, Body::Function { name: "login".to_owned(), args });

    let mut upload = b"API2 606069726 14\nvariable\nx\n1\n1".to_vec();
    upload.extend(bytes("05 00 05 00 00 00 00 00 00 00"));
    let upload = request(&upload).await.unwrap().unwrap();
    let (names, values) = (vec!["x".to_owned()], vec![Value::long(5)]);
    assert_eq!(upload.body, Body::Variable { names, values });
}

#[tokio::test]
async fn trailing_line_feeds_and_big_endian_arguments_are_taken() {
    let mut call = b"API 7 16 / 0_1_4_64\nfunction\nf\n1\n0\n".to_vec();
    call[6..8].copy_from_slice(b"15");
    call.extend(bytes("00 04 00 00 00 02"));
    let call = request(&call).await.unwrap().unwrap();
    assert_eq!(call.body, Body::Function { name: "f".to_owned(), args: vec![Value::int(2)] });
}

#[tokio::test]
async fn a_request_sent_again_shows_its_client_and_number() {
    let head = b"API2 5 8 / 32_1_4_64__0__04dfe5ac-ba0c-d6a9-0747-f30802e9a3a4_-12\nscript\n1";
    let again = request(head).await.unwrap().unwrap();
    assert_eq!(again.client_id.as_deref(), Some("04dfe5ac-ba0c-d6a9-0747-f30802e9a3a4"));
    assert_eq!(again.seq_no, Some(-12));
}

#[tokio::test]
async fn only_asynchronous_requests_want_no_reply_and_connect_always_does() {
    let wants = async |bytes: &[u8]| request(bytes).await.unwrap().unwrap().wants_reply();
    assert!(wants(b"API2 5 8 / 32_1_4_64\nscript\n1").await);
    assert!(!wants(b"API2 5 8 / 36_1_4_64\nscript\n1").await);
    assert!(wants(b"API 0 8 / 36_1_4_64\nconnect\n").await);
}

#[tokio::test]
async fn requests_of_nodes_are_read_by_nodes() {
    let function = Value::Function(Function::named("f").bind(vec![Some(Value::int(1))]));
    let body = Body::Function { name: "apply".to_owned(), args: vec![function] };
    let mut sent = Request::plain("9", body);
    sent.client_id = Some("c".to_owned());
    sent.seq_no = Some(-3);
    let read = request(&sent.encode().unwrap()).await.unwrap().unwrap();
    assert_eq!(read.body, sent.body);
    assert_eq!((read.client_id.as_deref(), read.seq_no), (Some("c"), Some(-3)));
}

#[tokio::test]
async fn bad_requests_are_refused() {
    assert!(request(b"").await.unwrap().is_none());
    for bad in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"API\n",
        b"API 0 x\n",
        b"API 0 -1\n",
        b"API 0 9999999999\n",
        b"API  0 1\n1",
        b"API 0 8 / x_1\nscript\n1",
        b"API 0 4\nnope",
        b"API 0 14\nfunction\nf\n1\n2",
        b"API 0 19\nfunction\nf\n999999\n1",
        b"API 0 14\nconnect\nlogin\n",
        b"API 0 5\nscr",
    ] {
        assert!(request(bad).await.is_err(), "{}", String::from_utf8_lossy(bad));
    }
    let endless = vec![b'A'; 5000];
    assert!(matches!(request(&endless).await, Err(Error::Limit { what: "line", .. })));
    let secret = request(b"API 0 15\nconnect\nhunter2").await.unwrap_err().to_string();
    assert!(!secret.contains("hunter2"), "{secret}");
}

#[tokio::test]
async fn replies_are_written_as_captured_and_read_back() {
    let reply = |outcome, messages: &[String]| encode_reply("606069726", &outcome, messages);
    let two = reply(Ok(Some(Value::int(2))), &[]);
    assert_eq!(two, [&b"606069726 1 1\nOK\n"[..], &[4, 0, 2, 0, 0, 0]].concat());
    assert_eq!(reply(Ok(None), &[]), b"606069726 0 1\nOK\n");
    let error = "Syntax Error: [line #1] Cannot recognize the token foo";
    let failed = reply(Err(format!("{error}\nbar")), &[]);
    assert_eq!(failed, format!("606069726 0 1\n{error} bar\n").into_bytes());
    let hello = reply(Ok(None), &["hello".to_owned()]);
    assert_eq!(hello, b"MSG\nhello\x00606069726 0 1\nOK\n");
    assert!(reply(Err("OK".to_owned()), &[]).ends_with(b"unknown error OK\n"));

    for (bytes, outcome) in [(&two, Ok(Some(Value::int(2)))), (&hello, Ok(None))] {
        let mut reader = bytes.as_slice();
        let read = Reply::read(&mut reader, &Limits::default()).await.unwrap();
        assert_eq!((read.session.as_str(), read.outcome), ("606069726", outcome));
    }
    let mut reader = failed.as_slice();
    let read = Reply::read(&mut reader, &Limits::default()).await.unwrap();
    assert_eq!(read.outcome, Err(format!("{error} bar")));
    assert!(Reply::read(&mut &two[..8], &Limits::default()).await.is_err());
}

#[test]
fn hostile_lengths_end_the_request_and_not_the_process() {
    let max = "ff ff ff 7f";
    for hex in [
        // An INT, a STRING and an ANY vector of 2^31-1 rows.
        format!("04 01 {max} 01 00 00 00"),
        format!("12 01 {max} 01 00 00 00"),
        format!("19 01 {max} 01 00 00 00"),
        // A symbol base of 2^31-1 texts; a symbol outside its base; a base nobody sent.
        format!("91 01 01 00 00 00 01 00 00 00 00 00 00 00 {max}"),
        "91 01 01 00 00 00 01 00 00 00 00 00 00 00 01 00 00 00 00 07 00 00 00".to_owned(),
        "91 01 01 00 00 00 01 00 00 00 09 00 00 00 00 00 00 00 01 00 00 00".to_owned(),
        // Blobs of 2^31-1 and of -1 bytes.
        format!("20 00 {max} 00"),
        "20 00 ff ff ff ff".to_owned(),
        // Tables: no columns, 2^31-1 columns, -1 rows.
        "00 06 00 00 00 00 00 00 00 00 00".to_owned(),
        format!("00 06 01 00 00 00 {max} 00"),
        "00 06 ff ff ff ff 01 00 00 00 00".to_owned(),
        // A table whose column is shorter than it says; a matrix of 2^62 cells.
        "00 06 02 00 00 00 01 00 00 00 00 61 00 04 01 01 00 00 00 01 00 00 00 01 00 00 00"
            .to_owned(),
        format!("04 03 00 04 03 {max} {max}"),
        // An array vector whose block has no rows, an unknown type and form, a decimal's scale.
        "44 01 01 00 00 00 01 00 00 00 00 00 04 00".to_owned(),
        "63 00 00".to_owned(),
        "04 08 00".to_owned(),
        format!("25 00 {max} 00 00 00 00"),
    ] {
        assert!(decode(&bytes(&hex), true, &Limits::default()).is_err(), "{hex}");
    }
    let deep = bytes("19 01 01 00 00 00 01 00 00 00").repeat(100_000);
    assert!(matches!(
        decode(&deep, true, &Limits::default()),
        Err(Error::Limit { what: "nesting", .. })
    ));
}

#[test]
fn a_long_symbol_named_many_times_is_charged_each_time() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let mut hostile = bytes("91 01 00 10 00 00 01 00 00 00 00 00 00 00 01 00 00 00");
    hostile.extend(vec![b'x'; 10_000]);
    hostile.push(0);
    hostile.extend(vec![0; 4 * 4096]);
    assert!(matches!(decode(&hostile, true, &limits), Err(Error::Limit { .. })));
    assert!(decode(&hostile, true, &Limits::default()).is_ok());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(ty in 0u8..=150, form in 0u8..=10, tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
        let wide = Limits { depth: 32, ..Limits::default() };
        let object = [&[ty, form][..], &tail].concat();
        for little in [true, false] {
            if let Ok((value, _)) = decode(&object, little, &limits) {
                // What can be read can be written, or is said to be unsendable.
                match encode(&value, Reader::Node) {
                    Ok(bytes) => prop_assert!(decode(&bytes, true, &wide).is_ok()),
                    Err(error) => prop_assert!(matches!(error, Error::Unsendable(_))),
                }
            }
        }
    }

    #[test]
    fn random_requests_never_panic(head in "API2? [0-9]{1,3} [0-9]{1,3}( / [0-9_]{0,20})?", body in prop::collection::vec(any::<u8>(), 0..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let bytes = [head.as_bytes(), b"\n", &body].concat();
        let mut reader = bytes.as_slice();
        let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
        if let Ok(Some(request)) = runtime.block_on(Request::read(&mut reader, &limits)) {
            prop_assert!(!request.session.is_empty());
        }
    }
}
