//! The dependency rules: which crate of the house may know which, and what may come from outside.
//!
//! - The arrows: `domain <- usecase`, `domain <- infra`, `domain + usecase <- api`, everything `<- server`; and
//!   neither `domain` nor `usecase` reaches a crate that does I/O, not even through others.
//! - Bans, licences and sources as deny.toml says. This is the part of cargo-deny that needs no installation.
//!
//! All of it is read from `cargo metadata`, which also fails when Cargo.lock is out of date. Its graph holds some
//! optional crates that no build uses; `cargo tree` says which are really there, on any platform.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;

use serde_json::Value;

use super::licence;
use crate::workspace;

/// What each crate of the house may use of the house; tests may use `gravity-test-support` besides.
const ARROWS: &[(&str, &[&str])] = &[
    ("gravity-domain", &[]),
    ("gravity-usecase", &["gravity-domain"]),
    ("gravity-infra", &["gravity-domain"]),
    ("gravity-api", &["gravity-domain", "gravity-usecase"]),
    (
        "gravity-server",
        &[
            "gravity-domain",
            "gravity-usecase",
            "gravity-infra",
            "gravity-api",
        ],
    ),
    ("xtask", &["gravity-test-support"]),
];
const FOR_TESTS: &str = "gravity-test-support";

/// Crates that do I/O, kept out of everything that the inner crates reach.
const IO: &[&str] = &[
    "actix-web",
    "deadpool-postgres",
    "hyper",
    "mio",
    "redb",
    "redis",
    "refinery",
    "reqwest",
    "rustls",
    "sled",
    "socket2",
    "tokio-postgres",
];
/// Who must not reach [`IO`], and what is let through: tokio's own net layer is not used by use cases.
const PURE: &[(&str, &[&str])] = &[("gravity-domain", &[]), ("gravity-usecase", &["mio", "socket2"])];

pub(super) fn check() -> Result<(), Box<dyn Error>> {
    eprintln!("$ dependency check (arrows, bans, licences, sources)");
    let metadata = output_of(&["metadata", "--format-version", "1", "--locked"])?;
    let mut graph = Graph::read(&serde_json::from_str(&metadata)?)?;
    let edges = "normal,build,dev";
    let tree = output_of(&[
        "tree",
        "--workspace",
        "--target",
        "all",
        "-e",
        edges,
        "--prefix",
        "none",
        "--locked",
    ])?;
    graph.keep_only(&tree);
    let rules = Rules::read(&fs::read_to_string("deny.toml")?)?;
    let mut problems = graph.wrong_arrows();
    problems.extend(graph.impure());
    problems.extend(graph.against(&rules));
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("dependencies:\n  {}", problems.join("\n  ")).into())
    }
}

fn output_of(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let output = workspace::cargo().args(arguments).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    source: Option<String>,
    /// Ids of what it uses, and whether only its tests do.
    uses: Vec<(String, bool)>,
}

struct Graph(BTreeMap<String, Package>);

impl Graph {
    fn read(metadata: &Value) -> Result<Self, Box<dyn Error>> {
        let mut packages = BTreeMap::new();
        for package in array(&metadata["packages"])? {
            let text = |key: &str| package[key].as_str().map(str::to_owned);
            packages.insert(
                text("id").ok_or("a package without id")?,
                Package {
                    name: text("name").unwrap_or_default(),
                    version: text("version").unwrap_or_default(),
                    licence: text("license"),
                    source: text("source"),
                    uses: Vec::new(),
                },
            );
        }
        for node in array(&metadata["resolve"]["nodes"])? {
            let Some(package) = node["id"].as_str().and_then(|id| packages.get_mut(id)) else {
                continue;
            };
            for dependency in array(&node["deps"])? {
                let kinds = array(&dependency["dep_kinds"])?;
                let tests_only = kinds.iter().all(|kind| kind["kind"] == "dev");
                let id = dependency["pkg"].as_str().unwrap_or_default();
                package.uses.push((id.to_owned(), tests_only));
            }
        }
        Ok(Self(packages))
    }

