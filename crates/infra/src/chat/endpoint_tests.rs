use super::*;

struct Says(Vec<&'static str>);

impl LookUp for Says {
    fn look_up(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.0.iter().map(|address| address.parse().unwrap()).collect();
        Box::pin(async move { Ok(found) })
    }
}

struct Silent;

impl LookUp for Silent {
    fn look_up(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async { Err(io::Error::other("no such name")) })
    }
}

fn guard(lets_loopback: bool, addresses: &[&'static str]) -> EndpointGuard {
    EndpointGuard::new(lets_loopback, Arc::new(Says(addresses.to_vec())))
}

#[test]
fn only_public_addresses_and_https_pass_however_they_are_written() {
    let refused = [
        "http://push.example.com/x",
        "ftp://push.example.com/x",
        "javascript:alert(1)",
        "not a url",
        "https://user@push.example.com/x",
        "https://user:word@push.example.com/x",
        "https://localhost/x",
        "https://LOCALHOST./x",
        "https://a.localhost/x",
        "https://127.0.0.1/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0x7f000001/x",
        "https://0177.0.0.1/x",
        "https://0/x",
        "https://10.1.2.3/x",
        "https://100.64.0.1/x",
        "https://100.127.255.255/x",
        "https://169.254.169.254/latest/meta-data",
        "https://172.16.0.1/x",
        "https://172.31.255.255/x",
        "https://192.0.0.8/x",
        "https://192.0.2.1/x",
        "https://192.168.1.1/x",
        "https://198.18.0.1/x",
        "https://198.51.100.1/x",
        "https://203.0.113.1/x",
        "https://224.0.0.1/x",
        "https://240.0.0.1/x",
        "https://255.255.255.255/x",
        "https://[::]/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://[::ffff:a00:1]/x",
        "https://[::127.0.0.1]/x",
        "https://[64:ff9b::10.0.0.1]/x",
        "https://[64:ff9b:1::1]/x",
        "https://[fe80::1]/x",
        "https://[fec0::1]/x",
        "https://[fc00::1]/x",
        "https://[fd12:3456::1]/x",
        "https://[ff02::1]/x",
        "https://[100::1]/x",
        "https://[2001::1]/x",
        "https://[2001:db8::1]/x",
        "https://[2002:7f00:1::]/x",
        "https://[3fff::1]/x",
        "https://[5f00::1]/x",
    ];
    for endpoint in refused {
        assert!(guard(false, &[]).judge(endpoint).is_err(), "{endpoint}");
    }
    let long = format!("https://push.example.com/{}", "x".repeat(2_048));
    assert!(guard(false, &[]).judge(&long).is_err());
    let passing = [
        "https://push.example.com/x",
        "https://push.example.com:8443/x?y=z",
        "https://8.8.8.8/x",
        "https://100.63.255.255/x",
        "https://100.128.0.1/x",
        "https://172.32.0.1/x",
        "https://[2606:4700::1111]/x",
        "https://[2001:4860:4860::8888]/x",
        "https://[::ffff:8.8.8.8]/x",
        "https://[64:ff9b::8.8.8.8]/x",
    ];
    for endpoint in passing {
        assert!(guard(false, &[]).judge(endpoint).is_ok(), "{endpoint}");
    }
}

#[test]
fn the_setting_for_tests_opens_loopback_and_nothing_else() {
    for endpoint in [
        "http://127.0.0.1:8080/x",
        "http://localhost:8080/x",
        "https://[::1]/x",
    ] {
        assert!(guard(true, &[]).judge(endpoint).is_ok(), "{endpoint}");
    }
    for endpoint in [
        "http://push.example.com/x",
        "https://10.0.0.1/x",
        "http://192.168.0.1/x",
        "https://169.254.169.254/x",
    ] {
        assert!(guard(true, &[]).judge(endpoint).is_err(), "{endpoint}");
    }
}

#[tokio::test]
async fn a_name_that_leads_only_inwards_is_refused_and_one_that_leads_nowhere_yet_is_not() {
    let endpoint = "https://push.example.com/x";
    for inward in ["127.0.0.1", "10.0.0.1", "::1", "::ffff:192.168.0.1", "fd00::1"] {
        assert_eq!(
            guard(false, &[inward]).check(endpoint).await,
            Err(NOT_PUBLIC),
            "{inward}"
        );
    }
    assert_eq!(guard(false, &["8.8.8.8"]).check(endpoint).await, Ok(()));
    assert_eq!(
        EndpointGuard::new(false, Arc::new(Silent)).check(endpoint).await,
        Ok(())
    );
}

#[tokio::test]
async fn a_connection_gets_only_the_public_addresses_of_a_name() {
    let name = || "push.example.com".parse::<Name>().unwrap();
    let mixed = guard(false, &["10.0.0.1", "8.8.8.8", "::1"]);
    let found: Vec<SocketAddr> = mixed.resolve(name()).await.unwrap().collect();
    assert_eq!(found, ["8.8.8.8:0".parse().unwrap()]);
    let inward = guard(false, &["10.0.0.1"]);
    let refused = inward.resolve(name()).await.err().unwrap();
    assert!(refused.downcast_ref::<NotPublic>().is_some());
}
