use super::layers::Surroundings;
use super::{Config, SHORT_NAMES};
use std::collections::BTreeSet;

const SECRET: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b";
const NEEDED: [(&str, &str); 2] = [
    ("DATABASE_URL", "postgres://gravity@localhost/gravity"),
    ("JWT_SECRET", SECRET),
];

fn with(more: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let needed = NEEDED
        .iter()
        .filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    Config::from_variables(needed.chain(more).copied()).map_err(|error| error.0)
}

fn problems(more: &[(&str, &str)]) -> Vec<String> {
    with(more).expect_err("there should be a problem")
}

#[test]
fn the_defaults_with_a_database_and_a_secret_are_enough() {
    let config = with(&[]).unwrap();
    assert_eq!(config.environment, "production");
    assert_eq!(
        (config.server.host.as_str(), config.server.port),
        ("127.0.0.1", 8080)
    );
    assert_eq!(config.buffer.max_size, 1_000_000);
    assert_eq!(config.database.write_deadline.as_millis(), 1_000);
    assert!(config.redis.url.is_none());
    assert!(config.warnings.is_empty());
}

#[test]
fn shortages_of_connections_and_locks_end_before_they_look_like_an_outage() {
    let config = with(&[]).unwrap().database;
    let settings = config.settings();
    assert_eq!(settings.deadline, config.write_deadline / 2);
    assert!(settings.wait_timeout <= settings.deadline / 2);
    assert!(settings.wait_timeout + settings.lock_timeout < settings.deadline);
}

#[test]
fn all_problems_are_named_at_once_each_on_its_own_line() {
    let named = problems(&[
        ("SERVER_PORT", "eighty"),
        ("BUFFER_ENGINE", "paper"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, nowhere"),
        ("CORS_ALLOWED_ORIGINS", "https://a.example/path"),
        ("LOG_FORMAT", "xml"),
        ("TLS_CERT_FILE", "/nowhere/cert.pem"),
    ]);
    for (name, count) in [
        ("SERVER_PORT", 1),
        ("BUFFER_ENGINE", 1),
        ("TRUSTED_PROXIES", 1),
        ("CORS_ALLOWED_ORIGINS", 1),
        ("LOG_FORMAT", 1),
        ("TLS_CERT_FILE", 1),
    ] {
        assert_eq!(
            named.iter().filter(|line| line.starts_with(name)).count(),
            count,
            "{name}: {named:#?}"
        );
    }
    assert!(named.iter().all(|line| !line.contains('\n')));
}

#[test]
fn without_a_database_or_a_secret_it_does_not_start() {
    let named = Config::from_variables::<&str, &str>([]).unwrap_err().0;
    assert_eq!(named.len(), 2, "{named:#?}");
    assert!(named[0].contains("DATABASE_URL"));
    assert!(named[1].contains("JWT_SECRET"));
}

#[test]
fn a_weak_secret_stops_the_start_but_in_development_a_random_one_is_made_and_said() {
    assert!(problems(&[("JWT_SECRET", "short")])[0].contains("fewer than 32 bytes"));
    let config = Config::from_variables([("GRAVITY_ENV", "development")]).unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.auth.jwt_secret.is_some());
    let other = Config::from_variables([("GRAVITY_ENV", "development")]).unwrap();
    assert_ne!(config.auth.jwt_secret, other.auth.jwt_secret);
}

#[test]
fn with_an_outside_provider_no_secret_is_needed() {
    let jwks = ("JWT_JWKS_URL", "https://id.example/keys");
    let config = with(&[("JWT_SECRET", ""), jwks]).unwrap();
    assert!(config.auth.jwt_secret.is_none());
    assert!(with(&[jwks]).unwrap().auth.jwt_secret.is_none());
    assert!(
        with(&[jwks, ("AUTH_ALLOW_HS256", "true")])
            .unwrap()
            .auth
            .jwt_secret
            .is_some()
    );
    assert!(config.auth.auto_provision);
    assert!(problems(&[("JWT_JWKS_URL", "http://id.example/keys")])[0].contains("https"));
    assert!(with(&[("JWT_JWKS_URL", "http://127.0.0.1:99/keys")]).is_ok());
}

#[test]
fn a_public_key_leaves_own_tokens_on_when_there_is_a_secret_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, "a key").unwrap();
    let key = ("JWT_PUBLIC_KEY_FILE", file.to_str().unwrap());
    assert!(with(&[key]).unwrap().auth.jwt_secret.is_some());
    assert!(
        with(&[key, ("JWT_SECRET", "")])
            .unwrap()
            .auth
            .jwt_secret
            .is_none()
    );
    assert!(problems(&[key, ("JWT_SECRET", "short")])[0].contains("fewer than 32 bytes"));
}

