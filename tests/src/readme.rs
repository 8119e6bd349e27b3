//! README.md as a source of tests: what it shows is run as it stands there.
//!
//! A block that is run follows a line `<!-- run: NAME -->`: the next fenced code block is its text.

use crate::paths;

/// The text of the code block that README.md marks with `name`.
///
/// # Errors
/// If there is no README.md, no such mark, or no block behind it.
pub fn block(name: &str) -> Result<String, String> {
    block_of("README.md", name)
}

/// The same of another page, by its path in the workspace.
///
/// # Errors
/// As [`block`].
pub fn block_of(page: &str, name: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(paths::workspace().join(page)).map_err(|error| format!("{page}: {error}"))?;
    find(&text, name).ok_or_else(|| format!("{page} has no code block behind <!-- run: {name} -->"))
}

fn find(readme: &str, name: &str) -> Option<String> {
    let mark = format!("<!-- run: {name} -->");
    let mut lines = readme.lines().skip_while(|line| line.trim() != mark).skip(1);
    lines.find(|line| !line.trim().is_empty()).filter(|line| line.starts_with("```"))?;
    let text: Vec<&str> = lines.take_while(|line| !line.starts_with("```")).collect();
    Some(text.iter().map(|line| format!("{line}\n")).collect())
}

/// A command of a session, and what it printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The words of the command, as a shell takes it apart.
    pub words: Vec<String>,
    /// The output, up to the next command.
    pub output: String,
}

/// A console session: commands behind `$ `, continued by a backslash at the line's end, and their outputs.
pub fn session(text: &str) -> Vec<Step> {
    let joined = text.replace("\\\n", " ");
    let mut steps: Vec<Step> = Vec::new();
    for line in joined.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { words: words(command), output: String::new() });
        } else if let Some(step) = steps.last_mut() {
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    steps
}

/// The words of a command line; quotes are as in a shell, nothing is expanded.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut inside) = (String::new(), None, false);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '\'' | '"') => (quote, inside) = (Some(c), true),
            (None, ' ') => {
                if inside {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            _ => {
                word.push(c);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_block_is_found_and_an_unmarked_one_is_not() {
        let readme = "```sh\nno\n```\n<!-- run: it -->\n\n```sh\nyes\n\nyes\n```\n<!-- run: bare -->\ntext\n";
        assert_eq!(find(readme, "it").as_deref(), Some("yes\n\nyes\n"));
        assert_eq!(find(readme, "bare"), None);
        assert_eq!(find(readme, "other"), None);
    }

    #[test]
    fn a_session_is_taken_apart_into_commands_and_outputs() {
        let steps = session("$ call -d '{\"a\": \"b c\"}' \\\n    x \"\"\n{\n}\n\n$ end\n");
        assert_eq!(steps[0].words, ["call", "-d", "{\"a\": \"b c\"}", "x", ""]);
        assert_eq!((steps[0].output.as_str(), steps[1].output.as_str()), ("{\n}\n\n", ""));
        assert_eq!(steps[1].words, ["end"]);
    }
}
