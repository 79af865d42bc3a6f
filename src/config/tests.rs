//! The whole of loading, as an operator meets it.

mod generated;
mod problems;
mod rules;
mod secrets;
mod sources;

use super::*;

/// The file alone, for a command that needs neither server.
fn load(text: &str) -> Result<Loaded, ConfigError> {
    Config::load(&Sources::none().with_text("relay.toml", text), Needs::NOTHING)
}

fn problems(text: &str) -> Vec<Problem> {
    load(text).expect_err("the file has problems").problems().to_vec()
}

/// The one problem of these sources.
fn only_problem(sources: &Sources) -> Problem {
    let error = Config::load(sources, Needs::NOTHING).expect_err("there is a problem");
    assert_eq!(error.problems().len(), 1, "{}", error.render(false));
    error.problems()[0].clone()
}