#[test]
fn a_provider_s_keys_without_an_issuer_or_an_audience_are_warned_of() {
    let warnings = |more: &[(&str, &str)]| {
        let jwks = [("JWT_JWKS_URL", "https://id.example/keys")];
        with(&[&jwks, more].concat()).unwrap().warnings
    };
    let (issuer, audience) = (("JWT_ISSUER", "https://id.example"), ("JWT_AUDIENCE", "gravity"));
    assert_eq!(warnings(&[]).len(), 2);
    assert!(warnings(&[issuer])[0].contains("JWT_AUDIENCE"));
    assert!(warnings(&[audience])[0].contains("JWT_ISSUER"));
    assert!(warnings(&[issuer, audience]).is_empty());
}

#[test]
fn unknown_variables_of_ours_are_refused() {
    let named = problems(&[("GRAVITY__SERVER__PROT", "1"), ("GRAVITY__SERVE__PORT", "1")]);
    assert_eq!(named.len(), 2, "{named:#?}");
}

#[test]
fn every_key_has_a_long_name_and_both_names_must_agree() {
    assert_eq!(
        with(&[("GRAVITY__SERVER__PORT", "1234")]).unwrap().server.port,
        1234
    );
    assert!(with(&[("GRAVITY__SERVER__PORT", "1234"), ("SERVER_PORT", "1234")]).is_ok());
    assert!(problems(&[("GRAVITY__SERVER__PORT", "1234"), ("SERVER_PORT", "1")])[0].contains("same setting"));
}

#[test]
fn retention_of_applied_operations_covers_that_of_the_buffer() {
    let named = problems(&[("BUFFER_RETENTION_HOURS", "200")]);
    assert_eq!(named.len(), 2, "{named:#?}");
    assert!(named[0].contains("applied_operations_retention_hours"));
    assert!(named[1].contains("tombstone_retention_hours"));
}

#[test]
fn files_override_the_defaults_and_the_environment_overrides_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("default.toml", "[server]\nport = 1\nworkers = 1\nhost = \"a\"\n");
    write("production.toml", "[server]\nport = 2\nworkers = 2\n");
    let mut from = Surroundings::of_variables(NEEDED);
    from.config_dir = Some(dir.path().to_owned());
    from.dotenv.insert("SERVER_PORT".into(), "3".into());
    from.dotenv.insert("SERVER_WORKERS".into(), "3".into());
    from.environment
        .insert("GRAVITY__SERVER__PORT".into(), "4".into());
    let server = Config::read(&from).unwrap().server;
    assert_eq!((server.host.as_str(), server.workers, server.port), ("a", 3, 4));
}

#[test]
fn a_file_with_an_unknown_key_or_bad_syntax_is_refused_without_showing_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str| {
        std::fs::write(dir.path().join("production.toml"), text).unwrap();
        let mut from = Surroundings::of_variables(NEEDED);
        from.config_dir = Some(dir.path().to_owned());
        Config::read(&from).map_err(|error| error.0)
    };
    assert!(read("[server]\nprot = 1\n").unwrap_err()[0].contains("server.prot"));
    assert!(read("[sever]\nport = 1\n").unwrap_err()[0].contains("sever"));
    let named = read("[auth]\njwt_secret = hunter2hunter2\n").unwrap_err();
    assert!(named[0].contains("line 2"), "{named:?}");
    assert!(!named[0].contains("hunter2"), "{named:?}");
    assert!(read("[stream]\n[chat]\n").is_ok());
}

#[test]
fn an_unknown_environment_needs_a_file_of_its_own() {
    assert!(problems(&[("GRAVITY_ENV", "prodction")])[0].contains("prodction"));
    assert!(with(&[("GRAVITY_ENV", "test")]).is_ok());
}

#[test]
fn no_problem_and_no_debug_output_shows_a_secret() {
    let config = with(&[
        ("DB_PASSWORD", "hunter2"),
        ("REDIS_URL", "redis://:hunter2@cache"),
        ("REDIS_PUBSUB_CLUSTER", "redis://:hunter2@a, rediss://:hunter2@b"),
    ])
    .unwrap();
    assert_eq!(config.redis.pubsub_cluster[1].expose(), "rediss://:hunter2@b");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!format!("{config:?}").contains(SECRET));
    let named = problems(&[
        ("DATABASE_URL", "mysql://root:hunter2@db"),
        ("REDIS_URL", "hunter2"),
        ("REDIS_PUBSUB_CLUSTER", "redis://a,hunter2"),
    ]);
    assert_eq!(named.len(), 3, "{named:?}");
    assert!(!named.concat().contains("hunter2"), "{named:?}");
}