    /// Forgets the packages that do not occur in what `cargo tree` printed: lines of `name vVERSION …`.
    fn keep_only(&mut self, tree: &str) {
        let built: BTreeSet<(&str, &str)> = tree
            .lines()
            .filter_map(|line| line.split_once(" v"))
            .map(|(name, rest)| (name, rest.split_whitespace().next().unwrap_or_default()))
            .collect();
        self.0
            .retain(|_, package| built.contains(&(package.name.as_str(), package.version.as_str())));
        let kept: BTreeSet<String> = self.0.keys().cloned().collect();
        for package in self.0.values_mut() {
            package.uses.retain(|(id, _)| kept.contains(id));
        }
    }

    fn named(&self, name: &str) -> Option<&Package> {
        self.0
            .values()
            .find(|package| package.name == name && package.source.is_none())
    }

    fn wrong_arrows(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, allowed) in ARROWS {
            let Some(package) = self.named(name) else {
                problems.push(format!("{name} is not in the workspace"));
                continue;
            };
            for (id, tests_only) in &package.uses {
                let used = &self.0[id];
                let house = used.source.is_none() && used.name != *name;
                let allowed =
                    allowed.contains(&used.name.as_str()) || (*tests_only && used.name == FOR_TESTS);
                if house && !allowed {
                    problems.push(format!("{name} must not depend on {}", used.name));
                }
            }
        }
        problems
    }

    fn impure(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, exempt) in PURE {
            let Some(package) = self.named(name) else { continue };
            for reached in self.reached_from(package) {
                if IO.contains(&reached) && !exempt.contains(&reached) {
                    problems.push(format!("{name} must do no I/O, but reaches {reached}"));
                }
            }
        }
        problems
    }

    /// The names of all that a package uses outside its tests, directly or not.
    fn reached_from<'a>(&'a self, package: &'a Package) -> BTreeSet<&'a str> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![package]);
        while let Some(package) = open.pop() {
            for (id, tests_only) in &package.uses {
                if !tests_only && reached.insert(id) {
                    open.push(&self.0[id]);
                }
            }
        }
        reached.into_iter().map(|id| self.0[id].name.as_str()).collect()
    }

    fn against(&self, rules: &Rules) -> Vec<String> {
        let allowed: Vec<&str> = rules.licences.iter().map(String::as_str).collect();
        let mut problems = Vec::new();
        for package in self.0.values() {
            let label = format!("{} {}", package.name, package.version);
            if rules.banned.contains(&package.name) {
                problems.push(format!("{label} is banned"));
            }
            let Some(source) = &package.source else { continue };
            if !rules
                .sources
                .iter()
                .any(|allowed| source.ends_with(allowed.as_str()))
            {
                problems.push(format!("{label} comes from {source}"));
            }
            let licence = package.licence.as_deref().unwrap_or("none");
            if !licence::is_allowed(licence, &allowed) {
                problems.push(format!("{label} has the licence {licence}"));
            }
        }
        problems
    }
}

/// What deny.toml says.
struct Rules {
    banned: Vec<String>,
    licences: Vec<String>,
    sources: Vec<String>,
}

impl Rules {
    fn read(text: &str) -> Result<Self, Box<dyn Error>> {
        let table: toml::Table = text.parse()?;
        let list = |section: &str, key: &str| -> Result<Vec<String>, Box<dyn Error>> {
            let items = table
                .get(section)
                .and_then(|section| section.get(key))
                .and_then(toml::Value::as_array);
            let items = items.ok_or_else(|| format!("deny.toml lacks {section}.{key}"))?;
            let name = |item: &toml::Value| item.get("crate").unwrap_or(item).as_str().map(str::to_owned);
            Ok(items.iter().filter_map(name).collect())
        };
        Ok(Self {
            banned: list("bans", "deny")?,
            licences: list("licenses", "allow")?,
            sources: list("sources", "allow-registry")?,
        })
    }
}

