//! One command as a process: on what it stands, and what happens to it meanwhile.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use super::judge::Ended;
use super::lines::Line;
use super::stage::Stage;
use crate::support::binary;
use crate::support::cli::clean_environment;
use crate::support::relay::leave_to_the_reaper;

/// No command takes that long, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(150);

/// What its input, output and process are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surroundings {
    Plain,
    /// A terminal, at which nobody answers.
    Terminal,
    /// Whoever reads its output has enough after the first line.
    EarlyEnd,
    OutputFull,
    OutputClosed,
    InputClosed,
    ErrorsFull,
    ErrorsClosed,
    /// Process 1, as in a container.
    FirstProcess,
}

impl Surroundings {
    pub const ALL: [Self; 9] = [
        Self::Plain,
        Self::Terminal,
        Self::EarlyEnd,
        Self::OutputFull,
        Self::OutputClosed,
        Self::InputClosed,
        Self::ErrorsFull,
        Self::ErrorsClosed,
        Self::FirstProcess,
    ];

    /// What comes before the words of the command.
    fn before(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Terminal => {
                &["bash", "-c", r#"exec script --quiet --return --command "$(printf '%q ' "$0" "$@")" /dev/null"#]
            }
            Self::EarlyEnd => &["bash", "-c", r#""$0" "$@" | head -n 1; exit "${PIPESTATUS[0]}""#],
            Self::OutputFull => &["bash", "-c", r#"exec "$0" "$@" >/dev/full"#],
            Self::OutputClosed => &["bash", "-c", r#"exec "$0" "$@" >&-"#],
            Self::InputClosed => &["bash", "-c", r#"exec "$0" "$@" <&-"#],
            Self::ErrorsFull => &["bash", "-c", r#"exec "$0" "$@" 2>/dev/full"#],
            Self::ErrorsClosed => &["bash", "-c", r#"exec "$0" "$@" 2>&-"#],
            Self::FirstProcess => &["unshare", "--pid", "--fork", "--kill-child"],
        }
    }
}

/// A signal, and after how long.
#[derive(Debug, Clone, Copy)]
pub struct Strike {
    pub signal: &'static str,
    pub after: Duration,
}

/// Runs a line to its end, or until the signal has ended it.
pub async fn run(stage: &Stage, line: &Line, format: &str, around: Surroundings, strike: Option<Strike>) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let words = stage.words(line, folder.path());
    let call = format!(
        "{} -o {format} [{around:?}{}]",
        words.join(" "),
        match strike {
            Some(strike) => format!(", SIG{} after {:?}", strike.signal, strike.after),
            None => String::new(),
        }
    );
    let program = binary();
    let mut command = match around.before() {
        [] => tokio::process::Command::new(program),
        [first, rest @ ..] => {
            let mut command = tokio::process::Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command.args(&words).args(["-o", format]).current_dir(folder.path());
    clean_environment(command.as_std_mut());
    command.envs(stage.environment.iter().map(|(name, value)| (name, value))).env("TERM", "xterm");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let running = command.spawn().unwrap_or_else(|error| panic!("{call}: {error}"));
    let process = running.id().expect("it has just been started");
    leave_to_the_reaper(process);
    let mut output = Box::pin(running.wait_with_output());
    let ended = match strike {
        None => None,
        Some(strike) => match tokio::time::timeout(strike.after, &mut output).await {
            Ok(ended) => Some(ended),
            Err(_) => {
                let to = if around == Surroundings::FirstProcess { child_of(process) } else { process };
                // It may have ended in between.
                let mut kill = std::process::Command::new("kill");
                let kill = kill.args([&format!("-{}", strike.signal), &to.to_string()]);
                drop(kill.stderr(Stdio::null()).status());
                None
            }
        },
    };
    let output = match ended {
        Some(ended) => ended,
        None => tokio::time::timeout(PATIENCE, output).await.unwrap_or_else(|_| panic!("{call} does not end")),
    };
    let output = output.expect("its output");
    Ended {
        call,
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: output.stdout,
        stderr: output.stderr,
    }
}

/// The process that this one waits for; itself, when it has ended.
fn child_of(process: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|child| child.parse().ok()).unwrap_or(process)
}
