//! Statements that share a part: `{name}` stands for a file `name.sql`.

/// Puts the fragments into a statement, without the comments at their heads. Each `{name}` must be among them.
pub fn assemble(statement: &str, fragments: &[(&str, &str)]) -> String {
    let mut assembled = statement.to_owned();
    for (name, text) in fragments {
        let lines: Vec<&str> = text.lines().skip_while(|line| line.starts_with("--")).collect();
        assembled = assembled.replace(&format!("{{{name}}}"), &lines.join("\n"));
    }
    assembled
}

#[cfg(test)]
mod tests {
    use super::assemble;

    #[test]
    fn a_fragment_takes_the_place_of_its_name_without_its_head() {
        let columns = "-- What is read.\n-- Twice.\nid,\n  name";
        let assembled = assemble("-- All of {them}.\nselect {columns} from t", &[("columns", columns)]);
        assert_eq!(assembled, "-- All of {them}.\nselect id,\n  name from t");
    }
}
