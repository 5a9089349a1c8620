//! `maquette up`: from a model's folder to an endpoint that answers, in one command.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use maquette_package::Package;
use maquette_package::cases::Case;
use maquette_server::{Server, StartError, stop_requested};
use serde_json::{Value, json};

use crate::client::Client;
use crate::commands::publish::{self, Consent, Published};
use crate::commands::serve::{Settings, runtime};
use crate::failure::{Failure, Result};
use crate::local::{self, Host};
use crate::report::count;
use crate::ui::{Ui, time};

/// An example input longer than this is not shown on a command line.
const MAX_EXAMPLE: usize = 600;

const EXAMPLES: &str = "\
Examples:
  maquette up                                   the model in this folder
  maquette up plugins/minilm                    another one
  maquette up . --bind 127.0.0.1:8080 --data /tmp/trial

It readies the WebAssembly target, builds the component, fetches the weights, checks the model, runs its cases, starts a server,
publishes, and prints a curl line to paste. A second run reuses all of it. Ctrl-C stops it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's folder.
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Under whose name; else the manifest's `owner`, else `local`.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Stop once the model answers, instead of serving on.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    server: Settings,
}

/// Everything, then serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let started = Instant::now();
    let device = args.server.on.check()?;
    // A port that is taken is better known now than after a build.
    if args.server.bind.port() != 0 {
        drop(TcpListener::bind(args.server.bind).map_err(|cause| {
            Failure::from(StartError::Bind {
                address: args.server.bind,
                cause,
            })
        })?);
    }
    let store = local::store()?;
    let package = local::assemble(&args.dir, &store, ui)?;
    let first = {
        let host = Host::start_on(device)?;
        let model = host.open(local::parts(&package.manifest, &store)?)?;
        ui.step("checked", model.load_note());
        let took = super::test::all(&model, &package.cases, ui)?;
        ui.step(
            "tested",
            format!("{} passed in {}", count(package.cases.len() as u64, "case"), time(took)),
        );
        example(&package.cases)
    };
    runtime()?.block_on(async {
        let server = Server::start(args.server.config()).await?;
        let url = format!("http://{}", server.address());
        let client = Client::new(&url, Some(server.admin_token().to_owned()));
        let owner = publish::owner(args.owner.as_deref(), &package);
        let manifest = &package.manifest;
        // Whoever tries a model out here agrees to what it asks for by trying it.
        let published = tokio::task::block_in_place(|| {
            publish::publish(&client, &owner, manifest, &[], Consent::Given, &store, ui)
        });
        let published = match published {
            Ok(published) => published,
            Err(failure) => {
                server.stop().await;
                return Err(failure);
            }
        };
        let token_file = std::path::absolute(server.admin_token_file()).unwrap_or_else(|_| server.admin_token_file());
        tell(
            args,
            ui,
            &package,
            &published,
            &url,
            &token_file,
            first.as_ref(),
            started,
        )?;
        if !args.once {
            stop_requested()
                .await
                .map_err(|e| Failure::environment(format!("signals cannot be listened to: {e}")))?;
        }
        server.stop().await;
        ui.step("stopped", "every call that was running has ended");
        Ok(())
    })
}

#[expect(clippy::too_many_arguments, reason = "what there is to tell")]
fn tell(
    args: &Args,
    ui: &mut Ui,
    package: &Package,
    published: &Published,
    url: &str,
    token_file: &Path,
    example: Option<&Value>,
    started: Instant,
) -> Result<()> {
    let run = format!("{url}/v1/models/{}/run", published.model);
    let curl = curl(&run, token_file, example);
    ui.step(
        "published",
        format!(
            "{} {} ({})",
            published.model,
            package.manifest.version,
            &published.id.to_string()[..12]
        ),
    );
    ui.step(
        "ready",
        format!("in {}, at {url}; Ctrl-C stops it. Try:", time(started.elapsed())),
    );
    let document = json!({
        "url": url,
        "run": run,
        "model": published.model,
        "version": package.manifest.version,
        "id": published.id,
        "token_file": token_file,
        "data": args.server.data(),
        "curl": curl,
        "ready_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    ui.result(&document, |_| format!("\n{curl}\n"))
}

/// The shortest input among the cases, if one is short enough for a command line.
fn example(cases: &[Case]) -> Option<Value> {
    let shortest = cases
        .iter()
        .map(|case| &case.input)
        .min_by_key(|input| input.to_string().len())?;
    (shortest.to_string().len() <= MAX_EXAMPLE).then(|| shortest.clone())
}

/// A line that works when pasted into a shell. The token is read from its file, so it gets into no shell's history.
fn curl(run: &str, token_file: &Path, example: Option<&Value>) -> String {
    let input = example.map_or_else(|| "{}".to_owned(), Value::to_string);
    format!(
        "curl -sS {run} -H \"Authorization: Bearer $(cat {})\" -H 'Content-Type: application/json' -d {}",
        quoted(&token_file.display().to_string()),
        quoted(&input),
    )
}

/// A word that a POSIX shell reads as it is.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_curl_line_survives_a_shell_whatever_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("it's a $HOME");
        std::fs::create_dir(&odd).unwrap();
        let token = odd.join("admin.token");
        std::fs::write(&token, "mqt_secret\n").unwrap();
        let input = json!({"text": "it's \"quoted\" and costs $5 \\ `date`\nü"});
        let line = curl("http://127.0.0.1:1/v1/models/a/b/run", &token, Some(&input));
        // A curl that prints its arguments, one a line.
        let bin = folder.path().join("curl");
        std::fs::write(&bin, "#!/bin/sh\nfor a in \"$@\"; do printf '%s\\0' \"$a\"; done\n").unwrap();
        let mut permissions = std::fs::metadata(&bin).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
        std::fs::set_permissions(&bin, permissions).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let shown = std::process::Command::new("sh")
            .arg("-c")
            .arg(&line)
            .env("PATH", path)
            .output()
            .unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        let args: Vec<&str> = text.trim_end_matches('\0').split('\0').collect();
        assert_eq!(
            args[..4],
            [
                "-sS",
                "http://127.0.0.1:1/v1/models/a/b/run",
                "-H",
                "Authorization: Bearer mqt_secret"
            ]
        );
        assert_eq!(serde_json::from_str::<Value>(args[7]).unwrap(), input);
    }

    #[test]
    fn the_example_is_the_shortest_input_and_never_a_long_one() {
        let case = |input: Value| Case {
            name: "c".into(),
            description: String::new(),
            input,
            output: Value::Null,
            tolerance: 0.0,
        };
        let long = json!({"text": "x".repeat(5000)});
        assert_eq!(
            example(&[case(long.clone()), case(json!({"text": "hi"}))]),
            Some(json!({"text": "hi"}))
        );
        assert_eq!(example(&[case(long)]), None);
        assert_eq!(example(&[]), None);
    }
}
