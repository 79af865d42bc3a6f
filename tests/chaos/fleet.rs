//! The processes under test, and the supervisor that starts each one again when it ends, as systemd or Kubernetes
//! would.
//!
//! Knows why a process may end: by our SIGKILL, with 0 after our SIGTERM, with 75 because it was fenced. Any other end
//! is a complaint. Each process has one log for all its lives, and a PostgreSQL role of its own name, so that the
//! database can tell who wrote what.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::it::support::cli::clean_environment;
use crate::it::support::relay::leave_to_the_reaper;
use crate::it::support::{binary, wait_until};
use crate::plan::Who;

/// Exit status of a process that found itself fenced.
const FENCED: i32 = 75;
/// SIGTERM to the end: `run.shutdown_timeout` is 10 s, and the machine is busy.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// A process younger than this may be hit by SIGTERM before it handles signals.
const YOUNG: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a process is started with: its name, the parts it runs, its environment.
pub struct Member {
    pub who: Who,
    pub name: String,
    pub part: &'static str,
    pub environment: Vec<(String, String)>,
    pub arguments: Vec<String>,
}

pub struct Fleet {
    folder: PathBuf,
    members: Vec<(Member, Mutex<Life>)>,
}

#[derive(Default)]
struct Life {
    child: Option<Child>,
    started: Option<Instant>,
    /// We sent SIGKILL.
    killed: bool,
    /// We sent SIGTERM, then; moved when it was frozen meanwhile.
    stopped: Option<Instant>,
    starts: u32,
    /// How it ended, and how often.
    ends: BTreeMap<String, u32>,
    /// What was wrong, and how often.
    complaints: BTreeMap<String, u32>,
    most_memory: u64,
}

impl Fleet {
    /// Starts every member. `folder` is for logs.
    pub fn start(folder: &Path, members: Vec<Member>) -> Self {
        let members = members.into_iter().map(|member| (member, Mutex::new(Life::default()))).collect();
        let fleet = Self { folder: folder.to_owned(), members };
        for (member, life) in &fleet.members {
            fleet.start_one(member, &mut lock(life));
        }
        fleet
    }

