//! State files: whole or not at all, whoever reads them and whatever happens while they are written.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kvq_codec::{Backend, Policy};
use kvq_host::kv_store::KvStore;
use kvq_host::kv_store::packed::PackedStore;
use kvq_host::model::{LoadedModel, Message, load, prefill};
use kvq_host::policy::NamedPolicy;
use kvq_host::state::{Origin, STATE_VERSION, State};

fn four_x() -> NamedPolicy {
    NamedPolicy { name: "4x".into(), policy: Policy::FOUR_X }
}

/// The built-in model after `n` tokens that begin with `first`.
fn state_of(model: &LoadedModel, first: u32, n: u32) -> State {
    let tokens: Vec<u32> = (0..n).map(|i| (first + 7 * i) % 500).collect();
    let shape = model.model.config().kv_shape();
    let mut store = PackedStore::new(shape, Policy::FOUR_X, Backend::detect()).unwrap();
    prefill(&*model.model, &mut store, &tokens).unwrap();
    let messages = vec![Message::user("hello"), Message::assistant("there")];
    State::new(Origin::new(&model.info, &four_x(), messages), tokens, &store).unwrap()
}

fn open(state: &State, model: &LoadedModel, policy: &NamedPolicy) -> anyhow::Result<PackedStore> {
    state.open(&*model.model, &model.info, policy, Backend::detect())
}

fn error_of<T>(result: anyhow::Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

#[test]
fn a_state_comes_back_as_it_went() {
    let (model, folder) = (load("builtin", 0).unwrap(), tempfile::tempdir().unwrap());
    let (state, path) = (state_of(&model, 1, 300), folder.path().join("a.state"));
    state.write(&path).unwrap();
    let back = State::read(&path).unwrap();
    assert_eq!(back, state);
    let store = open(&back, &model, &four_x()).unwrap();
    assert_eq!((store.len(), store.cache().policy()), (300, &Policy::FOUR_X));
    let mut snapshot = vec![0; store.cache().snapshot_bytes()];
    store.cache().snapshot_into(&mut snapshot).unwrap();
    assert_eq!(snapshot, state.snapshot);
    // Once more over the old one, and nothing else is left in the folder.
    state_of(&model, 2, 40).write(&path).unwrap();
    assert_eq!(State::read(&path).unwrap().tokens.len(), 40);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn another_model_policy_or_vocabulary_is_refused_with_the_reason() {
    let model = load("builtin", 0).unwrap();
    let state = state_of(&model, 1, 20);
    let mut other = load("builtin", 0).unwrap();
    other.info.sha256 = "0".repeat(64);
    other.info.name = "another".into();
    let error = error_of(open(&state, &other, &four_x()));
    assert!(error.contains("saved with the model `builtin`") && error.contains("another"), "{error}");
    let policy = NamedPolicy { name: "8bit".into(), policy: Policy::EIGHT_BIT };
    let error = error_of(open(&state, &model, &policy));
    assert!(error.contains("policy `4x`") && error.contains("8bit"), "{error}");
    let mut changed = state.clone();
    changed.tokens[3] = 1 << 30;
    assert!(error_of(open(&changed, &model, &four_x())).contains("vocabulary"));
    changed = state.clone();
    changed.tokens.truncate(5);
    assert!(error_of(open(&changed, &model, &four_x())).contains("20 tokens for a text of 5"));
    // The snapshot has checks of its own.
    changed = state.clone();
    let middle = changed.snapshot.len() / 2;
    changed.snapshot[middle] ^= 1;
    assert!(error_of(open(&changed, &model, &four_x())).contains("snapshot"));
    assert!(open(&state, &model, &four_x()).is_ok());
}

#[test]
fn what_is_no_state_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("empty"), []).unwrap();
    std::fs::write(path("text"), "once upon a time").unwrap();
    let state = state_of(&load("builtin", 0).unwrap(), 1, 20);
    state.write(&path("newer")).unwrap();
    let mut bytes = std::fs::read(path("newer")).unwrap();
    bytes[8] += 1;
    std::fs::write(path("newer"), &bytes).unwrap();
    let newer = format!("version {} of the format", STATE_VERSION + 1);
    for (name, expected) in [
        ("empty", "no state file"),
        ("text", "no state file"),
        ("newer", newer.as_str()),
        ("missing", "cannot open"),
        (".", "no file"),
    ] {
        let error = error_of(State::read(&path(name)));
        assert!(error.contains(expected) && error.contains("state file"), "{name}: {error}");
    }
    let error = error_of(state.write(folder.path()));
    assert!(error.contains("folder") && error.contains("nothing was saved"), "{error}");
    assert!(error_of(state.write(&path("no/such/folder"))).contains("cannot write to the folder"));
}

