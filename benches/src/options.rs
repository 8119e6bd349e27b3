//! What is asked for on the command line of a bench target.

/// `cargo bench --bench wire -- hot-read --rounds 3 --quick`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How often each row is measured.
    pub rounds: usize,
    /// Less load and fewer rounds: to see that it runs, not to have numbers.
    pub is_quick: bool,
    /// Parts of the ids of tables; without any all tables are measured.
    pub wanted: Vec<String>,
}

const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 2;

impl Options {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn read(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let (mut rounds, mut is_quick, mut wanted) = (None, false, Vec::new());
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // Cargo says so to every bench target.
                "--bench" => {}
                "--quick" => is_quick = true,
                "--rounds" => {
                    let number = args.next().and_then(|number| number.parse().ok()).filter(|rounds| *rounds > 0);
                    rounds = Some(number.ok_or("--rounds needs a number of at least 1")?);
                }
                flag if flag.starts_with('-') => {
                    return Err(format!("{flag} is unknown; there are --rounds N, --quick and parts of tables' ids"));
                }
                word => wanted.push(word.to_owned()),
            }
        }
        let rounds = rounds.unwrap_or(if is_quick { QUICK_ROUNDS } else { ROUNDS });
        Ok(Self { rounds, is_quick, wanted })
    }

    /// Whether the table of this id is to be measured.
    pub fn wants(&self, id: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|wanted| id.contains(wanted.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Options, String> {
        Options::read(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn without_arguments_every_table_is_measured_five_times() {
        let options = read(&["--bench"]).expect("what cargo says");
        assert_eq!((options.rounds, options.is_quick, options.wants("any")), (5, false, true));
    }

    #[test]
    fn tables_are_chosen_by_parts_of_their_ids() {
        let options = read(&["hot-read", "--quick", "--rounds", "3"]).expect("as documented");
        assert_eq!((options.rounds, options.is_quick), (3, true));
        assert!(options.wants("hot-read-tcp") && !options.wants("hot-write-tcp"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(read(&["--round", "3"]).is_err() && read(&["--rounds", "0"]).is_err() && read(&["--rounds"]).is_err());
    }
}