#[test]
fn sockets_are_let_in_from_the_origins_of_the_api_unless_they_have_their_own() {
    let origins = |chat| {
        let given = [
            ("CORS_ALLOWED_ORIGINS", "https://a.example.com"),
            ("CHAT_ALLOWED_ORIGINS", chat),
        ];
        with(&given).unwrap().chat.allowed_origins
    };
    assert_eq!(origins(""), ["https://a.example.com"]);
    assert_eq!(origins("https://b.example.com"), ["https://b.example.com"]);
    assert!(problems(&[("CHAT_ALLOWED_ORIGINS", "b.example.com")])[0].contains("CHAT_ALLOWED_ORIGINS"));
}

#[test]
fn ways_of_notifying_are_whole_or_not_there() {
    let key = "A".repeat(42) + "E";
    let none = with(&[]).unwrap().chat;
    assert!(none.vapid_private_key.is_none() && none.webhook.is_none());
    let all = [
        ("VAPID_PRIVATE_KEY", key.as_str()),
        ("VAPID_SUBJECT", "mailto:ops@example.com"),
        ("WEBHOOK_URL", "https://hooks.example.com/gravity"),
        ("WEBHOOK_SECRET", "hunter2"),
    ];
    let chat = with(&all).unwrap().chat;
    assert!(chat.vapid_private_key.is_some() && chat.webhook.is_some());
    assert!(!format!("{chat:?}").contains("hunter2"));
    for (left_out, missed) in [(1, "VAPID_SUBJECT"), (3, "WEBHOOK_SECRET")] {
        let mut some = all.to_vec();
        some.remove(left_out);
        assert!(problems(&some)[0].contains(missed), "{missed}");
    }
    for (name, wrong) in [
        ("VAPID_PRIVATE_KEY", "AAAA"),
        ("VAPID_SUBJECT", "ops@example.com"),
        ("WEBHOOK_URL", "http://hooks.example.com"),
        ("WEBHOOK_URL", "hooks"),
    ] {
        let one = all.map(|(key, value)| (key, if key == name { wrong } else { value }));
        assert!(problems(&one)[0].contains(name), "{name}={wrong}");
    }
    let plain = all.map(|(key, value)| {
        let plain = if key == "WEBHOOK_URL" {
            "http://127.0.0.1:1/"
        } else {
            value
        };
        (key, plain)
    });
    let mut allowed = plain.to_vec();
    allowed.push(("PUSH_ALLOW_LOOPBACK", "true"));
    assert!(with(&allowed).is_ok());
}

#[test]
fn a_collector_s_root_is_completed_to_the_address_of_its_traces() {
    let endpoint = |given| {
        with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", given)])
            .unwrap()
            .telemetry
            .otlp_endpoint
    };
    let whole = Some("http://collector:4318/v1/traces".to_owned());
    assert_eq!(endpoint("http://collector:4318"), whole);
    assert_eq!(endpoint("http://collector:4318/v1/traces"), whole);
}

fn repository_file(path: &str) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    std::fs::read_to_string(format!("{root}{path}")).unwrap()
}

#[test]
fn every_setting_is_in_the_operations_guide_and_every_short_name_in_the_example_too() {
    let layers = super::layers::Layers::read(&Surroundings::default());
    let guide = repository_file("docs/OPERATIONS.md");
    for key in layers.values.keys() {
        assert!(
            guide.contains(&format!("`{key}`")),
            "{key} is not in docs/OPERATIONS.md"
        );
    }
    let example = repository_file(".env.example");
    for (name, key) in SHORT_NAMES {
        assert!(
            layers.values.contains_key(*key),
            "{name} stands for {key}, which does not exist"
        );
        assert!(
            guide.contains(&format!("`{name}`")),
            "{name} is not in docs/OPERATIONS.md"
        );
        let given = example.lines().any(|line| {
            line.trim_start_matches(['#', ' '])
                .starts_with(&format!("{name}="))
        });
        assert!(given, "{name} is not in .env.example");
    }
}

#[test]
fn the_example_holds_only_variables_that_exist() {
    let known: BTreeSet<&str> = SHORT_NAMES
        .iter()
        .map(|(name, _)| *name)
        // The last is for the compose files.
        .chain(["GRAVITY_ENV", "GRAVITY_CONFIG_DIR", "POSTGRES_PASSWORD"])
        .collect();
    for line in repository_file(".env.example").lines() {
        let line = line.trim_start_matches(['#', ' ']);
        let Some((name, _)) = line.split_once('=') else {
            continue;
        };
        if name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
        {
            assert!(known.contains(name), "{name} is no setting");
        }
    }
}
