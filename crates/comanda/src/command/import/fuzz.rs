//! Made-up files for the reader of NDJSON: each line is in a batch or rejected, once, under its own number, whatever the
//! size of the batches; and a run that goes on after another sees the same rest.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

impl Input {
    fn of(bytes: &[u8]) -> Self {
        Self {
            reader: Box::new(Cursor::new(bytes.to_vec())),
            path: PathBuf::from("made-up"),
            length: bytes.len() as u64,
            bytes: 0,
            line: 0,
            hash: Sha256::new(),
            ahead: None,
        }
    }
}

fn tally() -> Tally {
    Tally {
        bar: ProgressBar::hidden(),
        listed: Vec::new(),
        accepted: 0,
        rejected: 0,
    }
}

fn lines() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => "\\{\"type\":\"sale\",\"data\":\\{\"n\":-?[0-9]{1,20}(\\.[0-9]{0,3})?\\}\\}".prop_map(String::into_bytes),
        1 => "[ \t\r]{0,3}".prop_map(String::into_bytes),
        1 => "\\PC{0,20}".prop_map(String::into_bytes),
        1 => "[\\[\\]{}\",:0-9a-z ]{0,12}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (0_usize..300).prop_map(|depth| "[".repeat(depth).into_bytes()),
        1 => (0_usize..300).prop_map(|depth| ["{\"a\":".repeat(depth), "0".to_owned(), "}".repeat(depth)].concat().into_bytes()),
    ];
    (prop::collection::vec(line, 0..12), any::<bool>()).prop_map(|(lines, ended)| {
        let mut text = lines.join(&b'\n');
        if ended {
            text.push(b'\n');
        }
        text
    })
}

/// The lines of all batches, those that were rejected, and the key at the end.
fn read(bytes: &[u8], max: usize) -> (Vec<(u64, String)>, u64, String, u64) {
    let (mut input, mut tally) = (Input::of(bytes), tally());
    let mut taken = Vec::new();
    while let Some(batch) = input.batch(max, &mut tally).unwrap() {
        assert!(batch.lines.len() <= max);
        taken.extend(batch.lines.iter().map(|(line, raw)| (*line, raw.get().to_owned())));
    }
    assert_eq!(input.bytes, bytes.len() as u64, "everything was read");
    let key = input.key();
    (taken, tally.rejected, key, input.line)
}

proptest! {
    #[test]
    fn each_line_is_taken_or_rejected_once(bytes in lines(), max in 1_usize..20) {
        let (taken, rejected, key, last) = read(&bytes, max);
        let text: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let filled = text.iter().filter(|line| !line.trim_ascii().is_empty()).count();
        prop_assert_eq!(taken.len() as u64 + rejected, filled as u64);
        for (number, raw) in &taken {
            let line = text[usize::try_from(*number).unwrap() - 1];
            // To the letter: the digits of a number are the order's.
            prop_assert_eq!(raw.as_bytes(), line.trim_ascii());
            // However deep it goes: that is for the server to refuse, the line alone.
            let is_object = serde_json::from_str::<&RawValue>(raw).is_ok_and(|value| value.get().starts_with('{'));
            prop_assert!(is_object, "{}", raw);
        }
        prop_assert!(taken.is_sorted_by(|one, other| one.0 < other.0));
        // What a batch is sent under does not depend on how the lines before it were cut.
        prop_assert_eq!(read(&bytes, 1), (taken, rejected, key, last));
    }

    #[test]
    fn who_goes_on_sees_the_rest_and_no_other_file(bytes in lines(), max in 1_usize..5, at in any::<prop::sample::Index>()) {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let mut first = Input::of(&bytes);
        let mut ignored = tally();
        let Some(_) = first.batch(max, &mut ignored).unwrap() else { return Ok(()) };
        State { lines: first.line, sha256: first.key() }.write(&state).unwrap();
        let mut again = Input::of(&bytes);
        prop_assert_eq!(skip_imported(&mut again, Path::new("made-up"), &state).unwrap(), first.line);
        prop_assert_eq!(again.key(), first.key());
        let mut changed = bytes.clone();
        let place = at.index(usize::try_from(first.bytes).unwrap());
        changed[place] ^= 1;
        prop_assert!(skip_imported(&mut Input::of(&changed), Path::new("made-up"), &state).is_err());
    }

    #[test]
    fn what_is_written_beside_a_file_may_be_anything(text in "\\PC{0,60}|\\{\"lines\":[0-9]{1,25},\"sha256\":\"[0-9a-f]{0,64}\"\\}") {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::write(&state, &text).unwrap();
        let mut input = Input::of(b"{}\n");
        prop_assert!(skip_imported(&mut input, Path::new("made-up"), &state).is_err() || input.line == 0);
    }
}
