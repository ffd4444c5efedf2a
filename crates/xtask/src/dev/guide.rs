//! What `dev` prints once all is up: where it is, and what to try.

use super::server::Server;
use super::stores::Stores;

pub(super) fn print(server: &Server, second: Option<&Server>, stores: Option<&Stores>) {
    let url = server.url();
    println!(
        r#"
Gravity is running: {url}          API docs: {url}/docs/
Demo login: demo / demo-password-1

Try it, in another terminal:

  curl -s {url}/api/v1/auth/register -H 'Content-Type: application/json' -d '{{"username":"you","password":"correct-horse-1"}}'
  TOKEN=$(curl -s {url}/api/v1/auth/login -H 'Content-Type: application/json' -d '{{"username":"demo","password":"demo-password-1"}}' | sed 's/.*"accessToken":"\([^"]*\)".*/\1/')
  curl -si {url}/api/v1/tasks -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{{"title":"Outlive the database"}}'
  curl -s {url}/api/v1/tasks -H "Authorization: Bearer $TOKEN""#
    );
    if let Some(second) = second {
        println!(
            "\nThe second node is {}. Talk, in two terminals:\n\n  cargo xtask chat demo --with ada\n  cargo xtask chat ada --with demo --node 2",
            second.url()
        );
    } else {
        println!(
            "\nTalk, in two terminals (`--nodes 2` gives a second node to resume on):\n\n  cargo xtask chat demo --with ada\n  cargo xtask chat ada --with demo"
        );
    }
    let Some(stores) = stores else {
        println!("\nCtrl-C stops the server.");
        return;
    };
    let pid = |pid: Option<u32>| pid.map_or_else(|| "down".to_owned(), |pid| format!("pid {pid}"));
    println!(
        r"
Make an outage (the server keeps accepting: 202, and nothing is lost):

  cargo xtask outage postgres kill      then create tasks as above, and list them
  cargo xtask outage server kill        kill -9, with the writes still buffered
  cargo xtask outage server start
  cargo xtask outage postgres start     curl -s {url}/ready shows the buffer drain
  cargo xtask outage postgres stop      hangs instead of dying; `cont` lets it go on. Redis takes the same orders

PostgreSQL 127.0.0.1:{} ({})   Redis 127.0.0.1:{} ({})   server {}
Ctrl-C stops everything. The data stays in .local; `cargo xtask dev --reset` starts afresh.
",
        stores.postgres.port(),
        pid(stores.postgres.pid()),
        stores.redis.port(),
        pid(stores.redis.pid()),
        pid(server.pid()),
    );
}
