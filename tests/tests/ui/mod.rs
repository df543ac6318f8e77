//! The page, in a real browser: what a person does with it, and what others in that browser try.
//!
//! `P2PFS_WRITE_SCREENSHOTS=1` has the pictures in `docs/screenshots` made anew.

mod browser;

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use browser::Browser;
use p2pfs_tests::{
    group::Group,
    patience::{eventually, holds},
    peer::Peer,
    rogue::Rogue,
};
use rustix::{
    fs::{XattrFlags, getxattr, setxattr},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};

/// The address that lets a browser in, and where the page is.
fn key(peer: &Peer) -> (String, String) {
    let address = peer.run(["ui", "--no-browser"]);
    let page = address.split_once("/open#").unwrap().0.to_owned();
    (address, page)
}

/// A browser that was let in by `peer`, and where the page is.
fn enter(peer: &Peer) -> (Browser, String) {
    let browser = Browser::start(peer.scratch());
    let (address, page) = key(peer);
    browser.goto(&address);
    browser.until("document.querySelector('h1')?.innerText === 'Overview'");
    (browser, page)
}

/// Nothing was refused, or went wrong, in the page.
fn quiet(browser: &Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Writes a picture for the documents, if that is asked for.
fn keep(browser: &Browser, name: &str) {
    if env::var_os("P2PFS_WRITE_SCREENSHOTS").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/screenshots");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}.png")), browser.picture()).unwrap();
    }
}

/// Bytes of what the page has at an address.
fn fetched(browser: &Browser, path: &str) -> Value {
    browser.promise(&format!("return [...new Uint8Array(await (await fetch({})).arrayBuffer())]", json!(path)))
}

fn port_of(page: &str) -> u16 {
    page.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// What the page answers to a request as somebody wrote it.
fn raw(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).unwrap();
    answer
}

/// Somebody who was let in and speaks for themselves, without a browser.
struct Entered {
    page: String,
    cookie: String,
    csrf: String,
}

impl Entered {
    fn new(peer: &Peer) -> Self {
        let (address, page) = key(peer);
        let (port, host) = (port_of(&page), page.strip_prefix("http://").unwrap());
        let body = format!("token={}", address.split_once('#').unwrap().1);
        let head = format!("Host: {host}\r\nOrigin: {page}\r\nConnection: close\r\n");
        let request = format!("POST /open HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = raw(port, &request);
        let cookie = answer.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap().to_owned();
        let home = raw(port, &format!("GET / HTTP/1.1\r\n{head}Cookie: {cookie}\r\n\r\n"));
        let csrf = home.split("name=\"csrf\" content=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        Self { page, cookie, csrf }
    }

    /// Sends the head of a request, with these lines more.
    fn begin(&self, method: &str, path: &str, more: &str) -> TcpStream {
        let (page, host) = (&self.page, self.page.strip_prefix("http://").unwrap());
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port_of(page))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {page}\r\nCookie: {}\r\nX-Csrf: {}\r\nConnection: close\r\n{more}\r\n",
            self.cookie, self.csrf
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    }
}

/// The head of an answer, line by line, up to where its body begins.
fn head_of(stream: &mut TcpStream) -> Vec<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().lines().map(str::to_owned).collect()
}

fn value_in<'a>(head: &'a [String], name: &str) -> &'a str {
    let found = head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no {name} in {head:?}"))
}

#[test]
fn a_download_is_of_one_version() {
    /// More than sockets and the page hold for a reader that waits.
    const SIZE: usize = 48 << 20;
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::write(alice.at("film"), vec![b'1'; SIZE]).unwrap();
    group.in_step();
    group.all_read("film", &vec![b'1'; SIZE]);
    let entered = Entered::new(alice);
    let mut stream = entered.begin("GET", "/get/film", "");
    let head = head_of(&mut stream);
    assert!(head[0].contains(" 200 ") && value_in(&head, "content-length") == SIZE.to_string(), "{head:?}");
    let tag = value_in(&head, "etag").to_owned();
    let mut got = vec![0; 64 << 10];
    stream.read_exact(&mut got).unwrap();
    fs::write(bob.at("film"), vec![b'2'; SIZE]).unwrap();
    eventually("it is there", || {
        let mut first = [0];
        let read = fs::File::open(alice.at("film")).and_then(|mut file| file.read_exact(&mut first));
        holds(read.is_ok() && first == *b"2", || format!("{first:?}"))
    });
    // It breaks off, which a browser takes for what it is.
    let mut piece = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        got.extend_from_slice(&piece[..count]);
    }
    assert!(got.len() < SIZE, "all of it came");
    assert!(got.iter().all(|byte| *byte == b'1'), "two versions in one file");
    // What goes on is the new one, from its beginning.
    let more = format!("Range: bytes={}-\r\nIf-Range: {tag}\r\n", got.len());
    let mut stream = entered.begin("GET", "/get/film", &more);
    let head = head_of(&mut stream);
    assert!(head[0].contains(" 200 ") && value_in(&head, "etag") != tag, "{head:?}");
    got.clear();
    stream.read_to_end(&mut got).unwrap();
    assert!(got.len() == SIZE && got.iter().all(|byte| *byte == b'2'));
}