fn array(value: &Value) -> Result<&Vec<Value>, Box<dyn Error>> {
    value
        .as_array()
        .ok_or_else(|| "cargo metadata has another shape than expected".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DENY: &str = r#"
        [bans]
        deny = [{ crate = "openssl-sys", reason = "one TLS stack" }]
        [licenses]
        allow = ["MIT"]
        [sources]
        allow-registry = ["https://github.com/rust-lang/crates.io-index"]
    "#;

    fn package(name: &str, source: Option<&str>, licence: &str) -> Value {
        json!({"id": name, "name": name, "version": "1.0.0", "license": licence, "source": source})
    }

    fn graph(outside: &[Value], uses: &[(&str, &str, Option<&str>)]) -> Graph {
        let house = ARROWS.iter().map(|(name, _)| *name).chain([FOR_TESTS]);
        let packages: Vec<Value> = house
            .map(|name| package(name, None, "MIT"))
            .chain(outside.to_vec())
            .collect();
        let nodes: Vec<Value> = packages
            .iter()
            .map(|package| {
                let deps: Vec<Value> = uses
                    .iter()
                    .filter(|(from, ..)| *from == package["id"])
                    .map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                json!({"id": package["id"], "deps": deps})
            })
            .collect();
        Graph::read(&json!({"packages": packages, "resolve": {"nodes": nodes}})).unwrap()
    }

    const CRATES_IO: Option<&str> = Some("registry+https://github.com/rust-lang/crates.io-index");

    #[test]
    fn a_crate_may_not_use_one_further_out() {
        let wrong = graph(
            &[],
            &[
                ("gravity-api", "gravity-infra", None),
                ("gravity-api", "gravity-usecase", None),
            ],
        );
        assert_eq!(
            wrong.wrong_arrows(),
            ["gravity-api must not depend on gravity-infra"]
        );
        let tests = graph(&[], &[("gravity-infra", FOR_TESTS, Some("dev"))]);
        assert!(tests.wrong_arrows().is_empty());
        let not_tests = graph(&[], &[("gravity-infra", FOR_TESTS, None)]);
        assert_eq!(not_tests.wrong_arrows().len(), 1);
    }

    #[test]
    fn the_domain_may_not_reach_io_even_through_others() {
        let outside = [
            package("between", CRATES_IO, "MIT"),
            package("redis", CRATES_IO, "MIT"),
        ];
        let graph = graph(
            &outside,
            &[("gravity-domain", "between", None), ("between", "redis", None)],
        );
        assert_eq!(
            graph.impure(),
            ["gravity-domain must do no I/O, but reaches redis"]
        );
    }

    #[test]
    fn bans_licences_and_sources_are_those_of_deny_toml() {
        let outside = [
            package("openssl-sys", CRATES_IO, "MIT"),
            package("copyleft", CRATES_IO, "GPL-3.0-only"),
            package("elsewhere", Some("git+https://example.com/x"), "MIT"),
        ];
        let problems = graph(&outside, &[]).against(&Rules::read(DENY).unwrap());
        assert_eq!(
            problems,
            [
                "copyleft 1.0.0 has the licence GPL-3.0-only",
                "elsewhere 1.0.0 comes from git+https://example.com/x",
                "openssl-sys 1.0.0 is banned",
            ]
        );
    }

    #[test]
    fn optional_crates_that_no_build_uses_do_not_count() {
        let outside = [
            package("built", CRATES_IO, "GPL-3.0"),
            package("optional", CRATES_IO, "GPL-3.0"),
        ];
        let mut graph = graph(&outside, &[("built", "optional", None)]);
        graph.keep_only("gravity-domain v1.0.0 (/somewhere)\nbuilt v1.0.0\nbuilt v1.0.0 (*)\n");
        let problems = graph.against(&Rules::read(DENY).unwrap());
        assert_eq!(problems, ["built 1.0.0 has the licence GPL-3.0"]);
    }

    #[test]
    fn rules_that_are_missing_are_an_error_and_not_an_empty_list() {
        assert!(Rules::read("[bans]\ndeny = []").is_err());
    }
}
