//! What the gates said.

use grayfin_types::gate::{Decision, Finding, Reason};

/// Writes findings: those that do not go in full, the others by number.
pub(crate) fn findings(findings: &[Finding]) -> String {
    let mut out = String::new();
    let going = findings.iter().filter(|f| f.decision.is_go()).count();
    let mut blocks = String::new();
    let (mut waits, mut stops, mut aside) = (0, 0, 0);
    for finding in findings {
        let word = match (&finding.decision, &finding.overridden) {
            (Decision::Go, _) => continue,
            (_, Some(_)) => {
                aside += 1;
                "SET ASIDE"
            }
            (Decision::Hold { .. }, None) => {
                waits += 1;
                "HOLD"
            }
            (Decision::Stop { .. }, None) => {
                stops += 1;
                "STOP"
            }
        };
        line(&mut blocks, format_args!("{word} {} ({})", finding.gate, finding.rule));
        if let Some(why) = &finding.overridden {
            line(&mut blocks, format_args!("  because: {why}"));
        }
        for reason in finding.decision.reasons() {
            blocks.push_str(&reason_lines(reason, "  "));
        }
    }
    let mut words = vec![format!("{going} go")];
    for (count, word) in [(waits, "hold"), (stops, "stop"), (aside, "set aside")] {
        if count > 0 {
            words.push(format!("{count} {word}"));
        }
    }
    line(&mut out, format_args!("gates: {}", words.join(", ")));
    out.push_str(&blocks);
    out
}

/// Writes one reason over two lines.
pub(crate) fn reason_lines(reason: &Reason, indent: &str) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("{indent}{} {}: {}", reason.code, reason.subject, reason.evidence));
    if !reason.remedy.is_empty() {
        line(&mut out, format_args!("{indent}  what clears it: {}", reason.remedy));
    }
    out
}

/// Adds a line.
pub(crate) fn line(out: &mut String, args: std::fmt::Arguments<'_>) {
    out.push_str(&args.to_string());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use grayfin_types::Code;

    use super::*;

    fn finding(gate: &str, decision: Decision, overridden: Option<&str>) -> Finding {
        Finding {
            gate: gate.to_owned(),
            rule: "S4".to_owned(),
            decision,
            overridden: overridden.map(str::to_owned),
        }
    }

    #[test]
    fn what_does_not_go_is_said_in_full() {
        let reason = |code, subject: &str| Reason {
            code,
            subject: subject.to_owned(),
            evidence: "what was seen".to_owned(),
            remedy: "what to do".to_owned(),
        };
        let stop = Decision::Stop { reasons: vec![reason(Code::QuorumAtRisk, "db1")] };
        let hold = Decision::Hold { reasons: vec![reason(Code::ChunksRecovering, "/db/1")] };
        let list = [
            finding("agents-connected", Decision::Go, None),
            finding("controller-quorum", stop.clone(), None),
            finding("chunks-settled", hold, None),
            finding("partition-capacity", stop, Some("no new partitions (`ann`)")),
        ];
        let expected = "\
gates: 1 go, 1 hold, 1 stop, 1 set aside
STOP controller-quorum (S4)
  GF0401 db1: what was seen
    what clears it: what to do
HOLD chunks-settled (S4)
  GF0405 /db/1: what was seen
    what clears it: what to do
SET ASIDE partition-capacity (S4)
  because: no new partitions (`ann`)
  GF0401 db1: what was seen
    what clears it: what to do
";
        assert_eq!(findings(&list), expected);
    }
}
