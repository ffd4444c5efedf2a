//! `cargo xtask dev`: everything from nothing, on this machine, in one command.
//!
//! It finds or installs PostgreSQL and Redis, runs private instances whose data lives in `.local`, builds the server,
//! migrates, seeds demo data, serves, and says how to try it. It then supervises: a part that dies is reported, not
//! restarted, so that outages can be watched; `cargo xtask outage` sends orders over a socket in `.local`. Ctrl-C
//! stops the server first, then the stores. If this process is killed instead, all of them end with it.

mod control;
mod guide;
mod local;
mod server;
mod stores;

use std::process::{Command, ExitCode};

use gravity_test_support::services::install;

use self::control::{Control, Event};
use self::server::Server;
use self::stores::Stores;
use crate::outage::{Act, Part};
use crate::{Outcome, workspace};

pub(crate) use self::control::CONTROL;

/// The addresses of the nodes, a line each; there while `dev` runs.
pub(crate) const NODES: &str = ".local/nodes";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Wipe .local first: databases, buffer, secrets
    #[arg(long)]
    reset: bool,
    /// Use the stores that DATABASE_URL and REDIS_URL (or .env) name instead of private ones
    #[arg(long)]
    no_services: bool,
    /// The server's port; by default 8080 or the next that is free
    #[arg(long)]
    port: Option<u16>,
    /// How many nodes share the stores
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    nodes: u8,
    /// Build and run with optimisations
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let control = Control::open()?;
    if arguments.reset {
        step("wiping .local");
        local::wipe()?;
    }
    local::create()?;
    let stores = if arguments.no_services {
        None
    } else {
        Some(start_stores()?)
    };
    step("building the server (a few minutes the first time)");
    let program = workspace::build_server(arguments.release)?;
    let mut server = Server::new(program.clone(), 1, arguments.port, stores.as_ref())?;
    for (command, what) in [
        ("migrate", "migrating the database"),
        ("seed", "adding demo data"),
    ] {
        step(what);
        let mut once = Command::new(server.program());
        workspace::run(once.arg(command).envs(server.environment().iter().cloned()))?;
    }
    step("starting the server");
    server.start()?;
    let second = match arguments.nodes {
        1 => None,
        _ => {
            step("starting the second node");
            let mut second = Server::new(program, 2, None, stores.as_ref())?;
            second.start()?;
            Some(second)
        }
    };
    let addresses = [Some(&server), second.as_ref()].into_iter().flatten();
    let addresses: String = addresses.map(|node| node.url() + "\n").collect();
    std::fs::write(NODES, addresses)?;
    let events = control.listen()?;
    guide::print(&server, second.as_ref(), stores.as_ref());
    let mut site = Site {
        stores,
        server,
        second,
    };
    site.supervise(&events);
    site.stop();
    Ok(ExitCode::SUCCESS)
}

fn start_stores() -> Result<Stores, Box<dyn std::error::Error>> {
    install::ensure(&mut |line| step(line))?;
    step("starting PostgreSQL and Redis");
    Stores::start()
}

fn step(what: &str) {
    eprintln!("==> {what}");
}

/// All that runs.
struct Site {
    stores: Option<Stores>,
    server: Server,
    second: Option<Server>,
}

impl Site {
    /// Until Ctrl-C: carries out orders and reports parts that went down.
    fn supervise(&mut self, events: &control::Events) {
        let parts = [Part::Postgres, Part::Redis, Part::Server, Part::Server2];
        let mut known = parts.map(|part| self.pid(part));
        loop {
            match events.next() {
                Event::Interrupted => return,
                Event::Order(order) => {
                    let done = self.carry_out(order.part, order.act);
                    known = parts.map(|part| self.pid(part));
                    order.answer(&done);
                }
                Event::Tick => {}
            }
            for (part, known) in parts.into_iter().zip(&mut known) {
                let now = self.pid(part);
                if known.is_some() && now.is_none() {
                    let word = format!("{part:?}").to_lowercase();
                    step(&format!(
                        "{part} went down; `cargo xtask outage {word} start` starts it again"
                    ));
                }
                *known = now;
            }
        }
    }

    fn pid(&self, part: Part) -> Option<u32> {
        match part {
            Part::Postgres => self.stores.as_ref().and_then(|stores| stores.postgres.pid()),
            Part::Redis => self.stores.as_ref().and_then(|stores| stores.redis.pid()),
            Part::Server => self.server.pid(),
            Part::Server2 => self.second.as_ref().and_then(Server::pid),
        }
    }

    /// Does it and says so, or says why not.
    fn carry_out(&mut self, part: Part, act: Act) -> Result<String, String> {
        if act != Act::Start && self.pid(part).is_none() {
            return Err(format!("{part} is not running"));
        }
        match part {
            Part::Server => self.server.obey(act).map_err(|error| error.to_string())?,
            Part::Server2 => {
                let second = self.second.as_mut().ok_or("there is one node (--nodes 2)")?;
                second.obey(act).map_err(|error| error.to_string())?;
            }
            Part::Postgres | Part::Redis => {
                let stores = self
                    .stores
                    .as_ref()
                    .ok_or("the stores are not ours (--no-services)")?;
                stores.obey(part, act).map_err(|error| error.to_string())?;
            }
        }
        let pid = self
            .pid(part)
            .map(|pid| format!(" (pid {pid})"))
            .unwrap_or_default();
        let done = match act {
            Act::Kill => "was killed",
            Act::Stop => "hangs",
            Act::Cont => "goes on",
            Act::Start => "runs",
        };
        let line = format!("{part} {done}{pid}");
        step(&line);
        Ok(line)
    }

    fn stop(self) {
        step("stopping the server");
        let _ = std::fs::remove_file(NODES);
        if let Some(second) = self.second {
            second.stop();
        }
        self.server.stop();
        if let Some(stores) = self.stores {
            step("stopping PostgreSQL and Redis");
            stores.stop();
        }
        step("stopped; the data stays in .local");
    }
}
