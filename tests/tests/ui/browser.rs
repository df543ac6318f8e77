//! A real browser: Chromium without a window, driven through WebDriver.

use std::{
    fmt::Debug,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource, KeyAction, KeyActions},
    wd::WebDriverCompatibleCommand,
};
use hyper_util::client::legacy::connect::HttpConnector;
use p2pfs_tests::patience::PATIENCE;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use url::{ParseError, Url};

/// One browser with one tab. It ends when this is dropped, with all its processes.
pub(crate) struct Browser {
    runtime: Runtime,
    client: Client,
    driver: Child,
}

/// What only this driver understands.
#[derive(Debug)]
struct Own {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    /// Starts one that keeps its profile in `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        let mut command = Command::new("sh");
        // A group of its own, to be ended as a whole: the browser is many processes. It ends itself when the test is killed.
        command.args(["-c", "chromedriver --port=0 & read _; kill -KILL -- -$$"]);
        command.env("HOME", folder).env("TMPDIR", folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let said = lines.map_while(Result::ok).find(|line| line.contains("started successfully on port"));
        let said = said.expect("chromedriver does not start: run scripts/test, which installs it");
        let port: String = said.chars().filter(char::is_ascii_digit).collect();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-extensions",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            "--window-size=1180,760",
            "--no-proxy-server",
            "--lang=en",
        ];
        let profile = format!("--user-data-dir={}", folder.join("chromium").display());
        let arguments: Vec<&str> = arguments.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({ "goog:chromeOptions": { "args": arguments }, "goog:loggingPrefs": { "browser": "ALL" } });
        let Value::Object(wanted) = wanted else { unreachable!() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(wanted).connect(&format!("http://127.0.0.1:{port}")).await
        });
        match client {
            Ok(client) => Self { runtime, client, driver },
            Err(e) => {
                end(&mut driver);
                panic!("chromium does not start: {e}");
            }
        }
    }

    pub(crate) fn goto(&self, address: &str) {
        self.runtime.block_on(self.client.goto(address)).unwrap();
    }

    /// Where it is now.
    pub(crate) fn address(&self) -> String {
        self.runtime.block_on(self.client.current_url()).unwrap().to_string()
    }

    /// What a script in the page gives.
    pub(crate) fn script(&self, text: &str) -> Value {
        self.runtime.block_on(self.client.execute(text, Vec::new())).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// What a script in the page promises.
    pub(crate) fn promise(&self, text: &str) -> Value {
        let text =
            format!("const done = arguments[0]; (async () => {{ {text} }})().then(done, (e) => done('failed: ' + e));");
        self.runtime.block_on(self.client.execute_async(&text, Vec::new())).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// Waits until a script's expression is true.
    pub(crate) fn until(&self, what: &str) {
        let start = Instant::now();
        // (In between pages there is nobody to ask.)
        let holds = || {
            let asked = self.runtime.block_on(self.client.execute(&format!("return !!({what})"), Vec::new()));
            asked.is_ok_and(|value| value == json!(true))
        };
        while !holds() {
            let text = || format!("{}\n{}", self.address(), self.text("body"));
            assert!(start.elapsed() < PATIENCE, "not in time: {what}\n{}", text());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until the page shows a text.
    pub(crate) fn until_text(&self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text)));
    }

    fn element(&self, css: &str) -> fantoccini::elements::Element {
        let found = self.runtime.block_on(self.client.find(Locator::Css(css)));
        found.unwrap_or_else(|e| panic!("{css}: {e}\n{}", self.text("body")))
    }

    pub(crate) fn text(&self, css: &str) -> String {
        let text = self.script(&format!("return document.querySelector({})?.innerText ?? ''", json!(css)));
        text.as_str().unwrap().to_owned()
    }

    pub(crate) fn click(&self, css: &str) {
        let element = self.element(css);
        self.runtime.block_on(element.click()).unwrap_or_else(|e| panic!("{css}: {e}"));
    }

    /// Clicks the link or button whose label begins so.
    pub(crate) fn press(&self, label: &str) {
        let mark = format!(
            "const all = [...document.querySelectorAll('main a, main button, main summary, nav a')];\
             const found = all.find((each) => each.textContent.trim().startsWith({}) && each.checkVisibility());\
             document.querySelectorAll('[data-found]').forEach((each) => each.removeAttribute('data-found'));\
             found?.setAttribute('data-found', ''); return !!found",
            json!(label)
        );
        let start = Instant::now();
        loop {
            // What is swapped in meanwhile has to be found anew.
            let pressed = self.script(&mark) == json!(true)
                && self.runtime.block_on(async {
                    let found = self.client.find(Locator::Css("[data-found]")).await;
                    matches!(found, Ok(found) if found.click().await.is_ok())
                });
            if pressed {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "nothing is labelled {label}\n{}", self.text("body"));
        }
    }

    /// Types into a field what replaces what is in it; a path, into one for files.
    pub(crate) fn fill(&self, css: &str, text: &str) {
        let element = self.element(css);
        let typed = async {
            if !css.contains("file") {
                element.clear().await?;
            }
            element.send_keys(text).await
        };
        self.runtime.block_on(typed).unwrap_or_else(|e| panic!("{css}: {e}"));
    }

    pub(crate) fn choose(&self, css: &str, value: &str) {
        let element = self.element(css);
        self.runtime.block_on(element.select_by_value(value)).unwrap_or_else(|e| panic!("{css}: {e}"));
    }

    /// Types to whatever has the focus.
    pub(crate) fn keys(&self, keys: &str) {
        let typed = keys.chars().fold(KeyActions::new("keyboard".to_owned()), |typed, value| {
            typed.then(KeyAction::Down { value }).then(KeyAction::Up { value })
        });
        self.runtime.block_on(self.client.perform_actions(typed)).unwrap();
    }

    fn own(&self, path: &'static str, body: Value) -> Value {
        self.runtime.block_on(self.client.issue_cmd(Own { path, body })).unwrap()
    }

    /// Goes where a form of the page's own leads that has these fields.
    pub(crate) fn post(&self, action: &str, fields: &Value) {
        self.script(&format!(
            "const form = document.createElement('form'); form.method = 'post'; form.action = {};\
             const all = {{ csrf: document.querySelector('meta[name=csrf]').content, ...{fields} }};\
             for (const [name, value] of Object.entries(all)) {{\
                 const field = document.createElement('input');\
                 field.type = 'hidden'; field.name = name; field.value = value; form.append(field);\
             }}\
             document.body.append(form); form.submit()",
            json!(action)
        ));
    }

    /// From now on scripts of pages don't run.
    pub(crate) fn without_scripts(&self) {
        let off = json!({ "value": true });
        self.own("goog/cdp/execute", json!({ "cmd": "Emulation.setScriptExecutionDisabled", "params": off }));
    }

    /// A screen of this width, light or dark; 0 is the window's own.
    pub(crate) fn screen(&self, width: u32, height: u32, scheme: &str) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width > 0 && width < 600 });
        self.own("goog/cdp/execute", json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": size }));
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.own("goog/cdp/execute", json!({ "cmd": "Emulation.setEmulatedMedia", "params": scheme }));
    }

    /// What it complained about since it was asked last.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let told = self.own("se/log", json!({ "type": "browser" }));
        told.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// A picture of what it shows.
    pub(crate) fn picture(&self) -> Vec<u8> {
        self.runtime.block_on(self.client.screenshot()).unwrap()
    }
}

fn end(driver: &mut Child) {
    if let Some(group) = i32::try_from(driver.id()).ok().and_then(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = driver.wait();
}

impl Drop for Browser {
    fn drop(&mut self) {
        end(&mut self.driver);
    }
}
