//! The program under test: runs `copriv` in a folder of its own.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A temporary folder in which commands run.
pub struct Workplace(tempfile::TempDir);

/// What a command left behind.
pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Workplace {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_copriv"));
        command.current_dir(self.0.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs to the end, whatever comes of it.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Outcome {
            status: output.status.code().expect("it was not killed"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs a command that must succeed; its stdout.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let Outcome { status, stdout, stderr } = self.run(arguments);
        assert_eq!(status, 0, "{arguments:?}: {stderr}");
        stdout
    }

    /// Runs a command that must fail with status 1 and no panic; the error.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let Outcome { status, stdout, stderr } = self.run(arguments);
        assert_eq!(status, 1, "{arguments:?}: {stdout}{stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
        let error = stderr.find("error: ");
        stderr[error.unwrap_or_else(|| panic!("{arguments:?}: {stderr}"))..].to_owned()
    }

    /// A random network of small width, compiled with both presets: `net`, `fused`, `PRESET/`.
    pub fn compile_small(&self, mask: &str) {
        let init = ["init", "--network", "mobilenet_v2", "--width", "0.05", "--classes", "10"];
        self.succeed(&[&init[..], &["--resolution", "16", "--out", "whole"]].concat());
        self.succeed(&["prune", "whole", "--mask", mask, "--out", "net"]);
        self.succeed(&["fuse", "net", "--out", "fused", "--verify", "2"]);
        for preset in ["cryptflow2", "copriv"] {
            self.succeed(&["compile", "fused", "--out", preset, "--preset", preset]);
        }
    }

    /// Writes a 16x16 picture; its channel-major pixels.
    pub fn picture(&self, name: &str, seed: u32) -> Vec<u8> {
        self.picture_of(name, 16, seed)
    }

    /// Writes a picture of so many pixels a side; its channel-major pixels.
    pub fn picture_of(&self, name: &str, side: u32, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let image =
            image::RgbImage::from_fn(side, side, |_, _| image::Rgb([next(), next(), next()]));
        image.save(self.path(name)).expect("writes");
        (0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel[channel])).collect()
    }

    /// A server for a plan folder, on a free port.
    pub fn serve(&self, folder: &str, sessions: usize) -> Server {
        self.serve_with(folder, &["--sessions", &sessions.to_string()])
    }

    /// The same with other options.
    pub fn serve_with(&self, folder: &str, options: &[&str]) -> Server {
        let arguments = ["serve", folder, "--listen", "127.0.0.1:0"];
        self.listen(&[&arguments[..], options].concat())
    }

    /// A relay to a server, for one connection, as slow as a network.
    pub fn link(&self, server: &str, network: &str) -> Server {
        let link = ["bench", "link", "--listen", "127.0.0.1:0", "--connect", server];
        self.listen(&[&link[..], &["--network", network, "--sessions", "1"]].concat())
    }

    /// A process that prints the address on which it listens.
    fn listen(&self, arguments: &[&str]) -> Server {
        let mut child = self
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("the server speaks");
        let address = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Server { child, address }
    }
}

/// A server process, ended when dropped.
pub struct Server {
    child: Child,
    pub address: String,
}

impl Server {
    pub fn wait(mut self) -> i32 {
        self.child.wait().expect("the server ends").code().expect("it was not killed")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The small data set of the repository.
pub fn sample() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/cifar100_sample");
    folder.to_str().expect("UTF-8").to_owned()
}