#[test]
fn a_key_lets_one_browser_in_once() {
    let alice = Peer::alone();
    let (browser, page) = enter(&alice);
    assert!(page.starts_with("http://p2pfs-") && page.contains(".localhost:"), "{page}");
    assert_eq!(browser.address(), format!("{page}/"), "the key is in no history");
    assert_eq!(browser.script("return document.cookie"), json!(""), "no script gets at the session");
    quiet(&browser);
    // The same key again, elsewhere.
    let (second, _) = key(&alice);
    let port = port_of(&page);
    let host = page.strip_prefix("http://").unwrap();
    let token = second.split_once('#').unwrap().1;
    let body = format!("token={token}");
    let open = |body: &str, origin: &str| {
        raw(
            port,
            &format!(
                "POST /open HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        )
    };
    assert!(open(&body, "http://evil.example").starts_with("HTTP/1.1 403"), "another page can't use it");
    let first = open(&body, &page);
    assert!(first.starts_with("HTTP/1.1 303") && first.contains("HttpOnly; SameSite=Strict; Path=/"), "{first}");
    let again = open(&body, &page);
    assert!(again.starts_with("HTTP/1.1 403") && again.contains("p2pfs ui"), "{again}");
    // A second browser, without one.
    let get = |cookie: &str| raw(port, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{cookie}\r\n"));
    assert!(get("").starts_with("HTTP/1.1 401"));
    assert!(get(&format!("Cookie: p2pfs-{port}={}\r\n", "0".repeat(64))).starts_with("HTTP/1.1 401"));
    let denied = alice.run(["log", "--op", "page", "--denied"]);
    assert!(denied.contains("another page") && denied.contains("a key that lets nobody in"), "{denied}");
    assert!(alice.run(["log", "--op", "page"]).contains("a browser was let in"), "who came in is in the log");
    // A browser that goes away midway leaves nothing.
    let cookie = first.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
    let home = get(&format!("Cookie: {cookie}\r\n"));
    let csrf = home.split("name=\"csrf\" content=\"").nth(1).unwrap().split('"').next().unwrap();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let head = format!(
        "POST /upload/?name=half HTTP/1.1\r\nHost: {host}\r\nOrigin: {page}\r\nCookie: {cookie}\r\nX-Csrf: {csrf}\r\nContent-Length: 100\r\n\r\nhalf"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let names = || fs::read_dir(alice.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    eventually("it is begun", || holds(names().len() == 1, || format!("{:?}", names())));
    drop(stream);
    eventually("it is gone", || holds(names().is_empty(), || format!("{:?}", names())));
    // Somebody ends the sessions of all browsers: a page that is open notices.
    browser.goto(&format!("{page}/settings"));
    let body = format!("csrf={csrf}&all=yes");
    let left = raw(
        port,
        &format!(
            "POST /leave HTTP/1.1\r\nHost: {host}\r\nOrigin: {page}\r\nCookie: {cookie}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    assert!(left.starts_with("HTTP/1.1 303"), "{left}");
    fs::write(alice.at("news"), "x").unwrap();
    browser.until_text("Who is there?");
    // Leaving ends it.
    browser.goto(&key(&alice).0);
    browser.until("document.querySelector('h1')?.innerText === 'Overview'");
    browser.goto(&format!("{page}/settings"));
    browser.press("Leave");
    browser.until_text("p2pfs ui");
    browser.goto(&format!("{page}/files/"));
    browser.until_text("Who is there?");
    // The port is a free one; another can't be had while it is served.
    assert!(alice.refused(["ui", "--no-browser", "--port", "1"]).contains("served at port"));
}

#[test]
fn files_come_and_go_and_come_back() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("docs")).unwrap();
    fs::write(alice.at("docs/plan.txt"), "the first plan\n").unwrap();
    thread::sleep(Duration::from_millis(1100));
    fs::write(alice.at("docs/plan.txt"), "the second plan\n").unwrap();
    fs::write(alice.at("docs/page.html"), "<script>document.title = 'owned'</script>").unwrap();
    fs::write(alice.at("docs/drawing.svg"), "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>").unwrap();
    for name in ["holiday", "invoices 2026", "recipes"] {
        fs::create_dir(alice.at(name)).unwrap();
    }
    for (name, bytes) in [("budget.ods", 48_213), ("letter to grandma.odt", 18_022), ("minutes.md", 2_310)] {
        fs::write(alice.at(name), vec![b'x'; bytes]).unwrap();
    }
    group.in_step();
    let (browser, page) = enter(alice);
    browser.press("Files");
    browser.until_text("invoices 2026");
    keep(&browser, "files");

    // Up, as it is chosen, and live into the list; down, byte for byte.
    let picture = alice.scratch().join("picture.png");
    let bytes = browser.picture();
    fs::write(&picture, &bytes).unwrap();
    browser.press("docs");
    browser.until_text("plan.txt");
    browser.fill("#choose-files", picture.to_str().unwrap());
    browser.until("document.querySelector('#listing').innerText.includes('picture.png')");
    assert_eq!(fs::read(alice.at("docs/picture.png")).unwrap(), bytes);
    group.all_read("docs/picture.png", &bytes);
    assert_eq!(fetched(&browser, "/get/docs/picture.png"), json!(bytes));
    // What was cut goes on where it was, and not if it is another file by now.
    let part = |version: &str| {
        browser.promise(&format!(
            "const tag = (await fetch('/get/docs/picture.png')).headers.get('etag');\
             const headers = {{ range: 'bytes=4-7', 'if-range': {version} }};\
             const answer = await fetch('/get/docs/picture.png', {{ headers }});\
             return [answer.status, answer.headers.get('content-range'), (await answer.arrayBuffer()).byteLength]"
        ))
    };
    assert_eq!(part("tag"), json!([206, format!("bytes 4-7/{}", bytes.len()), 4]));
    assert_eq!(part("'\"another\"'"), json!([200, null, bytes.len()]));
    // Several at once.
    let several: Vec<String> = (0..5)
        .map(|n| {
            let path = alice.scratch().join(format!("several {n}"));
            fs::write(&path, format!("{n}")).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    browser.fill("#choose-files", &several.join("\n"));
    for n in 0..5 {
        eventually("it is there", || {
            let read = fs::read_to_string(alice.at(format!("docs/several {n}"))).ok();
            holds(read == Some(n.to_string()), || format!("{read:?}"))
        });
    }
    // Where something is already, it is asked.
    fs::write(&picture, b"other").unwrap();
    browser.fill("#choose-files", picture.to_str().unwrap());
    browser.press("Keep both");
    browser.until("document.querySelector('#listing').innerText.includes('picture (2).png')");
    browser.fill("#choose-files", picture.to_str().unwrap());
    browser.press("New version of it");
    eventually("it is replaced", || holds(fs::read(alice.at("docs/picture.png")).unwrap() == b"other", String::new));
    assert_eq!(fs::read(alice.at("docs/picture (2).png")).unwrap(), b"other");
    let left: Vec<_> = fs::read_dir(alice.at("docs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("upload")), "{left:?}");
    // A new version is for whom the one before was for, and nobody else at any moment.
    let diary = alice.at("docs/diary.txt");
    fs::write(&diary, "first").unwrap();
    fs::set_permissions(&diary, fs::Permissions::from_mode(0o600)).unwrap();
    setxattr(&diary, "user.mood", b"fine", XattrFlags::CREATE).unwrap();
    let next = alice.scratch().join("diary.txt");
    fs::write(&next, "second").unwrap();
    browser.fill("#choose-files", next.to_str().unwrap());
    browser.press("New version of it");
    eventually("it is replaced", || holds(fs::read_to_string(&diary).unwrap() == "second", String::new));
    assert_eq!(fs::metadata(&diary).unwrap().permissions().mode() & 0o777, 0o600);
    let mut mood = [0; 16];
    assert_eq!(getxattr(&diary, "user.mood", &mut mood[..]).unwrap(), 4);
    eventually("bob may not read it", || {
        let read = fs::read(bob.at("docs/diary.txt")).map_err(|e| e.kind());
        holds(read == Err(std::io::ErrorKind::PermissionDenied), || format!("{read:?}"))
    });
    // So it is with who is named.
    let list = alice.at("docs/list.txt");
    fs::write(&list, "one").unwrap();
    alice.run(["allow", list.to_str().unwrap(), "bob:r"]);
    let access = alice.run(["access", list.to_str().unwrap(), "--json"]);
    let upload = |name: &str, taken: &str| {
        let upload = format!(
            "const request = {{ method: 'POST', headers: {{ 'x-csrf': document.querySelector('meta[name=csrf]').content }}, body: 'two' }};\
             return (await fetch('/upload/docs/?name={name}&taken={taken}', request)).status"
        );
        browser.promise(&upload)
    };
    assert_eq!(upload("list.txt", "replace"), json!(201));
    assert_eq!(fs::read_to_string(&list).unwrap(), "two");
    assert_eq!(alice.run(["access", list.to_str().unwrap(), "--json"]), access);
    // And with what nobody is to write to.
    let locked = alice.at("docs/locked.txt");
    fs::write(&locked, "one").unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(upload("locked.txt", "replace"), json!(201));
    assert_eq!(fs::metadata(&locked).unwrap().permissions().mode() & 0o777, 0o444);
    group.all_read("docs/locked.txt", b"two");
    // What isn't there has no permissions to be kept, and a folder is not replaced.
    assert_eq!(upload("new.txt", "replace"), json!(201));
    fs::create_dir(alice.at("docs/folder")).unwrap();
    assert_eq!(upload("folder", "replace"), json!(422));
    assert!(alice.at("docs/folder").is_dir());
    // What others do there shows by itself.
    fs::write(bob.at("docs/from bob.txt"), "hello").unwrap();
    browser.until("document.querySelector('#listing').innerText.includes('from bob.txt')");

    // What is in them is shown, and never acts.
    browser.goto(&format!("{page}/view/docs/page.html"));
    assert!(browser.text(".preview").contains("<script>"));
    assert_ne!(browser.script("return document.title"), json!("owned"));
    browser.goto(&format!("{page}/view/docs/drawing.svg"));
    assert!(browser.text(".preview").contains("onload"));
    let refused = browser.promise("return (await fetch('/image/docs/drawing.svg')).status");
    assert_eq!(refused, json!(400));
    fs::write(alice.at("docs/picture.png"), &bytes).unwrap();
    browser.goto(&format!("{page}/view/docs/picture.png"));
    browser.until("document.querySelector('img.picture').naturalWidth > 100");
    let mut ignored = browser.complaints();
    let asked_for = ["400 (Bad Request)", "409 (Conflict)", "422 (Unprocessable"];
    ignored.retain(|line| !asked_for.iter().any(|status| line.contains(status)));
    assert_eq!(ignored, Vec::<String>::new());

    // Back in time.
    browser.goto(&format!("{page}/view/docs/plan.txt"));
    assert_eq!(browser.text(".preview"), "the second plan\n");
    browser.press("Bring back");
    browser.until_text("the first plan");
    assert_eq!(fs::read_to_string(alice.at("docs/plan.txt")).unwrap(), "the first plan\n");
    browser.goto(&format!("{page}/files/"));
    browser.click("#travel summary");
    browser.until("document.querySelector('#slider')?.checkVisibility()");
    browser.script(
        "const slider = document.querySelector('#slider'); slider.value = 0;\
         slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change'))",
    );
    browser.until("!document.querySelector('#listing').innerText.includes('minutes.md')");
    browser.until_text("Back to now");
    browser.press("Back to now");
    browser.until("document.querySelector('#listing').innerText.includes('minutes.md')");

    // Folders, names, and removing, which is asked first.
    browser.fill("input[name=name]", "new one");
    browser.press("Make it");
    browser.until("document.querySelector('#listing').innerText.includes('new one')");
    assert!(alice.at("new one").is_dir());
    browser.goto(&format!("{page}/view/minutes.md"));
    browser.press("Rename or remove");
    browser.press("Remove this file");
    browser.until_text("is removed on everybody");
    assert!(alice.at("minutes.md").exists());
    browser.press("Remove");
    browser.until_text("It is removed.");
    assert!(!alice.at("minutes.md").exists());
    // It can be looked at before it is brought back.
    browser.press("Deleted files");
    browser.press("minutes.md");
    browser.until_text("This was deleted");
    assert!(!browser.text("main").contains("Versions") && browser.text(".preview").starts_with("xxx"));
    assert_eq!(fetched(&browser, "/get/.p2pfs/deleted/minutes.md").as_array().unwrap().len(), 2_310);
    browser.goto(&format!("{page}/files/.p2pfs/deleted/"));
    browser.press("Bring back");
    browser.until("document.querySelector('h1').innerText === 'minutes.md'");
    assert_eq!(fs::metadata(alice.at("minutes.md")).unwrap().len(), 2_310);
    // A folder with what is in it, once somebody has read how much that is.
    fs::create_dir_all(alice.at("recipes/cakes")).unwrap();
    fs::write(alice.at("recipes/cakes/sponge"), "flour").unwrap();
    browser.goto(&format!("{page}/files/recipes/"));
    browser.press("Rename or remove");
    browser.press("Remove this folder");
    browser.until_text("1 file (5 B) in 2 folders");
    browser.press("Remove all of it");
    browser.until_text("It is removed.");
    assert!(!alice.at("recipes").exists());
    browser.press("Deleted files");
    browser.until("document.querySelector('h1').innerText === 'Deleted files'");
    browser.press("Bring back");
    eventually("it is back", || {
        let read = fs::read_to_string(alice.at("recipes/cakes/sponge")).ok();
        holds(read.as_deref() == Some("flour"), || format!("{read:?}"))
    });
    let log = alice.run(["log", "--path", "docs/picture.png"]);
    assert!(log.contains("p2pfs-page"), "what the page does is in the log as of any program: {log}");
}

/// The moments that can be gone to, the oldest first.
fn stops(browser: &Browser) -> Vec<String> {
    let all = "return [...document.querySelectorAll('#moments option')].map((each) => each.value).filter((at) => at)";
    let all = browser.script(all);
    let mut all: Vec<String> = all.as_array().unwrap().iter().map(|at| at.as_str().unwrap().to_owned()).collect();
    all.reverse();
    all
}

/// How many rows a folder's page has whose names begin so.
fn rows(browser: &Browser, address: &str, begin: &str) -> usize {
    let names = browser.promise(&format!(
        "const text = await (await fetch({})).text();\
         return text.split('<bdi>').filter((each) => each.startsWith({})).length",
        json!(address),
        json!(begin)
    ));
    usize::try_from(names.as_u64().unwrap_or_else(|| panic!("{names}"))).unwrap()
}

#[test]
fn every_stop_has_the_change_that_it_stands_for() {
    let alice = Peer::alone();
    let apart = || thread::sleep(Duration::from_millis(60));
    fs::write(alice.at("before"), "x").unwrap();
    apart();
    fs::create_dir(alice.at("docs")).unwrap();
    apart();
    for n in 0..5 {
        fs::write(alice.at(format!("docs/change {n}")), "x").unwrap();
        apart();
    }
    let (browser, page) = enter(&alice);
    browser.goto(&format!("{page}/files/docs/?slide=1"));
    let all = stops(&browser);
    assert!(all.len() >= 6, "{all:?}");
    let at = |stop: &String| rows(&browser, &format!("/files/docs/?at={stop}"), "change ");
    let counts: Vec<usize> = all.iter().map(at).collect();
    assert!(counts.is_sorted() && counts[0] == 0 && counts.last() == Some(&5), "{all:?}: {counts:?}");
    assert!((1..5).all(|count| counts.contains(&count)), "{all:?}: {counts:?}");
    // To the first one: the folder is there, and what leads up is of that time, too.
    let slide = |to: usize| {
        browser.script(&format!(
            "const slider = document.querySelector('#slider'); slider.value = {to};\
             slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change'))"
        ));
    };
    slide(0);
    browser.until("document.querySelector('#listing').innerText.includes('Nothing is in this folder')");
    browser.until("document.querySelector('#trail a').getAttribute('href').startsWith('/files/?at=')");
    // Files that are dropped now would go where nobody looks.
    browser.until("!document.querySelector('#drop').checkVisibility()");
    browser.press("Files");
    browser.until("document.querySelector('h1').innerText === 'Files'");
    // To any time: one that no change has is a stop as well.
    browser.goto(&format!("{page}/files/docs/"));
    browser.click("#travel summary");
    browser.until("document.querySelector('#slider')?.checkVisibility()");
    browser.script(
        "const local = Date.now() - new Date().getTimezoneOffset() * 60000 + 60000;\
         const field = document.querySelector('#any-time');\
         field.value = new Date(local).toISOString().slice(0, 19); field.form.requestSubmit()",
    );
    browser.until("document.querySelector('#listing').innerText.includes('This is how it was at')");
    assert!(browser.text("#listing").contains("change 4"));
    let new = stops(&browser);
    assert_eq!(new.len(), all.len() + 1, "{new:?}");
    assert_eq!(browser.script("return Number(document.querySelector('#slider').value)"), json!(all.len()));
    quiet(&browser);
}

#[test]
fn what_is_found_in_the_past_comes_back() {
    let alice = Peer::alone();
    let apart = || thread::sleep(Duration::from_millis(60));
    fs::create_dir_all(alice.at("docs/drafts")).unwrap();
    fs::write(alice.at("docs/drafts/one"), "one").unwrap();
    for text in ["first", "second"] {
        fs::write(alice.at("docs/plan"), text).unwrap();
        apart();
    }
    let (browser, page) = enter(&alice);
    let then = browser.script("return new Date().toISOString()").as_str().unwrap().to_owned();
    apart();
    fs::remove_file(alice.at("docs/plan")).unwrap();
    fs::write(alice.at("docs/drafts/one"), "changed").unwrap();
    fs::remove_dir_all(alice.at("docs/drafts")).unwrap();
    // As it was when it was removed, of which nothing newer is there.
    browser.goto(&format!("{page}/view/docs/plan?at={then}"));
    assert_eq!(browser.text(".preview"), "second");
    browser.until_text("It is not there any more.");
    let offered = "return document.querySelectorAll('#versions tbody tr')[1].querySelectorAll('form').length";
    assert_eq!(browser.script(offered), json!(1), "{}", browser.text("#versions"));
    browser.press("Bring back as it was then");
    browser.until_text("It is as it was at");
    assert_eq!(fs::read_to_string(alice.at("docs/plan")).unwrap(), "second");
    // What is there needn't be brought back.
    let first = "return document.querySelectorAll('#versions tbody tr')[0].querySelectorAll('form').length";
    assert_eq!(browser.script(first), json!(0), "{}", browser.text("#versions"));
    // A folder, once somebody has read what that means.
    browser.goto(&format!("{page}/files/docs/drafts/?at={then}"));
    browser.press("Bring back as it was then");
    browser.until_text("becomes as it was at");
    browser.press("Bring it back");
    browser.until_text("It is as it was at");
    assert_eq!(fs::read_to_string(alice.at("docs/drafts/one")).unwrap(), "one");
    quiet(&browser);
}

#[test]
fn what_is_gone_does_not_stay_on_the_screen() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("docs")).unwrap();
    fs::write(alice.at("docs/plan.txt"), "the plan").unwrap();
    group.in_step();
    let (browser, page) = enter(alice);
    browser.goto(&format!("{page}/view/docs/plan.txt"));
    assert_eq!(browser.text(".preview"), "the plan");
    fs::remove_file(bob.at("docs/plan.txt")).unwrap();
    browser.until_text("This is no longer here.");
    browser.until("!document.querySelector('.preview') && !document.querySelector('#change').checkVisibility()");
    // It may come back, also under the same eyes.
    fs::write(bob.at("docs/plan.txt"), "another plan").unwrap();
    browser.until("document.querySelector('.preview')?.innerText === 'another plan'");
    assert!(!browser.text("main").contains("no longer here"));
    fs::remove_file(bob.at("docs/plan.txt")).unwrap();
    browser.until_text("This is no longer here.");
    browser.press("To the folder above");
    browser.until("document.querySelector('h1').innerText === 'docs'");
    fs::remove_dir(bob.at("docs")).unwrap();
    browser.until_text("This is no longer here.");
    browser.press("To the folder above");
    browser.until("document.querySelector('h1').innerText === 'Files'");
    let ignored: Vec<String> = browser.complaints().into_iter().filter(|line| !line.contains("404")).collect();
    assert_eq!(ignored, Vec::<String>::new());
}

/// Drops on the page what a script makes.
fn dropped(browser: &Browser, make: &str) -> bool {
    let dropped = browser.script(&format!(
        "const data = new DataTransfer(); {make};\
         const event = new DragEvent('drop', {{ dataTransfer: data, bubbles: true, cancelable: true }});\
         document.querySelector('main').dispatchEvent(event); return event.defaultPrevented"
    ));
    dropped.as_bool().unwrap()
}

#[test]
fn files_are_dropped_where_they_can_be_taken() {
    const FILE: &str = "data.items.add(new File(['x'], 'dropped.txt'))";
    let alice = Peer::alone();
    fs::create_dir(alice.at("docs")).unwrap();
    let (browser, page) = enter(&alice);
    browser.goto(&format!("{page}/files/docs/"));
    assert!(!dropped(&browser, "data.setData('text/plain', 'words')"), "words are the browser's");
    assert!(dropped(&browser, FILE));
    browser.until("document.querySelector('#listing').innerText.includes('dropped.txt')");
    // Nobody who types loses the focus to a question.
    browser.click("input[name=name]");
    assert!(dropped(&browser, FILE));
    browser.until_text("New version of it");
    assert_eq!(browser.script("return document.activeElement.name"), json!("name"));
    // What can't be taken is told in the server's words.
    fs::remove_file(alice.at("docs/dropped.txt")).unwrap();
    fs::create_dir(alice.at("docs/dropped.txt")).unwrap();
    browser.press("New version of it");
    browser.until("document.querySelector('#drop ul').textContent.includes('What has that name is no file')");
    // Not into the past, and not where no folder is.
    let then = browser.script("return new Date().toISOString()").as_str().unwrap().to_owned();
    browser.goto(&format!("{page}/files/?at={then}"));
    assert!(dropped(&browser, FILE));
    browser.until_text("Go back to now to add files.");
    browser.goto(&format!("{page}/messages"));
    assert!(dropped(&browser, FILE));
    browser.until_text("Files are added on the page of a folder.");
    // A folder is made where it belongs, and one that is there is as good.
    browser.goto(&format!("{page}/files/"));
    let make = "const headers = { 'x-csrf': document.querySelector('meta[name=csrf]').content };\
        const make = async (name) => (await fetch(`/upload/?name=${name}&folder=yes`, { method: 'POST', headers })).status;\
        return [await make('music'), await make('music')]";
    assert_eq!(browser.promise(make), json!([201, 409]));
    assert!(alice.at("music").is_dir());
}

#[test]
fn links_and_what_may_not_be_read_are_listed_and_removed() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("docs")).unwrap();
    fs::write(alice.at("docs/plan"), "x").unwrap();
    for name in ["closed", "open"] {
        std::os::unix::fs::symlink("plan", alice.at("docs").join(name)).unwrap();
    }
    group.in_step();
    alice.run(["allow", alice.at("docs/closed").to_str().unwrap(), "bob:-"]);
    eventually("bob may not read it", || {
        let read = fs::read_link(bob.at("docs/closed")).map_err(|e| e.kind());
        holds(read == Err(std::io::ErrorKind::PermissionDenied), || format!("{read:?}"))
    });
    let (browser, page) = enter(bob);
    browser.goto(&format!("{page}/files/docs/"));
    let listing = browser.text("#listing");
    for text in ["plan", "closed can’t be looked at here", "open link to plan"] {
        assert!(listing.contains(text), "{listing}");
    }
    browser.goto(&format!("{page}/view/docs/open"));
    browser.press("Rename or remove it");
    browser.fill("#change input[name=name]", "renamed");
    browser.click("form[action='/rename'] button");
    browser.until_text("It has its new name.");
    assert_eq!(fs::read_link(bob.at("docs/renamed")).unwrap(), Path::new("plan"));
    browser.goto(&format!("{page}/view/docs/closed"));
    browser.press("Rename or remove it");
    browser.press("Remove it");
    browser.press("Remove");
    browser.until_text("It is removed.");
    assert!(fs::symlink_metadata(bob.at("docs/closed")).is_err());
    quiet(&browser);
}

#[test]
fn people_talk_meet_and_settle() {
    let mut group = Group::two();
    fs::write(group.alice().at("plan"), "base").unwrap();
    group.part();
    group.peers.iter().for_each(|peer| fs::write(peer.at("plan"), format!("{}'s", peer.name())).unwrap());
    group.meet();
    let (alice, bob) = (group.alice(), group.bob());
    let (browser, page) = enter(alice);
    assert!(
        browser.text("#peers").contains("bob") && browser.text("#peers").contains(" ms"),
        "{}",
        browser.text("#peers")
    );
    // Messages there, and back without loading anything anew.
    browser.press("Messages");
    browser.press("bob");
    browser.until("document.activeElement.id === 'say'");
    browser.keys("Shall we meet at <the usual place>?\u{E007}");
    browser.until("document.querySelector('#letters').innerText.includes('Shall we meet at <the usual place>?')");
    eventually("bob has it", || {
        holds(bob.run(["msg", "list"]).contains("Shall we meet at <the usual place>?"), String::new)
    });
    browser.script("window.stays = true");
    bob.run(["msg", "send", "alice", "Yes, at nine."]);
    browser.until("document.querySelector('#letters').innerText.includes('Yes, at nine.')");
    browser.until("document.querySelector('#announce').textContent === 'New message from bob'");
    assert_eq!(browser.script("return window.stays"), json!(true));
    eventually("it was read", || holds(alice.listing("status")["unread"] == 0, String::new));
    keep(&browser, "messages");

    // What is sent straight to her.
    let gift = bob.scratch().join("gift & card.txt");
    fs::write(&gift, "for alice").unwrap();
    browser.press("Transfers");
    browser.until_text("Nothing was sent yet");
    bob.run(["send", "--background", gift.to_str().unwrap(), "alice"]);
    browser.until("document.querySelector('#transfers').innerText.includes('gift & card.txt')");
    browser.press("Accept");
    browser.until("document.querySelector('#transfers').innerText.includes('done:')");
    assert_eq!(fs::read_to_string(alice.home().join("inbox/gift & card.txt")).unwrap(), "for alice");
    // Into a folder of the volume, and from now on without being asked.
    fs::create_dir(alice.at("gifts")).unwrap();
    for (name, field, label) in [
        ("second.txt", "#transfers input[name=to]", "Accept"),
        ("third.txt", "form[action='/transfers/always'] input[name=to]", "Accept always"),
    ] {
        let gift = bob.scratch().join(name);
        fs::write(&gift, name).unwrap();
        bob.run(["send", "--background", gift.to_str().unwrap(), "alice"]);
        browser.until(&format!("document.querySelector('#transfers').innerText.includes({})", json!(name)));
        browser.fill(field, "gifts");
        browser.press(label);
        eventually("it is there", || {
            let read = fs::read_to_string(alice.at("gifts").join(name)).ok();
            holds(read.as_deref() == Some(name), || format!("{read:?}"))
        });
    }
    browser.until_text("What bob sends arrives without");
    // And back: what is in the volume, of its own page.
    fs::write(alice.at("gifts/thanks.txt"), "thank you").unwrap();
    browser.goto(&format!("{page}/view/gifts/thanks.txt"));
    browser.press("Send this file");
    browser.click("#send button");
    browser.until_text("It is offered to bob.");
    eventually("bob is asked", || holds(bob.run(["inbox"]).contains("thanks.txt"), String::new));
    browser.fill("input[name=typed]", "gifts");
    browser.click("form[action='/transfers/send'] button");
    browser.until("document.querySelectorAll('#transfers article').length === 5");
    // (What arrived there is hers alone.)
    fs::remove_dir_all(alice.at("gifts")).unwrap();

    // The conflict.
    browser.press("Conflicts");
    browser.until_text("bob");
    assert!(browser.text("#conflicts").contains("plan (conflict of"));
    browser.press("Keep yours");
    browser.until_text("No conflicts");
    assert_eq!(fs::read_to_string(alice.at("plan")).unwrap(), "alice's");
    group.in_step();
    let others = alice.refused(["resolve", alice.at("plan").to_str().unwrap(), "--keep", "mine"]);
    assert!(others.contains("nothing is in conflict"), "{others}");

    // A ticket, also for a camera.
    browser.press("People");
    browser.choose("select[name=of]", "reader");
    browser.press("Make a ticket");
    browser.until("document.querySelector('img.code')?.naturalWidth > 100");
    let word = browser.script("return document.querySelector('#ticket').value");
    assert_eq!(alice.listing("invitations").as_array().unwrap().len(), 1);
    assert!(word.as_str().unwrap().len() > 100, "{word}");
    browser.press("Done");
    browser.press("Withdraw");
    browser.until_text("The invitation is withdrawn.");
    assert!(alice.listing("invitations").as_array().unwrap().is_empty());
    keep(&browser, "people");

    // Roles and rights.
    browser.choose("#members select", "reader");
    browser.press("Set the role of bob");
    browser.until_text("Bob is a reader now.");
    eventually("bob knows", || holds(bob.listing("status")["role"] == "reader", String::new));
    browser.choose("#members select", "writer");
    browser.press("Set the role of bob");
    browser.until_text("Bob is a writer now.");
    browser.goto(&format!("{page}/view/plan"));
    browser.press("Who may use");
    browser.choose("#permissions select", "");
    browser.press("Set for bob");
    browser.until_text("What bob may is set");
    assert!(alice.run(["access", alice.at("plan").to_str().unwrap(), "--json"]).contains("bob"));
    eventually("bob may not", || holds(fs::read(bob.at("plan")).is_err(), String::new));

    // Settings and snapshots. What keeps less is asked first, and what this device keeps beyond it isn't for everybody.
    alice.run(["config", "history.keep-all", "90d", "--device"]);
    browser.press("Settings");
    let field = "input[aria-label='history.keep-all']";
    let value = browser.script(&format!("return document.querySelector({}).value", json!(field)));
    assert_eq!(value, json!("30d"));
    browser.fill(field, "40d");
    browser.press("Set history.keep-all");
    browser.until_text("history.keep-all is set for everybody.");
    browser.fill(field, "39d");
    browser.press("Set history.keep-all");
    browser.until_text("instead of 40d");
    assert!(alice.run(["config"]).contains("40d"));
    browser.press("Keep less");
    browser.until_text("history.keep-all is set for everybody.");
    browser.until(&format!("document.querySelector({}).value === '39d'", json!(field)));
    browser.fill("form[action='/settings/snapshot'] input[name=name]", "before the party");
    browser.press("Keep it");
    browser.until_text("The tree is kept");
    assert!(alice.at(".p2pfs/snapshots/before the party").is_dir());
    browser.press("before the party");
    browser.until("document.querySelector('#listing').innerText.includes('plan')");
    quiet(&browser);
}

#[test]
fn names_that_are_no_text_are_settled() {
    let mut group = Group::two();
    let name = OsStr::from_bytes(b"caf\xe9.txt");
    fs::write(group.alice().at(name), "base").unwrap();
    group.part();
    group.peers.iter().for_each(|peer| fs::write(peer.at(name), format!("{}'s", peer.name())).unwrap());
    group.meet();
    let (browser, page) = enter(group.alice());
    browser.goto(&format!("{page}/conflicts"));
    let link = "return document.querySelectorAll('#conflicts td a')[1].getAttribute('href')";
    let link = browser.script(link).as_str().unwrap().to_owned();
    assert!(link.contains("caf%E9"), "{link}");
    // (The one beside it: that is named by its own name, which is no text either.)
    browser.click("#conflicts tbody tr:nth-child(2) button");
    browser.until_text("No conflicts");
    let left = fs::read_to_string(group.alice().at(name)).unwrap();
    assert!(left == "alice's" || left == "bob's", "{left}");
    assert_eq!(fs::read_dir(group.alice().root()).unwrap().count(), 1);
    quiet(&browser);
}

#[test]
fn transfers_follow_while_somebody_types() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    let offer = |name: &str| {
        let gift = bob.scratch().join(name);
        fs::write(&gift, "for alice").unwrap();
        bob.run(["send", "--background", gift.to_str().unwrap(), "alice"]);
    };
    let (browser, page) = enter(alice);
    browser.goto(&format!("{page}/files/"));
    offer("first.txt");
    // Wherever she is.
    browser.until("document.querySelector('#rooms').innerText.replace(/\\s+/g, ' ').includes('Transfers 1')");
    browser.until("document.querySelector('#announce').textContent.includes('bob offers to send something')");
    browser.press("Transfers");
    browser.until("document.querySelectorAll('#transfers article').length === 1");
    browser.fill("#transfers input[name=to]", "half typed");
    offer("second.txt");
    browser.until("document.querySelector('#transfers').innerText.includes('second.txt')");
    assert_eq!(
        browser.script("return document.querySelectorAll('#transfers article input[name=to]')[1].value"),
        json!("half typed")
    );
    // That goes on by itself as well.
    browser.click("#transfers article:first-child form[action='/transfers/decline'] button");
    browser.until_text("Declined.");
    browser.fill("#transfers input[name=to]", "half typed");
    offer("third.txt");
    browser.until("document.querySelector('#transfers').innerText.includes('third.txt')");
    let inbox = alice.listing("inbox");
    let third =
        inbox.as_array().unwrap().iter().find(|each| each["name"] == "third.txt").unwrap_or_else(|| panic!("{inbox}"));
    let article = format!("transfer-{}", third["id"]);
    alice.run(["inbox", "decline", &third["id"].to_string()]);
    browser.until(&format!("!document.getElementById('{article}').querySelector('form')"));
    assert_eq!(browser.script("return document.querySelector('#transfers input[name=to]').value"), json!("half typed"));
    quiet(&browser);
}

#[test]
fn the_log_and_alerts_show_as_they_happen() {
    let group = Group::two();
    let alice = group.alice();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mallory = runtime.block_on(Rogue::join(&alice.invite(), "mallory"));
    let (browser, page) = enter(alice);
    browser.press("Log");
    browser.until_text("a browser was let in");
    fs::write(alice.at("secret.txt"), "x").unwrap();
    browser.until("document.querySelector('#log').innerText.includes('secret.txt')");
    // A filter acts as it is typed, and on what comes.
    browser.fill("input[name=text]", "wanted");
    browser.until("!document.querySelector('#log').innerText.includes('secret.txt')");
    fs::write(alice.at("unasked"), "x").unwrap();
    fs::write(group.bob().at("most wanted"), "x").unwrap();
    browser.until("document.querySelector('#log').innerText.includes('most wanted')");
    assert!(!browser.text("#log").contains("unasked"));
    assert!(browser.address().contains("text=wanted"));
    browser.goto(&format!("{page}/log"));
    browser.until_text("most wanted");
    keep(&browser, "log");

    // All that is meant is found, however much that is, and nothing else.
    (0..250).for_each(|n| fs::write(alice.at(format!("many {n:03}")), "x").unwrap());
    fs::write(alice.at("another"), "x").unwrap();
    browser.fill("input[name=text]", "many ");
    browser.until("document.querySelector('#log').innerText.includes('many 249')");
    assert!(!browser.text("#log").contains("many 000"));
    let mut pages = 0;
    while !browser.text("#log").contains("many 000") {
        pages += 1;
        assert!(pages < 10, "{}", browser.text("#log"));
        let before = browser.address();
        browser.press("Older entries");
        browser.until(&format!("location.href !== {} && document.querySelector('#log tr')", json!(before)));
        assert!(!browser.text("#log").contains("another") && browser.address().contains("text=many%20"));
    }

    // Somebody sends what no honest program makes.
    browser.press("Alerts");
    browser.until_text("No alerts");
    mallory.commits(1);
    let mut forged = mallory.all_commits().pop().unwrap();
    forged.header[20] ^= 1;
    let at: SocketAddr = alice.listens_at().parse().unwrap();
    runtime.block_on(mallory.tell(at, vec![forged]));
    browser.until("document.querySelector('#alerts').innerText.includes('no honest program')");
    browser.until("document.querySelector('#rooms').innerText.includes('1')");
    browser.press("Remove the device");
    browser.until_text("gets nothing new from then on");
    browser.press("Remove");
    browser.until_text("is removed");
    assert_eq!(alice.listing("devices").as_array().unwrap().len(), 2);
    browser.press("I have looked");
    browser.until_text("The alert is put away.");
    assert_eq!(alice.listing("status")["alerts"], 0);
    quiet(&browser);
}

#[test]
fn an_open_page_asks_for_what_changed_only() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::create_dir(alice.at("docs")).unwrap();
    fs::write(alice.at("docs/plan.txt"), "the plan").unwrap();
    group.in_step();
    let (browser, page) = enter(alice);
    browser.goto(&format!("{page}/view/docs/plan.txt"));
    browser.script(
        "const real = window.fetch; window.asked = [];\
         window.fetch = (address, ...more) => { window.asked.push(String(address)); return real(address, ...more); }",
    );
    for n in 0..4 {
        fs::write(alice.at(format!("other {n}")), "x").unwrap();
        fs::write(bob.at(format!("another {n}")), "x").unwrap();
        thread::sleep(Duration::from_millis(700));
    }
    bob.run(["msg", "send", "alice", "hello"]);
    browser.until("document.querySelector('#rooms').innerText.includes('1')");
    let asked = browser.script("return window.asked");
    let is_of_frame = |address: &Value| address.as_str().unwrap().starts_with("/frame?");
    assert!(asked.as_array().unwrap().iter().all(is_of_frame), "{asked}");
    fs::write(bob.at("docs/plan.txt"), "another plan").unwrap();
    browser.until("document.querySelector('.preview').innerText === 'another plan'");

    // What was chosen and isn't sent yet stays, whatever changes meanwhile.
    browser.goto(&format!("{page}/people"));
    browser.choose("#members select", "reader");
    browser.script("document.activeElement.blur()");
    alice.invite();
    browser.until("document.querySelector('#invitations').innerText.includes('Open invitations')");
    assert_eq!(browser.script("return document.querySelector('#members select').value"), json!("reader"));
    quiet(&browser);
}

#[test]
fn a_long_conversation_is_read_to_its_beginning() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    (0..305).for_each(|n| drop(bob.run(["msg", "send", "alice", &format!("message {n:03}")])));
    eventually("all are there", || {
        let unread = alice.listing("status")["unread"].clone();
        holds(unread == 305, || unread.to_string())
    });
    let (browser, page) = enter(alice);
    browser.goto(&format!("{page}/messages?with=bob"));
    browser.until_text("message 304");
    assert!(!browser.text("#letters").contains("message 004"));
    eventually("what is shown was read", || {
        let unread = alice.listing("status")["unread"].clone();
        holds(unread == 5, || unread.to_string())
    });
    browser.until("document.querySelector('#talks').innerText.includes('5')");
    browser.press("Older messages");
    browser.until_text("message 000");
    assert!(!browser.text("#letters").contains("message 005"));
    eventually("all were read", || holds(alice.listing("status")["unread"] == 0, String::new));
    browser.press("To the newest");
    browser.until_text("message 304");
    assert_eq!(browser.script("return document.querySelectorAll('#talks .badge').length"), json!(0));
    quiet(&browser);
}

#[test]
fn it_works_without_scripts() {
    let group = Group::two();
    let (alice, bob) = (group.alice(), group.bob());
    fs::write(alice.at("plan.txt"), "the first plan").unwrap();
    thread::sleep(Duration::from_millis(1100));
    fs::write(alice.at("later.txt"), "x").unwrap();
    bob.run(["msg", "send", "alice", "Shall we meet?"]);
    eventually("it is there", || holds(alice.listing("status")["unread"] == 1, String::new));
    let (browser, page) = enter(alice);
    browser.without_scripts();
    browser.goto(&format!("{page}/messages?with=bob"));
    assert!(browser.text("#letters").contains("Shall we meet?"));
    browser.press("Mark as read");
    eventually("it was read", || holds(alice.listing("status")["unread"] == 0, String::new));
    browser.until("!document.querySelector('#letters form')");
    browser.fill("#say", "Yes.");
    browser.press("Send");
    browser.until("document.querySelector('#letters').innerText.includes('Yes.')");
    // Back in time, and a folder.
    browser.goto(&format!("{page}/files/"));
    browser.click("#travel summary");
    browser.press("Choose among what changed here");
    browser.until("document.querySelector('#moments')");
    let first = "return [...document.querySelector('#moments').options].at(-1).value";
    browser.choose("#moments", browser.script(first).as_str().unwrap());
    browser.press("Show");
    browser.until("document.querySelector('#listing').innerText.includes('Back to now')");
    assert!(!browser.text("#listing").contains("later.txt"));
    browser.press("Back to now");
    browser.until("document.querySelector('input[name=name]')");
    browser.fill("input[name=name]", "new one");
    browser.press("Make it");
    browser.until_text("The folder is made.");
    browser.goto(&format!("{page}/log"));
    browser.fill("input[name=text]", "plan.txt");
    browser.press("Filter");
    browser.until("location.search.includes('text=plan.txt')");
    assert!(!browser.text("#log").contains("later.txt"));
}

#[test]
fn an_upload_that_the_end_cuts_leaves_nothing() {
    let mut alice = Peer::alone();
    let entered = Entered::new(&alice);
    let mut stream = entered.begin("POST", "/upload/?name=half", "Content-Length: 100\r\n");
    stream.write_all(b"half").unwrap();
    let names = |peer: &Peer| {
        let names = fs::read_dir(peer.root()).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<Vec<_>>()
    };
    eventually("it is begun", || holds(names(&alice).len() == 1, || format!("{:?}", names(&alice))));
    alice.terminate();
    alice.mount();
    assert!(names(&alice).is_empty(), "{:?}", names(&alice));
    // Nor when the end comes without a word, whatever the folder is called by then.
    fs::create_dir(alice.at("docs")).unwrap();
    let entered = Entered::new(&alice);
    let mut stream = entered.begin("POST", "/upload/docs/?name=half", "Content-Length: 100\r\n");
    stream.write_all(b"half").unwrap();
    let inside = |peer: &Peer, folder: &str| fs::read_dir(peer.at(folder)).unwrap().count();
    eventually("it is begun", || holds(inside(&alice, "docs") == 1, String::new));
    fs::rename(alice.at("docs"), alice.at("papers")).unwrap();
    // (What was acknowledged survives; what wasn't may be in no commit yet.)
    fs::File::open(alice.at("papers")).unwrap().sync_all().unwrap();
    let remembered = alice.volume_folder().join("uploads");
    assert_eq!(fs::read_dir(&remembered).unwrap().count(), 1);
    alice.kill9();
    alice.mount();
    assert_eq!(inside(&alice, "papers"), 0);
    assert_eq!(fs::read_dir(&remembered).unwrap().count(), 0);
    // Nor when it comes to the page alone.
    let entered = Entered::new(&alice);
    let mut stream = entered.begin("POST", "/upload/papers/?name=half", "Content-Length: 100\r\n");
    stream.write_all(b"half").unwrap();
    eventually("it is begun", || holds(inside(&alice, "papers") == 1, String::new));
    kill_process(page_process(&alice), Signal::KILL).unwrap();
    eventually("there is another page", || {
        let opened = alice.command(["ui", "--no-browser"]).output().unwrap();
        holds(opened.status.success(), || format!("{opened:?}"))
    });
    eventually("it is gone", || holds(inside(&alice, "papers") == 0, String::new));
    assert_eq!(fs::read_dir(&remembered).unwrap().count(), 0);
}

/// The process that serves a peer's page.
fn page_process(peer: &Peer) -> Pid {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_its = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(p2pfs-page)") && stat.split(' ').nth(3) == Some(&peer.pid().to_string())
    };
    let found = all.into_iter().find(is_its).expect("somebody serves it");
    Pid::from_raw(found).unwrap()
}

/// A server of somebody else on this machine, with a page that tries what it can.
struct Hostile {
    port: u16,
    /// Whether a cookie of ours came with a request.
    leaked: Arc<AtomicBool>,
}

impl Hostile {
    fn start(body: String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (port, leaked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let seen = leaked.clone();
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut stream: TcpStream = stream;
                let mut head = [0; 16384];
                let length = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..length]);
                seen.fetch_or(head.contains("p2pfs-"), Ordering::Relaxed);
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        Self { port, leaked }
    }
}

