//! A block of lines that is drawn over again on a terminal.

/// Used where the terminal does not say how large it is.
const SIZE: (usize, usize) = (24, 100);

/// What is on the terminal now.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    lines: usize,
}

impl Screen {
    /// Returns what to write so that `text` stands where the block before stood.
    pub(crate) fn frame(&mut self, text: &str, colour: bool) -> String {
        let size = rustix::termios::tcgetwinsize(std::io::stdout())
            .ok()
            .filter(|size| size.ws_row > 1 && size.ws_col > 1)
            .map_or(SIZE, |size| (usize::from(size.ws_row), usize::from(size.ws_col)));
        self.draw(text, colour, size)
    }

    fn draw(&mut self, text: &str, colour: bool, (rows, columns): (usize, usize)) -> String {
        let mut out = String::new();
        if self.lines > 0 {
            // Up to the block's first line.
            out.push_str(&format!("\x1b[{}A", self.lines));
        }
        self.lines = 0;
        // One line stays free for the cursor; what would wrap is cut, or counting lines fails.
        for line in text.lines().take(rows.saturating_sub(1)) {
            let cut: String = line.chars().take(columns.saturating_sub(1)).collect();
            out.push_str("\x1b[2K");
            out.push_str(&if colour { paint(&cut) } else { cut });
            out.push('\n');
            self.lines += 1;
        }
        // What the block before had below.
        out.push_str("\x1b[0J");
        out
    }
}

/// Colours a line by its first word; the words alone say everything.
fn paint(line: &str) -> String {
    let colour = if line.starts_with("rollout ") || line.starts_with("HOST ") {
        "1"
    } else if line.starts_with("waits:") || line.starts_with("  what clears it") {
        "33"
    } else if line.starts_with("canary: failed") || line.contains("  failed") {
        "31"
    } else {
        return line.to_owned();
    };
    format!("\x1b[{colour}m{line}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_drawn_over_the_one_before() {
        let mut screen = Screen::default();
        let first = screen.draw("a\nb\nc\n", false, (10, 10));
        assert_eq!(first, "\x1b[2Ka\n\x1b[2Kb\n\x1b[2Kc\n\x1b[0J");
        let second = screen.draw("d\n", false, (10, 10));
        assert_eq!(second, "\x1b[3A\x1b[2Kd\n\x1b[0J");
        assert!(screen.draw("e\n", false, (10, 10)).starts_with("\x1b[1A"));
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let mut screen = Screen::default();
        let drawn = screen.draw("äbcdef\nsecond\nthird\n", false, (3, 4));
        assert_eq!(drawn, "\x1b[2Käbc\n\x1b[2Ksec\n\x1b[0J");
    }
}
