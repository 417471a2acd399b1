//! The evaluator against a host that answers like a small cluster.

mod fake;

use self::fake::{FakeHost, NOW};
use super::*;
use crate::value::{Cell, Table, Type, Value, Vector};

/// Runs a script in a new session; it must be modelled.
async fn run(source: &str) -> Result<Option<Value>, String> {
    let host = FakeHost::default();
    let outcome = run_script(&host, &mut Session::new("1"), source).await;
    let unmodelled = host.unmodelled.lock().unwrap();
    assert!(unmodelled.is_empty(), "{unmodelled:?} in {source}: {outcome:?}");
    outcome
}

async fn value(source: &str) -> Value {
    run(source).await.unwrap_or_else(|e| panic!("{source}: {e}")).expect("a value")
}

async fn table(source: &str) -> Table {
    match value(source).await {
        Value::Table(table) => table,
        other => panic!("{source} gave {other:?}"),
    }
}

fn texts(table: &Table, column: &str) -> Vec<String> {
    table.column(column).expect("a column").texts().expect("texts").map(str::to_owned).collect()
}

#[tokio::test]
async fn simple_expressions_have_their_values() {
    for (source, expected) in [
        ("1+1", Value::int(2)),
        ("1l+1", Value::long(2)),
        ("7/2", Value::int(3)),
        ("version()", Value::string("2.00.8.12 2023.01.10")),
        ("x = 5\nx * 2", Value::int(10)),
        ("'a' + \"b\" + `c", Value::string("abc")),
        ("2023.01.01 < 2023.01.02", Value::bool(true)),
        ("now()", Value::timestamp(NOW)),
        ("today()", Value::date(19_358)),
        ("size(2023.01.01..2023.01.10)", Value::int(10)),
        ("not true || 1 in [1,2] && 2 <> 3", Value::bool(true)),
        ("!false", Value::bool(true)),
        ("[1,2,3][1]", Value::int(2)),
        ("d = dict(`a`b, [1,2]); d[`b] + d.a", Value::int(3)),
        ("d = dict(STRING, ANY); d[`k] = [1,2]; size(d[`k])", Value::int(2)),
        ("x -> x + 1", Value::Function(Function::defined("", "x -> x + 1"))),
        ("f = x -> x + 1; f(2)", Value::int(3)),
        ("def f(a, b=10){ return a + b }\nf(1)", Value::int(11)),
        ("def f(a, b){ return a - b }\nf(b=1, a=3)", Value::int(2)),
        ("f = add{1}; f(2)", Value::int(3)),
        ("sub{,1}(5)", Value::int(4)),
        ("each(x -> x * 2, [1,2])", Vector::ints([2, 4]).into()),
        ("sum(each(strlen, `ab`c))", Value::long(3)),
        ("s = 0; for(i in 1..4){ s += i }; s", Value::int(10)),
        ("s = 0; for(i in 0:4){ s += int(i) }; s", Value::int(6)),
        ("if(1 > 2){ x = `yes } else { x = `no }; x", Value::string("no")),
        ("try{ throw 'boom' }catch(ex){ e = ex[1] }; e", Value::string("throw 'boom' => boom")),
        ("iif(isNull(NULL), `none, `some)", Value::string("none")),
        ("split('a,b', ',')[1].upper()", Value::string("B")),
        ("1 2 3 in [2]", Vector::bools([false, true, false]).into()),
        ("typestr(1..2)", Value::string("FAST INT VECTOR")),
        ("toStdJson(dict(`a`b, [1,2]))", Value::string(r#"{"a":1,"b":2}"#)),
        (
            "t = table(1..3 as id, `a`b`c as n); exec n from t where id > 1",
            Vector::strings(["b", "c"]).into(),
        ),
        (
            "t = table(1:0, `a`b, [INT, STRING]); tableInsert(t, 1, `x); t.append!(table([2] as a, [`y] as b)); exec count(*) from t",
            Value::int(2),
        ),
        ("t = table([1] as a); schema(t).colDefs.typeInt[0]", Value::int(4)),
        ("funcByName(`version)()", Value::string("2.00.8.12 2023.01.10")),
        ("getConfig(key=`x)", Value::string("/srv/x")),
        ("defined(`nope) or defined(`version)", Value::bool(true)),
        ("-1 + 2 /* c */ // d", Value::int(1)),
        ("`COMPLETE like 'COMP%'", Value::bool(true)),
        ("5 between 1:10", Value::bool(true)),
    ] {
        assert_eq!(value(source).await, expected, "{source}");
    }
}

#[tokio::test]
async fn commands_have_no_value_and_print_leaves_messages() {
    for source in
        ["x = 1", "", "undef all", "print(1)", "def f(){ return 1 }", "share table([1] as a) as s"]
    {
        assert_eq!(run(source).await, Ok(None), "{source}");
    }
    let (host, mut session) = (FakeHost::default(), Session::new("1"));
    run_script(&host, &mut session, "print(\"hello\"); print(2)").await.unwrap();
    assert_eq!(session.take_messages(), ["hello", "2"]);
    assert!(session.messages.is_empty());
}

/// The scripts that the official clients and the mission's document send.
#[tokio::test]
async fn the_known_clients_scripts_run() {
    let host = FakeHost::default();
    let session = &mut Session::new("1");
    for source in [
        "rpc(getControllerAlias(), getClusterPerf)",
        "pnodeRun(version)",
        "db = database(\"dfs://stock\",VALUE,2023.01.01..2023.01.10,,'TSDB')\n\
         tmp = table(1:0,[`time,`name,`id],[TIMESTAMP,SYMBOL,INT])\n\
         pt = db.createPartitionedTable(tmp,`stock,`time,,`name,ALL)",
        "select * from rpc(getControllerAlias(), getClusterChunksStatus) where state != \"COMPLETE\" ",
        "pnodeRun(getConfig{`chunkMetaDir})",
        "rpc(getControllerAlias(),getConfig{`dfsMetaDir})",
        "schema(loadTable(\"dfs://stock\", \"stock\"))",
        "schema(loadTable(\"dfs://stock\", \"stock\")).colDefs.typeInt",
        "schema(loadTable(\"dfs://stock\", \"stock\")).colDefs.name",
        "select * from loadTable(\"dfs://stock\", `stock) order by id",
        "select count(*) from loadTable(\"dfs://stock\", \"stock\")",
        "exec max(time) from loadTable(\"dfs://stock\", \"stock\")",
        "stock_TMP_TBL_d62a8edf = loadTable(\"dfs://stock\", \"stock\",,false)",
        "getClusterPerf{true}()",
        "rpc(getControllerAlias(), getClusterPerf{true})",
        "exec name from rpc(getControllerAlias(), getClusterPerf) where mode in [0,3,4] and state=1",
        "select * from rpc(getControllerAlias(), getRecoveryTaskStatus) where Status==\"In-Progress\"",
        "select * from pnodeRun(getAllChunks) where state != 0",
        "getConfig()",
        "getConfig(`k)",
        "pnodeRun(getConfig{`volumes}, `node43`node44, true)",
        "rpc(getControllerAlias(), stopDataNode, \"node1\")",
        "rpc(`HActl44, isControllerInitialized)",
        "getActiveMaster()",
        "version();getNodeAlias();getNodeType()",
        "def invoke (func, args_json) {\n    args = fromStdJson(args_json)\n    func_ = func\n    \
         if (type(func) == STRING)\n        func_ = funcByName(func)\n    if (type(args) != ANY)\n        \
         args = cast(args, ANY)\n    return unifiedCall(func_, args)\n}\n",
    ] {
        let outcome = run_script(&host, session, source).await;
        assert!(outcome.is_ok(), "{source}: {outcome:?}");
    }
    let args = vec![Value::string("add"), Value::string("[1,2]")];
    assert_eq!(run_function(&host, session, "invoke", args).await, Ok(Some(Value::int(3))));
    assert_eq!(*host.unmodelled.lock().unwrap(), Vec::<String>::new());
    // What the host was given for the document's own database.
    let calls = host.calls.lock().unwrap();
    let (_, database) = calls.iter().find(|(name, _)| name == "database").unwrap();
    assert_eq!(database[2], Vector::integers(Type::Date, (19_358..19_368).map(Some)).into());
    assert_eq!((&database[1], &database[3]), (&Value::int(1), &Value::Nothing));
    let (_, create) = calls.iter().find(|(name, _)| name == "createPartitionedTable").unwrap();
    assert_eq!(create[1].as_table().unwrap().columns()[1].1.ty, Type::Symbol);
    assert_eq!(create[4], Value::Nothing);
}

#[tokio::test]
async fn appenders_write_through_a_partial_application() {
    let host = FakeHost::default();
    let session = &mut Session::new("1");
    let data = Value::table([
        ("time", Vector::integers(Type::Timestamp, [Some(NOW)])),
        ("name", Vector::symbols(["Amazon"])),
        ("id", Vector::ints([7])),
    ])
    .unwrap();
    let name = "tableInsert{loadTable('dfs://stock', 'stock')}";
    let inserted = run_function(&host, session, name, vec![data.clone()]).await;
    assert_eq!(inserted, Ok(Some(Value::int(1))));
    let last =
        run_script(&host, session, "exec last(id) from loadTable('dfs://stock','stock')").await;
    assert_eq!(last, Ok(Some(Value::int(7))));

    // Into a variable: by partial application and by the variable's name.
    session.variables.insert(
        "t".to_owned(),
        Table::empty([("time", Type::Timestamp), ("name", Type::Symbol), ("id", Type::Int)]).into(),
    );
    for name in ["tableInsert{t}", "tableInsert{'t'}"] {
        let inserted = run_function(&host, session, name, vec![data.clone()]).await;
        assert_eq!(inserted, Ok(Some(Value::int(1))), "{name}");
    }
    assert_eq!(run_script(&host, session, "size(t)").await, Ok(Some(Value::int(2))));
    let upsert = "(def(mutable tb, data){append!(tb, data);return 0;}){t}";
    assert_eq!(run_function(&host, session, upsert, vec![data]).await, Ok(Some(Value::int(0))));
}

#[tokio::test]
async fn select_filters_groups_and_orders() {
    let from = "from getClusterChunksStatus()";
    let bad = table(&format!("select file, state {from} where state != `COMPLETE")).await;
    assert_eq!(texts(&bad, "file"), ["/a/2", "/b/2"]);
    let both = table(&format!("select * {from} where state!=`COMPLETE, replicaCount<2")).await;
    assert_eq!(both.rows(), 1);
    assert_eq!(both.columns().len(), 6);

    let groups =
        format!("select count(*) as n, max(version) {from} group by state order by n desc, state");
    let groups = table(&groups).await;
    assert_eq!(texts(&groups, "state"), ["COMPLETE", "CONSTRUCTING", "RECOVERING"]);
    assert_eq!(groups.column("n"), Some(&Vector::ints([2, 1, 1])));
    assert_eq!(groups.column("max_version"), Some(&Vector::ints([3, 4, 2])));

    let top = table(&format!("select top 2 file {from} order by version desc")).await;
    assert_eq!(texts(&top, "file"), ["/b/2", "/b/1"]);
    let distinct = table(&format!("select distinct replicaCount as r {from} order by r")).await;
    assert_eq!(distinct.column("r"), Some(&Vector::ints([1, 2])));
    let one = table(&format!(
        "select count(*), sum(version) as s, avg(version), first(file), min(lastUpdated) {from}"
    ))
    .await;
    assert_eq!(one.cell(0, "s"), Some(&Cell::Int(10)));
    assert_eq!(one.cell(0, "min_lastUpdated"), Some(&Cell::Int(NOW)));
    assert_eq!(one.column("count"), Some(&Vector::ints([4])));

    assert_eq!(value(&format!("exec count(*) {from} where state=='NONE'")).await, Value::int(0));
    assert_eq!(value(&format!("exec count(*) {from} where file like '/a/%'")).await, Value::int(2));
    let ids = value(&format!("exec string(chunkId) {from} where version=1")).await;
    assert_eq!(ids, Vector::strings(["00000000-0000-0000-0000-000000000000"]).into());
    let pick = format!("exec file {from} where chunkId == '01010101-0101-0101-0101-010101010101'");
    assert_eq!(value(&pick).await, Vector::strings(["/a/2"]).into());
    let double = table(&format!("select version*2 as v, `x as tag {from} where version > 2")).await;
    assert_eq!(double.column("v"), Some(&Vector::ints([6, 8])));
    assert_eq!(texts(&double, "tag"), ["x", "x"]);
    let json = value(&format!("toStdJson(select file, version {from} where version = 1)")).await;
    assert_eq!(json.as_str(), Some(r#"[{"file":"/a/1","version":1}]"#));
    let updated = format!("exec count(*) {from} where lastUpdated >= 2023.01.01");
    assert_eq!(value(&updated).await, Value::int(4));
    let duplicated =
        format!("exec count(*) {from} where isDuplicated([state,replicaCount],FIRST)=false");
    assert_eq!(value(&duplicated).await, Value::int(3));
    assert_eq!(table(&format!("select * {from} limit 1")).await.rows(), 1);
    // Of no rows there is still a table with its columns and types.
    let none = table(&format!("select * {from} where state == 'NONE'")).await;
    assert_eq!((none.rows(), none.columns().len()), (0, 6));
}

#[tokio::test]
async fn a_dfs_tables_scan_names_what_is_needed() {
    let host = FakeHost::default();
    let source =
        "select max(id) from loadTable(`dfs, `t) where time > 2023.01.01 and 5 >= id, name != `x";
    run_script(&host, &mut Session::new("1"), source).await.unwrap();
    run_script(&host, &mut Session::new("1"), "loadTable(`dfs, `t)").await.unwrap();
    let scans = host.scans.lock().unwrap();
    let columns = scans[0].columns.as_ref().unwrap();
    assert!(columns.contains("id") && columns.contains("time") && columns.contains("name"));
    let conditions: Vec<_> =
        scans[0].conditions.iter().map(|c| (c.column.as_str(), c.operator)).collect();
    assert_eq!(
        conditions,
        [("time", Operator::Greater), ("id", Operator::LessEqual), ("name", Operator::NotEqual)]
    );
    let condition = &scans[0].conditions[0];
    assert_eq!(condition.holds(Type::Timestamp, &Cell::Int(NOW)), Some(true));
    assert_eq!(condition.holds(Type::Timestamp, &Cell::Int(NOW - 1000)), Some(false));
    assert_eq!(condition.holds(Type::String, &Cell::text("x")), None);
    assert!(scans[1].schema_only);
}

#[tokio::test]
async fn functions_reach_the_host_with_their_arguments() {
    let host = FakeHost::default();
    let session = &mut Session::new("1");
    let sources =
        ["rpc(`c, getConfig{`k})", "rpc(`c, getConfig, `k)", "rpc(`c, x -> getConfig(x), `k)"];
    for source in sources {
        let answer = run_script(&host, session, source).await;
        assert_eq!(answer, Ok(Some(Value::string("/srv/k"))), "{source}");
    }
    let calls = host.calls.lock().unwrap();
    let sent = calls[0].1[1].as_function().unwrap();
    assert_eq!((sent.name.as_str(), sent.bound.len()), ("getConfig", 1));
}

#[tokio::test]
async fn errors_are_worded_as_on_the_server() {
    let host = FakeHost::default();
    let session = &mut Session::new("1");
    for (source, expected) in [
        ("throw \"<NotLeader>xxx\"", "throw \"<NotLeader>xxx\" => <NotLeader>xxx"),
        ("fail()", "<NotLeader>127.0.0.1:8848:node44"),
        ("rpc(`c, fail)", "<NotLeader>127.0.0.1:8848:node44"),
        (
            "x = 1\n1 + [1,2] + [1,2,3]",
            "1 + [1,2] + [1,2,3] => the two vectors must have the same length",
        ),
    ] {
        assert_eq!(run_script(&host, session, source).await, Err(expected.to_owned()), "{source}");
    }
    assert!(host.unmodelled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_modelled_is_answered_and_counted() {
    for (source, token, line) in [
        ("foo bar", "foo", 1),
        ("foo", "foo", 1),
        ("1\nfoo(1)", "foo", 2),
        ("x.foo(1)", "x", 1),
        ("getConfig().foo(1)", "foo", 1),
        ("select * from getClusterPerf() context by mode", "context", 1),
        ("rpc(`c, nosuch)", "nosuch", 1),
        ("select nosuch from getClusterPerf()", "nosuch", 1),
        ("version() @", "@", 1),
    ] {
        let host = FakeHost::default();
        let expected = format!("Syntax Error: [line #{line}] Cannot recognize the token {token}");
        let outcome = run_script(&host, &mut Session::new("1"), source).await;
        assert_eq!(outcome, Err(expected), "{source}");
        assert_eq!(host.unmodelled.lock().unwrap().len(), 1, "{source}");
    }
    for name in ["scramClientFirst", "nosuch{1}", "1+", "1"] {
        let host = FakeHost::default();
        let outcome = run_function(&host, &mut Session::new("1"), name, vec![]).await;
        assert!(outcome.is_err(), "{name}");
        assert_eq!(host.unmodelled.lock().unwrap().len(), 1, "{name}");
    }
    let host = FakeHost::default();
    let outcome = run_function(&host, &mut Session::new("1"), "scramClientFirst", vec![]).await;
    assert_eq!(outcome, Err("Can't recognize function name scramClientFirst".to_owned()));
    let named = run_script(&host, &mut Session::new("1"), "version(a=1)").await;
    assert!(named.unwrap_err().contains("does not model"));
    assert_eq!(host.unmodelled.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn hostile_scripts_end_with_an_error() {
    for source in [
        "def f(x){ return f(x) }\nf(1)",
        "f = x -> rpc(`c, x, x); f(f)",
        "s = `a; for(i in 1..1000){ s = s + s }",
        "x = [1]; for(i in 1..1000){ x = [x, x] }",
        "x = [1]; for(i in 1..1000){ x = (x, 1) }",
        "for(i in 1..1000){ for(j in 1..1000){ for(k in 1..1000){ i } } }",
        "0..100000000",
        "take(1..1000, 1000000000)",
        "x = take(`aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, 4000000); concat(x, concat(x))",
        "d = dict(STRING, ANY); for(i in 1..1000){ d[`a] = d }",
        "x = double(0..1000000); y = x in x",
        "s = concat(take(`a, 1000000)); strReplace(s, `a, s)",
        "t = table(1:0, [`a], [INT]); for(i in 1..1000000){ tableInsert(t, 1..4000) }",
        &"(".repeat(100_000),
        &format!("{}1", "-".repeat(60)),
        &"[".repeat(70),
    ] {
        let host = FakeHost::default();
        let outcome = run_script(&host, &mut Session::new("1"), source).await;
        let start: String = source.chars().take(60).collect();
        if !source.starts_with("----") {
            assert!(outcome.is_err(), "{start}: {:?}", outcome.map(|_| ()));
        }
    }
    let long = format!("1{}", " ".repeat(2 << 20));
    assert!(run(&long).await.is_err());
}

/// Nesting up to the limit must fit the stack of an ordinary thread in a debug build.
#[tokio::test]
async fn the_deepest_allowed_nesting_does_not_exhaust_the_stack() {
    let nested = |depth: usize| format!("{}1{}", "abs(".repeat(depth), ")".repeat(depth));
    assert_eq!(value(&nested(15)).await, Value::int(1));
    assert!(run_script(&FakeHost::default(), &mut Session::new("1"), &nested(63)).await.is_err());
    let selects = "select * from (".repeat(12) + "getClusterPerf()" + &")".repeat(12);
    assert_eq!(table(&selects).await.rows(), 4);
    let calls = "rpc(`c, x -> x, ".repeat(8) + "1" + &")".repeat(8);
    assert_eq!(value(&calls).await, Value::int(1));
}

proptest::proptest! {
    #[test]
    fn random_sources_never_panic(source in "[a-z0-9 `'\"(){}\\[\\],;:.+*/<>=!&|\n-]{0,80}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let host = FakeHost::default();
        let mut session = Session::new("1");
        let script = runtime.block_on(run_script(&host, &mut session, &source));
        proptest::prop_assert!(script.is_ok() || !script.unwrap_err().is_empty());
    }

    #[test]
    fn random_words_never_panic(words in proptest::collection::vec(proptest::sample::select(vec![
        "select", "exec", "from", "where", "group", "by", "order", "count", "(", ")", "[", "]", "{", "}",
        "*", ",", ";", "\n", "x", "=", "1", "`a", "'t'", "getClusterPerf()", "mode", "->", "def", "if",
        "for", "in", "try", "catch", "table", "as", ".", "..", ":", "1:0", "-", "not", "each", "rpc",
    ]), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let host = FakeHost::default();
        let mut session = Session::new("1");
        let script = runtime.block_on(run_script(&host, &mut session, &words.join(" ")));
        proptest::prop_assert!(script.is_ok() || !script.unwrap_err().is_empty());
    }
}