#[test]
fn other_pages_get_nowhere() {
    let alice = Peer::alone();
    fs::write(alice.at("diary.txt"), "secret").unwrap();
    let (browser, page) = enter(&alice);
    let port = port_of(&page);
    let hostile = Hostile::start("<!doctype html><title>hostile</title><body></body>".to_owned());
    // Under the numbers, under the name that both share, and knowing the page's own.
    for own in [format!("http://127.0.0.1:{port}"), format!("http://localhost:{port}"), page.clone()] {
        browser.goto(&format!("http://127.0.0.1:{}/", hostile.port));
        let tries = format!(
            "const own = {own};
            const load = (tag, set) => new Promise((done) => {{
                const it = document.createElement(tag);
                it.onload = () => done('loaded'); it.onerror = () => done('refused');
                set(it); document.body.append(it); setTimeout(() => done('silent'), 4000);
            }});
            const heard = (it, yes) => new Promise((done) => {{ it[yes] = () => done('opened'); it.onerror = () => done('refused'); setTimeout(() => done('silent'), 4000); }});
            const read = await fetch(own + '/files/', {{ credentials: 'include' }}).then((a) => a.text(), () => 'refused');
            await fetch(own + '/files/', {{ credentials: 'include', mode: 'no-cors' }}).catch(() => 0);
            const form = new URLSearchParams({{ path: 'diary.txt', sure: 'yes' }});
            await fetch(own + '/remove', {{ method: 'POST', credentials: 'include', mode: 'no-cors', body: form }}).catch(() => 0);
            const named = await fetch(own + '/upload/?name=evil', {{ method: 'POST', credentials: 'include', headers: {{ 'x-csrf': 'x' }}, body: 'x' }}).then(() => 'sent', () => 'refused');
            const image = await load('img', (it) => it.src = own + '/assets/icon.svg');
            const script = await load('script', (it) => it.src = own + '/assets/page.js');
            const frame = document.createElement('iframe'); frame.src = own + '/'; document.body.append(frame);
            await new Promise((done) => {{ frame.onload = done; setTimeout(done, 4000); }});
            let inside; try {{ inside = frame.contentDocument === null ? 'refused' : frame.contentDocument.title; }} catch (e) {{ inside = 'refused'; }}
            const events = await heard(new EventSource(own + '/events', {{ withCredentials: true }}), 'onopen');
            let socket; try {{ socket = await heard(new WebSocket(own.replace('http', 'ws') + '/events'), 'onopen'); }} catch (e) {{ socket = 'refused'; }}
            return {{ read, named, image, script, inside, events, socket }};",
            own = json!(own)
        );
        let got = browser.promise(&tries);
        for what in ["read", "named", "image", "script", "inside", "events", "socket"] {
            assert_eq!(got[what], "refused", "{own} {what}: {got}");
        }
        // A form that is sent by itself, as a whole page.
        browser.script(&format!(
            "const form = document.createElement('form'); form.method = 'post'; form.action = {};\
             form.innerHTML = '<input name=path value=diary.txt><input name=sure value=yes>'; document.body.append(form); form.submit()",
            json!(format!("{own}/remove"))
        ));
        browser.until("document.body.innerText.trim() === 'refused'");
    }
    assert!(!hostile.leaked.load(Ordering::Relaxed), "a cookie got to somebody else's server");
    assert_eq!(fs::read_to_string(alice.at("diary.txt")).unwrap(), "secret");
    assert!(!alice.at("evil").exists());
    // Names that an attacker lets lead here, and no name at all.
    for host in ["evil.example", "127.0.0.1", &format!("127.0.0.1:{port}"), &format!("localhost:{port}"), ""] {
        let answer = raw(port, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
        assert!(!answer.contains("p2pfs-") && !answer.contains("diary"), "{answer}");
    }
    let denied = alice.run(["log", "--op", "page", "--denied"]);
    assert!(
        denied.contains("a request for another host") && denied.contains("a request from another page"),
        "{denied}"
    );
    // With a session, and without the form's own secret.
    browser.goto(&page);
    let status = browser.promise("return (await fetch('/remove', { method: 'POST', body: new URLSearchParams({ path: 'diary.txt', sure: 'yes' }) })).status");
    assert_eq!(status, json!(403));
    assert_eq!(fs::read_to_string(alice.at("diary.txt")).unwrap(), "secret");
}

#[test]
fn names_of_files_do_nothing() {
    let alice = Peer::alone();
    let names = [
        "<img src=x onerror=document.title='owned'>.txt".to_owned(),
        "\"><script>document.title='owned'<<script>.txt".to_owned(),
        "line\nbreak.txt".to_owned(),
        "gnp.\u{202e}txt.exe".to_owned(),
        format!("{}.txt", "long".repeat(60)),
        "%2e%2e%2fetc.txt".to_owned(),
        "?a=b&c#d;e.txt".to_owned(),
    ];
    names.iter().for_each(|name| fs::write(alice.at(name), name).unwrap());
    std::os::unix::fs::symlink("/etc", alice.at("out")).unwrap();
    let (browser, page) = enter(&alice);
    browser.press("Files");
    browser.until_text("line\\nbreak.txt");
    assert!(browser.text("#listing").contains("gnp.\\u{202e}txt.exe"));
    assert_eq!(browser.script("return document.querySelectorAll('#listing img, #listing script').length"), json!(0));
    let links = browser
        .script("return [...document.querySelectorAll('#listing a.file')].map((each) => each.getAttribute('href'))");
    let links = links.as_array().unwrap();
    assert_eq!(links.len(), names.len());
    let mut shown = Vec::new();
    for link in links {
        browser.goto(&format!("{page}{}", link.as_str().unwrap()));
        assert!(!browser.script("return document.title").as_str().unwrap().starts_with("owned"));
        shown
            .push(browser.script("return document.querySelector('.preview').textContent").as_str().unwrap().to_owned());
    }
    let told = |name: &String| name.replace('\u{202e}', "\\u{202e}");
    names.iter().for_each(|name| assert!(shown.contains(&told(name)), "{name}: {shown:?}"));
    quiet(&browser);
    // Nothing leads out of the mount.
    for path in [
        "/files/out/",
        "/get/out/passwd",
        "/files/..%2f..%2fetc/",
        "/get/%2e%2e/etc/passwd",
        "/files/?at=..",
        "/files/.p2pfs/at/..%2f/",
    ] {
        let status = browser.promise(&format!("return (await fetch({})).status", json!(path)));
        assert!(status.as_u64().unwrap() >= 400, "{path}: {status}");
    }
}

/// What a screen reader, and who has no pointer, needs of a page.
const FAULTS: &str = "
    const faults = [];
    const named = (each) => (each.getAttribute('aria-label') ?? each.textContent + (each.alt ?? '')).trim() !== '';
    for (const each of document.querySelectorAll('a, button, summary')) if (!named(each)) faults.push(each.outerHTML);
    for (const each of document.querySelectorAll('input:not([type=hidden]), select, textarea'))
        if (!each.labels.length && !each.getAttribute('aria-label')) faults.push(each.outerHTML);
    for (const each of document.querySelectorAll('img')) if (!each.alt) faults.push(each.outerHTML);
    for (const each of document.querySelectorAll('[style], script:not([src]), [onclick]')) faults.push(each.outerHTML);
    const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
    faults.push(...ids.filter((id, at) => ids.indexOf(id) !== at));
    if (document.querySelectorAll('h1').length !== 1) faults.push('headings');
    if (document.querySelectorAll('main').length !== 1 || !document.querySelector('header') || !document.querySelector('nav')) faults.push('landmarks');
    if (!document.documentElement.lang || !document.title) faults.push('head');
    const width = document.documentElement.scrollWidth;
    if (width > window.innerWidth) faults.push('wider than the screen: ' + width);
    return faults;";

/// The least contrast of texts to what is behind them.
const CONTRAST: &str = "
    const luminance = (color) => {
        const parts = color.match(/[\\d.]+/g).map(Number);
        const [r, g, b] = parts.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (each) => {
        for (; each; each = each.parentElement) {
            const color = getComputedStyle(each).backgroundColor;
            if (!color.endsWith(', 0)') && color !== 'transparent') return color;
        }
        return 'rgb(255, 255, 255)';
    };
    let least = [99, ''];
    for (const each of document.querySelectorAll('body *')) {
        if (![...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || !each.checkVisibility()) continue;
        const [one, other] = [luminance(getComputedStyle(each).color), luminance(behind(each))].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        if (contrast < least[0]) least = [contrast, each.outerHTML.slice(0, 120)];
    }
    return least;";

#[test]
fn everybody_can_use_it() {
    let group = Group::two();
    let alice = group.alice();
    fs::create_dir(alice.at("docs")).unwrap();
    fs::write(alice.at("docs/plan.txt"), "the plan\n".repeat(200)).unwrap();
    fs::write(alice.at(format!("{}.txt", "long".repeat(60))), "x").unwrap();
    group.bob().run(["msg", "send", "alice", &"long".repeat(300)]);
    let gift = group.bob().scratch().join(format!("{}.gift", "long".repeat(50)));
    fs::write(&gift, "for alice").unwrap();
    group.bob().run(["send", "--background", gift.to_str().unwrap(), "alice"]);
    group.in_step();
    let (browser, page) = enter(alice);
    browser.goto(&format!("{page}/people"));
    browser.press("Make a ticket");
    browser.until("document.querySelector('img.code')?.naturalWidth > 100");
    browser.goto(&format!("{page}/transfers"));
    browser.until("document.querySelector('#transfers').innerText.includes('.gift')");
    let rooms = [
        "/",
        "/files/",
        "/files/docs/",
        "/view/docs/plan.txt",
        "/messages",
        "/messages?with=bob",
        "/conflicts",
        "/transfers",
        "/people",
        "/people/ticket",
        "/log",
        "/alerts",
        "/settings",
        "/nowhere",
    ];
    for (width, height, scheme) in [(390, 780, "light"), (390, 780, "dark"), (1180, 760, "dark"), (1180, 760, "light")]
    {
        browser.screen(width, height, scheme);
        let check = |room: &str| {
            browser.script("document.querySelectorAll('details').forEach((each) => each.open = true)");
            let faults = browser.script(FAULTS);
            assert_eq!(faults, json!([]), "{room} at {width}");
            let least = browser.script(CONTRAST);
            assert!(least[0].as_f64().unwrap() >= 4.5, "{room} {scheme}: {least}");
        };
        for room in rooms {
            browser.goto(&format!("{page}{room}"));
            check(room);
        }
        // Where it asks first.
        let bob = alice.listing("users").as_array().unwrap().iter().find(|user| user["name"] == "bob").unwrap().clone();
        for (action, fields) in [
            ("/remove", json!({ "path": "docs/plan.txt" })),
            ("/remove", json!({ "path": "docs" })),
            ("/people/revoke", json!({ "who": bob["id"], "name": "bob" })),
        ] {
            browser.post(action, &fields);
            browser.until("document.querySelector('section.ask button.danger')");
            check(action);
        }
        // Who loads that anew, or comes back to it, isn't left alone.
        browser.goto(&format!("{page}/people/revoke"));
        assert_eq!(browser.text("h1"), "There is nothing to look at");
        if (width, scheme) == (390, "dark") {
            browser.goto(&format!("{page}/"));
            keep(&browser, "phone-dark");
        }
    }
    let meant = |line: &String| line.contains("/nowhere") || line.contains("/people/revoke");
    let missing: Vec<String> = browser.complaints().into_iter().filter(|line| !meant(line)).collect();
    assert_eq!(missing, Vec::<String>::new());

    // By keyboard alone: past the navigation, into a folder, to a file, back.
    let tab = || browser.keys("\u{E004}");
    let focused = || browser.script("return document.activeElement.textContent.trim()").as_str().unwrap().to_owned();
    let tab_to = |label: &str| {
        let found = (0..80).any(|_| {
            tab();
            focused().starts_with(label)
        });
        assert!(found, "no way to {label} by Tab");
        let ring = browser.script("return getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(ring, json!("solid"), "{label} shows that it has the focus");
        browser.keys("\u{E007}");
    };
    browser.goto(&format!("{page}/"));
    tab();
    assert_eq!(focused(), "Skip to the content");
    browser.keys("\u{E007}");
    browser.until("document.activeElement.id === 'main'");
    browser.goto(&format!("{page}/"));
    tab_to("Files");
    browser.until("document.querySelector('h1').innerText === 'Files'");
    tab_to("docs");
    browser.until("document.querySelector('h1').innerText === 'docs'");
    tab_to("plan.txt");
    browser.until("document.querySelector('h1').innerText === 'plan.txt'");
    tab_to("Rename or remove");
    browser.until("document.querySelector('#change').open");
    tab_to("Remove this file");
    browser.until("document.querySelector('h1').innerText === 'Remove it?'");
    tab_to("Cancel");
    browser.until("document.querySelector('h1').innerText === 'docs'");
}
