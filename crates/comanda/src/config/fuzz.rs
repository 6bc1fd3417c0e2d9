//! Made-up configurations: files torn apart, variables of any name and value, flags. What is wrong is said, with its place;
//! nothing panics, and no secret is shown.

use proptest::prelude::*;

use super::*;

/// Every kind of section, with what may stand in it.
const WHOLE: &str = r#"
listen = "127.0.0.1:8080"
data = "./comanda-data"
store = "postgres://user:hunter2@db/comanda"
mounts = ["/orders=sale"]
final_kept = "30d"
[limits]
body_bytes_max = "1MiB"
[engine]
concurrency = 8
[log]
level = "info"
[env]
CUSTOMERS_URL = "http://127.0.0.1:1"
[secrets]
payments = { env = "PAYMENTS" }
plain = "hunter2"
[archives.failures]
directory = "./failed"
[subscriptions.audit]
url = "https://audit.example/events"
secret = "whsec_aHVudGVyMg=="
[intake.shop]
webhook = { secrets = ["whsec_aHVudGVyMg=="] }
type = "sale"
[mail]
url = "smtp://user:hunter2@mail.example"
from = "shop@example.com"
[customers]
http = "GET https://crm.example/{{ with.customer }}"
"#;

fn load_text(text: &str, environment: Vec<(String, String)>) -> Result<(Config, Vec<Setting>), ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("comanda.toml");
    std::fs::write(&path, text).unwrap();
    let loaded = load(&Sources {
        file: Some(path),
        environment,
        flags: Serve::default(),
    });
    if let Err(error) = &loaded {
        assert!(!error.to_string().is_empty());
    }
    loaded
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "COMANDA_(LISTEN|DATA|STORE|MOUNTS|FINAL_KEPT|LOG__LEVEL|ENGINE__CONCURRENCY|LIMITS__BODY_BYTES_MAX)",
        "COMANDA_[A-Z_]{0,20}",
        "COMANDA_(ENV|SECRETS|ARCHIVES|SUBSCRIPTIONS|INTAKE|MAIL)__[A-Za-z_]{1,12}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,25}(ms|s|m|h|d|B|KiB|MiB|GiB)?",
        "[a-z]{1,8}://\\PC{0,20}",
        "[0-9a-f.:\\[\\]]{0,30}",
        "/[a-z/]{0,8}=[a-z,= /]{0,20}",
        "[\\[\\]{}=,\"\\\\0-9a-z ]{0,20}",
        "\\PC{0,20}",
    ]
}

proptest! {
    #[test]
    fn files_torn_apart(cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, value()), 1..6)) {
        let mut text: Vec<char> = WHOLE.chars().collect();
        for (at, length, put) in cuts {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, put.chars());
        }
        let _ = load_text(&text.into_iter().collect::<String>(), Vec::new());
    }

    #[test]
    fn variables_of_any_name(pairs in prop::collection::vec((name(), value()), 0..6)) {
        let _ = load_text("", pairs);
    }

    #[test]
    fn durations_and_sizes(text in value(), number in any::<u64>()) {
        let _ = (units::duration(&text), units::size(&text));
        for unit in ["ms", "s", "m", "h", "d"] {
            if let Ok(read) = units::duration(&format!("{number}{unit}")) {
                prop_assert!(!units::show(read).is_empty());
            }
        }
        prop_assert_eq!(units::duration(&format!("{number}ms")), Ok(Duration::from_millis(number)));
    }
}