    fn start_one(&self, member: &Member, life: &mut Life) {
        let log = OpenOptions::new().create(true).append(true).open(self.log(member)).expect("the log opens");
        let mut command = Command::new(binary());
        command.args(["run", "--only", member.part]).args(&member.arguments).current_dir(&self.folder);
        clean_environment(&mut command);
        let child = command
            .envs(member.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        leave_to_the_reaper(child.id());
        (life.child, life.killed, life.stopped) = (Some(child), false, None);
        life.started = Some(Instant::now());
        life.starts += 1;
    }

    fn log(&self, member: &Member) -> PathBuf {
        self.folder.join(format!("{}.log", member.name))
    }

    /// Starts ended processes again, for ever. Cancel safe.
    pub async fn supervise(&self) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for (member, life) in &self.members {
                let mut life = lock(life);
                if life.end(&member.name) {
                    self.start_one(member, &mut life);
                }
                life.weigh();
            }
        }
    }

    pub fn kill(&self, who: Who) {
        let mut life = self.life(who);
        life.killed = true;
        life.signal("KILL");
    }

    /// SIGTERM. A second one would mean: at once.
    pub fn stop(&self, who: Who) {
        let mut life = self.life(who);
        if life.stopped.is_none() {
            life.stopped = Some(Instant::now());
            life.signal("TERM");
        }
    }

    /// SIGSTOP. Returns the id of the frozen process, for [`Fleet::thaw`].
    pub fn freeze(&self, who: Who) -> Option<u32> {
        let mut life = self.life(who);
        life.signal("STOP");
        life.child.as_ref().map(Child::id)
    }

    /// SIGCONT, if it is still the same process. The time that it slept does not count against it.
    pub fn thaw(&self, who: Who, process: Option<u32>) {
        let mut life = self.life(who);
        if life.child.as_ref().map(Child::id) == process {
            life.stopped = life.stopped.map(|_| Instant::now());
            life.signal("CONT");
        }
    }

    /// Ends every process with SIGTERM and waits for it: the last chance to end in a wrong way.
    pub async fn stop_all(&self) {
        for (member, _) in &self.members {
            self.stop(member.who);
        }
        wait_until("every process has ended after SIGTERM", STOP_LIMIT + Duration::from_secs(5), async || {
            let running: Vec<&str> = self
                .members
                .iter()
                .filter(|(member, life)| {
                    let mut life = lock(life);
                    life.end(&member.name);
                    life.child.is_some()
                })
                .map(|(member, _)| member.name.as_str())
                .collect();
            if running.is_empty() { Ok(()) } else { Err(format!("{running:?} run")) }
        })
        .await;
    }

    /// Everything that ended in a wrong way.
    pub fn complaints(&self) -> Vec<String> {
        let all = self.members.iter().flat_map(|(_, life)| lock(life).complaints.clone());
        all.map(|(text, times)| format!("{text} ({times} times)")).collect()
    }

    /// Per process: starts, most memory in MiB, how it ended.
    pub fn story(&self) -> String {
        let lines = self.members.iter().map(|(member, life)| {
            let life = lock(life);
            let (starts, memory) = (life.starts, life.most_memory >> 20);
            format!("{}: {starts} starts, {memory} MiB at most, ended {:?}", member.name, life.ends)
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The most resident memory that any process had, in bytes.
    pub fn most_memory(&self) -> u64 {
        self.members.iter().map(|(_, life)| lock(life).most_memory).max().unwrap_or(0)
    }

    /// How often processes ended so: `"75"`, `"signal 9"`.
    pub fn ended(&self, how: &str) -> u32 {
        self.members.iter().map(|(_, life)| lock(life).ends.get(how).copied().unwrap_or(0)).sum()
    }

    fn life(&self, who: Who) -> MutexGuard<'_, Life> {
        let found = self.members.iter().find(|(member, _)| member.who == who);
        lock(&found.expect("the plan names processes that exist").1)
    }
}

impl Life {
    /// Looks whether the process has ended, and notes how. True when it has.
    fn end(&mut self, name: &str) -> bool {
        let status = match &mut self.child {
            Some(child) => child.try_wait().expect("our own child"),
            None => return false,
        };
        let Some(status) = status else {
            if self.stopped.is_some_and(|since| since.elapsed() > STOP_LIMIT) {
                self.complain(format!("{name} still runs {STOP_LIMIT:?} after SIGTERM"));
                (self.stopped, self.killed) = (None, true);
                self.signal("KILL");
            }
            return false;
        };
        self.child = None;
        *self.ends.entry(told(status)).or_default() += 1;
        let expected = match (status.code(), status.signal()) {
            (Some(0), _) => self.stopped.is_some(),
            (Some(FENCED), _) => true,
            (None, Some(9)) => self.killed,
            // It had not come to the point where it handles the signal, so it had nothing in hand.
            (None, Some(15)) => self.stopped.is_some() && self.started.is_some_and(|since| since.elapsed() < YOUNG),
            _ => false,
        };
        if !expected {
            self.complain(format!("{name} ended with {}, which nothing explains; see its log", told(status)));
        }
        true
    }

    fn complain(&mut self, text: String) {
        *self.complaints.entry(text).or_default() += 1;
    }

    /// Sends a signal to the process if there is one. It cannot hit a stranger: until we have looked, an ended child
    /// keeps its id.
    fn signal(&mut self, name: &str) {
        if let Some(child) = &self.child {
            let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
            assert!(status.expect("kill starts").success(), "kill -{name} {}", child.id());
        }
    }

    fn weigh(&mut self) {
        let Some(child) = &self.child else { return };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let bytes = resident.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024;
        self.most_memory = self.most_memory.max(bytes);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

fn lock(life: &Mutex<Life>) -> MutexGuard<'_, Life> {
    life.lock().unwrap_or_else(PoisonError::into_inner)
}
