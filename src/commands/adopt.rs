//! `adopt`: accepts that the outbox is in another database than the one a relay last ran on.

use super::confirm::{can_ask, confirmed};
use super::{Context, Result, admin_pool, author};
use crate::cli::AdoptArgs;
use crate::config::Needs;
use crate::operations::adopt::{self, Adoption, Plan, Report};
use crate::output::{self, Align, Cell, Table};

pub(super) async fn run(context: &Context, args: &AdoptArgs) -> Result<()> {
    let settings = context.settings(Needs::DATABASE)?;
    let pool = admin_pool(&settings)?;
    let nothing = Report::default();
    let (home, here) = match adopt::plan(&pool).await? {
        Plan::Away { home, here } => (home, here),
        Plan::Home => {
            output::note("the outbox has not moved; there is nothing to adopt");
            return print(context, &nothing);
        }
        Plan::New => {
            output::note("no relay has run on this outbox yet; there is nothing to adopt");
            return print(context, &nothing);
        }
    };
    let adoption = if args.moved { Adoption::Moved } else { Adoption::Copy };
    output::note(&format!("the relay last ran on {home}; this is {here}"));
    if args.consent.dry_run {
        output::note(match adoption {
            Adoption::Moved => {
                "would accept this database as the outbox: identity, batches in flight and markers continue"
            }
            Adoption::Copy => {
                "would make this a separate outbox: a new identity in markers, and events that were in flight wait again"
            }
        });
        return print(context, &nothing);
    }
    can_ask(args.consent.yes)?;
    let question = match adoption {
        Adoption::Moved => "Is the original stopped for good, so that no relay will run on it again?",
        Adoption::Copy => {
            "Make this a separate outbox? A relay on it publishes everything that is waiting here, to the Kafka in its settings."
        }
    };
    if !confirmed(args.consent.yes, question)? {
        return Ok(());
    }
    let report = adopt::run(&pool, adoption, &author(args.consent.reason.clone())).await?;
    if report.adopted_as.is_some() && adoption == Adoption::Copy {
        output::note("if it shares a Kafka cluster with the original, give it a different run.deployment");
    }
    print(context, &report)
}

fn print(context: &Context, report: &Report) -> Result<()> {
    output::data(context.format(), report, std::slice::from_ref(report), || {
        let Some(adopted_as) = report.adopted_as else { return String::new() };
        let mut table =
            Table::new(&[("ADOPTED AS", Align::Left), ("INSTALLATION", Align::Left), ("WAITING AGAIN", Align::Right)]);
        table.row([
            Cell::new(adopted_as),
            Cell::optional(report.installation.as_deref()),
            Cell::new(report.waiting_again),
        ]);
        table.render()
    })?;
    Ok(())
}
