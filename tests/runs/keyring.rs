//! The keyring at the start, and the secrets that lie in files.

use penstock_sandbox::{Config, Sandbox};
use penstock_tests::{Client, Place};

use crate::NOOP;

const OLD: &str = "old:WX9EIDV99ywIg2xC6vzpTAJnAdGLt132YsRseUckGJk=";
const NEW: &str = "new:/uCJxTJpisAeedm7CqonBAj9fmoHPHj9Lr0ixtwWPvU=";

const UPLOAD: &str = "/v2/pipelines/noop/batches";

/// A keyring that nobody drew, or of another installation, is refused before anything is sealed under it.
#[tokio::test]
async fn a_wrong_keyring_is_refused_at_the_start() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", format!("zero:{}=", "A".repeat(43)));
    let said = place.refusal(&sandbox);
    assert!(said.contains("`zero` is not random") && said.contains("openssl rand -base64 32"), "{said}");
    place.set("PENSTOCK_ENCRYPTION_KEYS", OLD.into());
    let key = place.key(&sandbox, "acme");
    place.start(&sandbox, None).terminate();
    // Another name, the same name with another key, and a key that was dropped too early.
    let renamed = OLD.replace("old:", "older:");
    let changed = NEW.replace("new:", "old:");
    for wrong in [NEW, &renamed, &changed] {
        place.set("PENSTOCK_ENCRYPTION_KEYS", wrong.into());
        let said = place.refusal(&sandbox);
        assert!(said.contains("is not the keyring of this database"), "{said}");
        let (said, good) = place.say(&sandbox, &["keys", "create", "--owner", "acme"]);
        assert!(!good && said.contains("is not the keyring of this database"), "{said}");
    }
    place.set("PENSTOCK_ENCRYPTION_KEYS", format!("{NEW},{OLD}"));
    let service = place.start(&sandbox, None);
    Client::new(&service, &key).get("/v2/batches").await;
}

/// A keyring in a file is rotated under a running service: no restart, no error, and a file that makes no sense changes
/// nothing.
#[tokio::test]
async fn a_keyring_in_a_file_is_rotated_without_a_restart() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let mut place = Place::new(&[("noop.yaml", NOOP)]);
    place.unset("PENSTOCK_ENCRYPTION_KEYS");
    let write = |place: &Place, keys: &str| place.write("keyring", &format!("{keys}\n"));
    let file = write(&place, OLD);
    place.set("PENSTOCK_ENCRYPTION_KEYS_FILE", file);
    let key = place.key(&sandbox, "acme");
    let service = place.start(&sandbox, None);
    let client = Client::new(&service, &key);
    let upload = async |word: &str| {
        let (status, batch) = client.upload(UPLOAD, format!("id,note\n1,{word}\n")).await.expect("an answer");
        assert_eq!(status, 202, "{batch}");
        let id = batch["id"].as_str().expect("an id").to_owned();
        client.finished(&id).await;
        id
    };
    let before = upload("before").await;
    for wrong in ["nonsense", NEW] {
        write(&place, wrong);
        place.logged("the keyring from before stays in use").await;
    }
    let during = upload("during").await;
    write(&place, &format!("{OLD},{NEW}"));
    place.logged(r#""keys":"old, new""#).await;
    write(&place, &format!("{NEW},{OLD}"));
    place.logged(r#""keys":"new, old""#).await;
    let after = upload("after").await;
    let (done, good) = place.operate(&sandbox, &["crypto", "rewrap"]);
    assert!(good && done["active"] == "new", "{done}");
    write(&place, NEW);
    place.logged(r#""keys":"new""#).await;
    let last = upload("last").await;
    for (id, word) in [(before, "before"), (during, "during"), (after, "after"), (last, "last")] {
        let text = client.text(&format!("/v2/batches/{id}/results.csv")).await;
        assert!(text.contains(word), "{text}");
    }
    // A setting that is given twice is no setting.
    place.set("PENSTOCK_ENCRYPTION_KEYS", NEW.into());
    let said = place.refusal(&sandbox);
    assert!(
        said.contains("PENSTOCK_ENCRYPTION_KEYS and PENSTOCK_ENCRYPTION_KEYS_FILE are both set"),
        "{said}"
    );
}

/// A definition reads none of Penstock's own settings, the token of an API may lie in a file.
#[tokio::test]
async fn a_definition_reads_tokens_from_files_and_no_setting_of_penstock() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let text = |variable: &str| {
        format!(
            "name: leak\ncsv: {{ columns: [ {{ name: a }} ] }}\nsteps: []\ndependencies:\n  d: {{ base_url: \"https://d.example\", headers: {{ X: \"${{{variable}}}\" }} }}\n"
        )
    };
    let mut place = Place::new(&[("noop.yaml", NOOP), ("leak.yaml", &text("PENSTOCK_ENCRYPTION_KEYS"))]);
    place.set("PENSTOCK_ENCRYPTION_KEYS", OLD.into());
    let said = place.refusal(&sandbox);
    assert!(said.contains("leak.yaml:5: ") && said.contains("PENSTOCK_PIPELINE_VARIABLES"), "{said}");
    place.set("PENSTOCK_PIPELINE_VARIABLES", "OTHER,PENSTOCK_ENCRYPTION_KEYS".into());
    place.start(&sandbox, None).terminate();
    place.write("pipelines/leak.yaml", &text("CRM_TOKEN"));
    assert!(place.refusal(&sandbox).contains("the environment has no variable CRM_TOKEN"));
    let token = place.write("token", "s3cret\n");
    place.set("CRM_TOKEN_FILE", token);
    place.start(&sandbox, None).terminate();
}

/// Keys and rows are in the memory of a service: no core dump shows it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_service_cannot_be_dumped() {
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    let service = place.start(&sandbox, None);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", service.pid())).expect("its limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

/// Whoever can write the data folder can replace what lies in it.
#[cfg(unix)]
#[tokio::test]
async fn a_data_folder_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let sandbox = Sandbox::start(Config::default()).expect("a sandbox");
    let place = Place::new(&[("noop.yaml", NOOP)]);
    std::fs::create_dir_all(place.data()).expect("a folder");
    let mode = |mode| std::fs::set_permissions(place.data(), std::fs::Permissions::from_mode(mode));
    mode(0o777).expect("a mode");
    let said = place.refusal(&sandbox);
    assert!(said.contains("others can write") && said.contains("chmod go-w"), "{said}");
    mode(0o700).expect("a mode");
    place.start(&sandbox, None).terminate();
}
