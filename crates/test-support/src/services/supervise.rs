//! A child process that cannot outlive us, and signals for it and all its descendants.
//!
//! A small shell sits between: it starts the program, reports its process id, and then reads from a pipe we hold.
//! When we die, however abruptly, the pipe closes; the shell stops the program and removes its temporary
//! directory. The shell also stays the program's parent until we let go, so the process id cannot be reused.
//! Both run in a process group of their own: a Ctrl-C in the terminal reaches us, and we decide the order.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

use super::poll_until;

const SCRIPT: &str = r#"
log=$1; signal=$2; trash=$3; shift 3
if [ -n "$log" ]; then "$@" </dev/null >>"$log" 2>&1 & else "$@" </dev/null >&2 & fi
p=$!
echo "$p"
orphaned=
read -r _ || orphaned=1
kill -CONT "$p" 2>/dev/null
kill "-$signal" "$p" 2>/dev/null
wait "$p" 2>/dev/null
code=$?
if [ -n "$orphaned" ] && [ -n "$trash" ]; then rm -rf "$trash" 2>/dev/null; fi
echo "$code"
"#;

/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// The user and group a program is run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Account {
    /// The account servers run as when we are root, which Postgres refuses: `postgres`, else `nobody`.
    /// `None` when we are not root, and servers run as ourselves.
    #[must_use]
    pub fn for_servers() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::named(&passwd, name))
            .or(Some(Self {
                uid: 65_534,
                gid: 65_534,
            }))
    }

    fn named(passwd: &str, name: &str) -> Option<Self> {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Self {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    }

    /// Gives `path` to this account.
    ///
    /// # Errors
    /// The system's answer.
    pub fn own(self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
    }
}

/// What to run, and how it ends.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The program and its arguments.
    pub command: &'a [String],
    /// Variables added to our own environment.
    pub env: &'a [(String, String)],
    /// Where its output is appended; without one it goes to our standard error.
    pub log: Option<&'a Path>,
    /// Another account to run it as.
    pub account: Option<Account>,
    /// Where it runs; `/` when not given.
    pub directory: Option<&'a Path>,
    /// The signal, as `kill` names it, that ends it when we are gone: `TERM`, `QUIT`, …
    pub last_signal: &'a str,
    /// Removed when we are gone without having stopped it.
    pub trash: Option<PathBuf>,
}

/// A running program. Dropping it kills the program and its descendants.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
    pipe: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    pid: u32,
}

impl Supervised {
    /// Starts the program. That it could be started at all is seen from [`Self::is_running`] and its log.
    ///
    /// # Errors
    /// The shell could not be run.
    pub fn start(spec: &Spec<'_>) -> io::Result<Self> {
        let text = |path: Option<&Path>| path.map(|path| path.as_os_str().to_owned()).unwrap_or_default();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", SCRIPT, "sh"])
            .arg(text(spec.log))
            .arg(spec.last_signal)
            .arg(text(spec.trash.as_deref()))
            .args(spec.command)
            .envs(spec.env.iter().map(|(key, value)| (key, value)))
            .current_dir(spec.directory.unwrap_or(Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        if let Some(account) = spec.account {
            command.uid(account.uid).gid(account.gid);
        }
        let mut shell = command.spawn()?;
        let pipe = shell.stdin.take();
        let mut line = String::new();
        let mut output = shell.stdout.take().map(BufReader::new);
        if let Some(output) = &mut output {
            output.read_line(&mut line)?;
        }
        let pid = line
            .trim()
            .parse()
            .map_err(|_| io::Error::other("the shell did not start the program"))?;
        Ok(Self {
            shell,
            pipe,
            output,
            pid,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the program itself still runs; a paused one does.
    #[must_use]
    pub fn is_running(&self) -> bool {
        is_alive(self.pid)
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) {
        send(self.pid, signal);
    }

    /// Stops the program and all descendants in their tracks (SIGSTOP): connections stay open, nothing answers.
    pub fn pause(&self) {
        send(self.pid, Signal::STOP);
        for pid in descendants(self.pid) {
            send(pid, Signal::STOP);
        }
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&self) {
        for pid in descendants(self.pid) {
            send(pid, Signal::CONT);
        }
        send(self.pid, Signal::CONT);
    }

    /// Kills the program and all descendants (SIGKILL) and waits until they are gone.
    pub fn kill(mut self) {
        self.kill_all();
    }

    /// Asks the program to end, waits, and kills what is left after `patience`. `true` when it ended by itself.
    pub fn stop(mut self, signal: Signal, patience: Duration) -> bool {
        self.resume();
        self.signal(signal);
        let orderly = poll_until(patience, || !self.is_running());
        self.kill_all();
        orderly
    }

    /// Waits until the program has ended by itself, and kills it after `patience`. Its exit status, as a shell has it (128
    /// and the signal's number when a signal ended it); `None` when it had to be killed.
    pub fn wait(mut self, patience: Duration) -> Option<i32> {
        if !poll_until(patience, || !self.is_running()) {
            self.kill_all();
            return None;
        }
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"\n");
        }
        let mut line = String::new();
        let read = self.output.as_mut().map(|output| output.read_line(&mut line));
        let _ = self.shell.wait();
        read.and_then(Result::ok).and_then(|_| line.trim().parse().ok())
    }

    fn kill_all(&mut self) {
        // The parent is paused first, so that it cannot make new children while the list is taken.
        send(self.pid, Signal::STOP);
        let family = descendants(self.pid);
        send(self.pid, Signal::KILL);
        for pid in &family {
            send(*pid, Signal::KILL);
        }
        poll_until(KILL_PATIENCE, || {
            !is_alive(self.pid) && !family.iter().any(|pid| is_alive(*pid))
        });
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"\n");
        }
        let _ = self.shell.wait();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if self.pipe.is_some() {
            self.kill_all();
        }
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A process that is gone already needs no signal.
        let _ = kill_process(pid, signal);
    }
}

struct Process {
    pid: u32,
    parent: u32,
    dead: bool,
}

/// Whether the process exists and is not merely waiting to be collected by its parent.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    if Path::new("/proc/self/stat").exists() {
        return read_stat(pid).is_some_and(|process| !process.dead);
    }
    table().iter().any(|process| process.pid == pid && !process.dead)
}

/// Every living descendant of `root`, parents before children.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let table = table();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(
            table
                .iter()
                .filter(|process| process.parent == parent && !process.dead)
                .map(|p| p.pid),
        );
        next += 1;
    }
    found.split_off(1)
}

fn table() -> Vec<Process> {
    match fs::read_dir("/proc") {
        Ok(entries) if Path::new("/proc/self/stat").exists() => entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(read_stat)
            .collect(),
        _ => ask_ps(),
    }
}

fn read_stat(pid: u32) -> Option<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may itself hold brackets and spaces.
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    Some(Process {
        pid,
        parent: fields.next()?.parse().ok()?,
        dead,
    })
}

fn ask_ps() -> Vec<Process> {
    let Ok(output) = Command::new("ps").args(["-axo", "pid=,ppid=,stat="]).output() else {
        return Vec::new();
    };
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let (pid, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Process {
            pid,
            parent,
            dead: fields.next()?.starts_with('Z'),
        })
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(parse)
        .collect()
}
