//! What reaches a running `dev` from outside: Ctrl-C, and orders over a socket in `.local`.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use super::local;
use crate::outage::{self, Act, Part};

/// The socket, relative to the workspace: an absolute path may exceed what the system allows for a socket.
pub(crate) const CONTROL: &str = ".local/control.sock";

const TICK: Duration = Duration::from_millis(300);
const ORDER_PATIENCE: Duration = Duration::from_secs(2);
/// Orders waiting to be carried out; whoever sends more waits.
const QUEUE: usize = 8;

pub(super) enum Event {
    Interrupted,
    Order(Order),
    Tick,
}

/// An order, and where its answer goes.
pub(super) struct Order {
    pub(super) part: Part,
    pub(super) act: Act,
    stream: UnixStream,
}

impl Order {
    pub(super) fn answer(mut self, done: &Result<String, String>) {
        // Whoever asked may be gone; the order is carried out all the same.
        let _ = match done {
            Ok(what) => writeln!(self.stream, "ok {what}"),
            Err(why) => writeln!(self.stream, "error {}", why.replace('\n', " ")),
        };
    }
}

/// The right to run `dev` in this workspace.
pub(super) struct Control;

impl Control {
    /// Fails when another `dev` runs here already.
    pub(super) fn open() -> Result<Self, Box<dyn Error>> {
        local::create()?;
        if UnixStream::connect(CONTROL).is_ok() {
            return Err("`cargo xtask dev` runs in this workspace already".into());
        }
        Ok(Self)
    }

    /// Starts listening. From here on Ctrl-C is an event; a second one ends the process at once.
    pub(super) fn listen(self) -> Result<Events, Box<dyn Error>> {
        let _ = fs::remove_file(CONTROL);
        let listener = UnixListener::bind(CONTROL)?;
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let interrupts = sender.clone();
        let interrupted = AtomicBool::new(false);
        ctrlc::set_handler(move || {
            if interrupted.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            let _ = interrupts.try_send(Event::Interrupted);
        })?;
        std::thread::spawn(move || take_orders(&listener, &sender));
        Ok(Events(receiver))
    }
}

pub(super) struct Events(Receiver<Event>);

impl Events {
    /// The next event; a tick when nothing happens for a while.
    pub(super) fn next(&self) -> Event {
        match self.0.recv_timeout(TICK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => Event::Tick,
            Err(RecvTimeoutError::Disconnected) => Event::Interrupted,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = fs::remove_file(CONTROL);
    }
}

fn take_orders(listener: &UnixListener, events: &SyncSender<Event>) {
    for stream in listener.incoming().flatten() {
        let mut line = String::new();
        let _ = stream.set_read_timeout(Some(ORDER_PATIENCE));
        // A mere connection, as `Control::open` makes, holds no order.
        if BufReader::new(&stream).read_line(&mut line).is_ok()
            && let Some((part, act)) = outage::parse(&line)
            && events.send(Event::Order(Order { part, act, stream })).is_err()
        {
            return;
        }
    }
}
