//! Builds again when a migration changes: they are compiled in.

#[allow(clippy::print_stdout, reason = "the way a build script speaks to cargo")]
fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
