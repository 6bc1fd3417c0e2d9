//! Certificates of authorities of the tests' own, made by the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A directory in which authorities sign certificates.
pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    /// Makes authorities of these names; the files are `NAME.pem` and `NAME.key`.
    pub fn of(authorities: &[&str]) -> Self {
        let made = Self {
            directory: tempfile::tempdir().expect("a directory can be made"),
        };
        for name in authorities {
            made.openssl(&format!(
                "req -x509 {KEY} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"
            ));
            std::fs::write(made.file(&format!("{name}.index")), "").expect("the file can be written");
            let text = format!(
                "[ca]\ndefault_ca = this\n[this]\ndatabase = {name}.index\nnew_certs_dir = .\ncertificate = {name}.pem\n\
                 private_key = {name}.key\nrand_serial = yes\ndefault_md = sha256\npolicy = any\ncopy_extensions = copy\n\
                 unique_subject = no\n[any]\ncommonName = supplied\n"
            );
            std::fs::write(made.file(&format!("{name}.cnf")), text).expect("the file can be written");
        }
        made
    }

    /// Has an authority sign a certificate for a name, which is also the host's where it is a server's: its files `NAME.pem` and
    /// `NAME.key`, under the name that is given. `until` is its last moment, such as `20200201000000Z`; `None`: two days on.
    pub fn sign(&self, authority: &str, name: &str, subject: &str, until: Option<&str>) {
        self.openssl(&format!(
            "req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={subject} -addext subjectAltName=DNS:{subject}"
        ));
        let valid = match until {
            Some(until) => format!("-startdate 20200101000000Z -enddate {until}"),
            None => "-days 2".to_owned(),
        };
        self.openssl(&format!(
            "ca -batch -notext -config {authority}.cnf -in {name}.csr -out {name}.pem {valid}"
        ));
    }

    /// The path of a file.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, args: &str) {
        let mut command = Command::new("openssl");
        run(command
            .current_dir(self.directory.path() as &Path)
            .args(args.split(' ')));
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