/// Not a test by itself: what [`a_killed_save_leaves_a_whole_file`] kills.
#[test]
#[ignore = "the child process of another test"]
fn save_in_turns_until_killed() {
    let path = PathBuf::from(std::env::var_os("KVQ_TEST_SAVE_TO").expect("the other test sets it"));
    let model = load("builtin", 0).unwrap();
    let states = [state_of(&model, 1, 900), state_of(&model, 2, 901)];
    loop {
        states.iter().for_each(|state| state.write(&path).unwrap());
    }
}

fn start_saving(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "save_in_turns_until_killed", "--ignored"])
        .env("KVQ_TEST_SAVE_TO", path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_save_leaves_a_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let mut left_over = 0;
    for round in 0..12 {
        let mut child = start_saving(&path);
        // Until the first save of this child is seen, and then into the middle of some later one.
        let before = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
        while std::fs::metadata(&path).and_then(|m| m.modified()).ok() == before {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let state = State::read(&path).unwrap();
        assert!(matches!(state.tokens.len(), 900 | 901));
        left_over = std::fs::read_dir(folder.path()).unwrap().count() - 1;
    }
    // Otherwise no kill has hit a save, and the test has shown nothing.
    assert!(left_over > 0, "no unfinished file was left behind");
}

/// A limit on the size of files stands for a full disk: writes beyond it fail.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let save = |prompt: &str, limit: &str| {
        let command = format!(
            "trap '' XFSZ; ulimit -f {limit}; exec '{}' generate --new-tokens 200 --prompt '{prompt}' --save-state '{}'",
            env!("CARGO_BIN_EXE_kvq"),
            path.display()
        );
        // Into a pipe, which has no limit.
        Command::new("sh").args(["-c", &command]).output().unwrap()
    };
    assert!(save("One day,", "unlimited").status.success());
    let before = std::fs::read(&path).unwrap();
    let output = save("Once upon a time", "16");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("nothing was saved") && error.contains("a.state"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the unfinished file is gone");
}

/// Root may read and write everything, so a child gives that up.
#[cfg(unix)]
#[test]
fn a_file_or_folder_without_permission_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let (program, state) = (folder.path().join("kvq"), folder.path().join("a.state"));
    std::fs::copy(env!("CARGO_BIN_EXE_kvq"), &program).unwrap();
    state_of(&load("builtin", 0).unwrap(), 1, 20).write(&state).unwrap();
    mode(&state, 0o000);
    mode(folder.path(), 0o555);
    let is_root = std::fs::File::open(&state).is_ok();
    let kvq = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["generate", "--new-tokens", "2"]).args(arguments);
        if is_root {
            use std::os::unix::process::CommandExt;
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let path = state.display().to_string();
    let (code, error) = kvq(&["--load-state", &path]);
    assert_eq!(code, Some(1));
    assert!(error.contains("--load-state") && error.contains("ermission denied"), "{error}");
    let (code, error) = kvq(&["--prompt", "One day", "--save-state", &path]);
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot write to the folder") && error.contains("ermission denied"), "{error}");
    mode(folder.path(), 0o755);
    mode(&state, 0o644);
    assert_eq!(State::read(&state).unwrap().tokens.len(), 20);
}
