//! What goes wrong is said clearly, with exit status 1 (2 for usage), and destroys nothing.

mod program;

use program::{Workplace, json};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

const MASK: &str = "11111111111111110";

#[test]
fn wrong_usage_has_status_2() {
    let place = Workplace::new();
    for arguments in [&["fly"][..], &["fuse"], &["init", "--network"], &["infer", "--plan", "x"]] {
        assert_eq!(place.run(arguments).status, 2, "{arguments:?}");
    }
}

#[test]
fn damaged_and_foreign_artefacts_are_named() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let whole = std::fs::read(place.path("fused")).expect("reads");
    std::fs::write(place.path("old"), "precious").expect("writes");
    let compile = ["compile", "damaged", "--out", "old"];

    let mut flipped = whole.clone();
    let at = whole.len() - 100;
    flipped[at] ^= 1;
    let cases: [(&[u8], &str); 4] = [
        (&whole[..whole.len() / 2], "damaged"),
        (&flipped, "digest"),
        (b"neither JSON nor safetensors", "no CoPriv artefact"),
        (b"", "no CoPriv artefact"),
    ];
    for (content, expected) in cases {
        std::fs::write(place.path("damaged"), content).expect("writes");
        let error = place.fail(&compile);
        assert!(error.contains("damaged"), "names the file: {error}");
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(std::fs::read(place.path("old")).expect("reads"), b"precious");
    }

    let error = place.fail(&["fuse", "fused", "--out", "old"]);
    assert!(error.contains("fused-model") && error.contains("checkpoint"), "{error}");
    let error = place.fail(&["inspect", "nowhere"]);
    assert!(error.contains("nowhere"), "{error}");
    let error = place.fail(&["serve", "fused", "--listen", "127.0.0.1:0"]);
    assert!(error.contains("copriv compile"), "{error}");
    assert_eq!(std::fs::read(place.path("old")).expect("reads"), b"precious");
}

#[test]
fn impossible_settings_are_named() {
    let place = Workplace::new();
    place.compile_small(MASK);
    let init = |arguments: &[&str]| place.fail(&[&["init", "--out", "x"], arguments].concat());
    assert!(init(&["--network", "vgg"]).contains("resnet18"));
    assert!(init(&["--network", "resnet18", "--width", "0"]).contains("width"));
    assert!(place.fail(&["prune", "net", "--mask", "01", "--out", "x"]).contains("17 digits"));
    let compile =
        |arguments: &[&str]| place.fail(&[&["compile", "fused", "--out", "x"], arguments].concat());
    assert!(compile(&["--preset", "slow"]).contains("cryptflow2"));
    assert!(compile(&["--set", "rings=41"]).contains("ring"));
    assert!(compile(&["--set", "ring=20"]).contains("bits"));
    assert!(compile(&["--calibrate", "mnist"]).contains("cifar100"));
    assert!(!place.path("x").exists());
}

#[test]
fn bad_images_cost_no_session() {
    let place = Workplace::new();
    place.compile_small(MASK);
    place.picture("good.png", 1);
    std::fs::write(place.path("bad.png"), "no picture").expect("writes");
    let arguments =
        ["infer", "--plan", "copriv", "--connect", "127.0.0.1:1", "good.png", "bad.png"];
    let error = place.fail(&arguments);
    assert!(error.contains("bad.png"), "{error}");
    let error = place.fail(&["infer", "--plan", "copriv", "--connect", "127.0.0.1:1", "good.png"]);
    assert!(error.contains("cannot connect"), "{error}");
}

#[test]
fn parties_with_different_plans_part() {
    let place = Workplace::new();
    place.compile_small(MASK);
    place.picture("a.png", 1);
    let server = place.serve("cryptflow2", 1);
    let error = place.fail(&["infer", "--plan", "copriv", "--connect", &server.address, "a.png"]);
    assert!(error.contains("different plans"), "{error}");
    assert_eq!(server.wait(), 1);
}

#[test]
fn a_foreign_server_is_recognised() {
    let place = Workplace::new();
    place.compile_small(MASK);
    place.picture("a.png", 1);
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    let foreign = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepts");
        let greeting =
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(greeting).expect("writes");
        let _ = stream.read(&mut [0; 64]);
    });
    let error = place.fail(&["infer", "--plan", "copriv", "--connect", &address, "a.png"]);
    assert!(error.contains("does not speak CoPriv"), "{error}");
    foreign.join().expect("ends");
}

#[test]
fn a_server_outlives_bad_clients() {
    let place = Workplace::new();
    place.compile_small(MASK);
    place.picture("a.png", 1);
    // One at a time: each bad client has to make room for the next.
    let server = place.serve_with("copriv", &["--sessions", "4", "--max-sessions", "1"]);
    let connect = || TcpStream::connect(&server.address).expect("the server lives");
    drop(connect());
    connect().write_all(&[b'x'; 1000]).expect("writes");
    cut_after(&server.address, 20_000, |address| {
        let error = place.fail(&["infer", "--plan", "copriv", "--connect", address, "a.png"]);
        assert!(error.contains("connection to the server was lost"), "{error}");
    });
    let infer = ["infer", "--plan", "copriv", "--connect", &server.address, "--json", "a.png"];
    let answer = json(&place.succeed(&infer));
    assert_eq!(answer["logits"].as_array().map(Vec::len), Some(10));
    assert_eq!(server.wait(), 1, "it says that sessions failed");
}

/// Runs `client` against a relay to `server` that is cut after so many bytes from the client.
fn cut_after(server: &str, bytes: u64, client: impl FnOnce(&str)) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    let server = server.to_owned();
    let relay = thread::spawn(move || {
        let (mut near, _) = listener.accept().expect("accepts");
        let mut far = TcpStream::connect(server).expect("connects");
        let (mut back, mut forth) =
            (far.try_clone().expect("clones"), near.try_clone().expect("clones"));
        let answers = thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut forth);
        });
        let _ = std::io::copy(&mut (&mut near).take(bytes), &mut far);
        let _ = far.shutdown(std::net::Shutdown::Both);
        let _ = near.shutdown(std::net::Shutdown::Both);
        answers.join().expect("ends");
    });
    client(&address);
    relay.join().expect("ends");
}
