//! Accepts that the outbox is in another database than the one a relay last ran on.

use serde::Serialize;

use super::{Author, Result};
use crate::db::Pool;
use crate::outbox::home::{self, Standing};

pub use crate::outbox::home::Adoption;

/// What was adopted.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// `moved` or `copy`; `null` when nothing had to be done.
    pub adopted_as: Option<&'static str>,
    /// The name of the outbox in markers.
    pub installation: Option<String>,
    /// Events that were in flight in the original and wait here now.
    pub waiting_again: u64,
}

/// Where the outbox is, and where it was.
#[derive(Debug)]
pub enum Plan {
    /// Where it was.
    Home,
    /// No relay has run on it yet.
    New,
    Away {
        /// Where the relay last ran, in words.
        home: String,
        here: String,
    },
}

/// Changes nothing.
pub async fn plan(pool: &Pool) -> Result<Plan> {
    Ok(match home::look(pool).await? {
        Standing::Away { home, here } => Plan::Away { home: home.describe(), here: here.describe() },
        Standing::Home => Plan::Home,
        Standing::New(_) => Plan::New,
    })
}

/// In one transaction. Nothing is adopted when the outbox is at home meanwhile.
pub async fn run(pool: &Pool, adoption: Adoption, author: &Author) -> Result<Report> {
    let name = match adoption {
        Adoption::Moved => "moved",
        Adoption::Copy => "copy",
    };
    let adopted = home::adopt(pool, adoption, author).await?;
    Ok(adopted.map_or_else(Report::default, |adopted| Report {
        adopted_as: Some(name),
        installation: Some(adopted.installation.to_string()),
        waiting_again: adopted.waiting_again,
    }))
}
