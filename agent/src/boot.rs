//! Which life of the machine this is.

use std::io;

use crate::process::boot_id;

/// Returns a text that changes when everything that ran on this host is gone: the kernel's boot id
/// and the start of the first process that we see. In a container, or in a PID namespace of its own,
/// the kernel lives on when "the machine" is restarted, but its first process does not.
pub fn life() -> io::Result<String> {
    let stat = std::fs::read_to_string("/proc/1/stat")?;
    // The name may hold spaces and brackets; the last bracket ends it. Field 22 is the start time.
    let start = stat
        .rsplit_once(')')
        .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(19))
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("{}-{start}", boot_id()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_stays_the_same_while_the_machine_runs() {
        let life = super::life().unwrap();
        assert_eq!(life, super::life().unwrap());
        assert!(life.len() > 36 + 1, "{life}");
    }
}
