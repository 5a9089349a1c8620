//! `maquette token`: who may call a server: tokens made, listed and revoked by its operator.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs};
use crate::failure::{Failure, Result};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  maquette token create acme                                   may look at models and run them, for the owner `acme`
  maquette token create acme --scope publish --label ci --expires-at 2027-01-01T00:00:00Z
  maquette token list --server https://models.example
  maquette token revoke 0h3k9…

A server keeps a token's sha256 and nothing else: what `create` prints is shown this once.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token, and print it.
    Create(Create),
    /// List the tokens of a server, without their secrets.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Revoke a token: from then on it opens nothing.
    Revoke {
        /// Its id, as `list` shows it; not the token itself.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// For whom: whoever has the token acts as this owner.
    #[arg(value_name = "OWNER")]
    owner: String,
    /// What it allows; again for more. `read` and `predict` unless given.
    #[arg(long = "scope", value_enum, value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// What it is for, in your words.
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    label: String,
    /// From when on it opens nothing, such as 2027-01-01T00:00:00Z; it holds for ever unless given.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

/// One thing that a token may allow.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scope {
    /// Look at models and versions.
    Read,
    /// Run models.
    Predict,
    /// Publish models under the token's owner.
    Publish,
    /// Everything, for every owner.
    Admin,
}

/// Makes, lists or revokes.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    match &args.what {
        What::Create(new) => create(new, ui),
        What::List { server } => list(&Client::from_args(server)?, ui),
        What::Revoke { id, server } => revoke(&Client::from_args(server)?, id, ui),
    }
}

fn create(new: &Create, ui: &mut Ui) -> Result<()> {
    let scopes = match new.scopes.as_slice() {
        [] => &[Scope::Read, Scope::Predict],
        some => some,
    };
    let scopes: Vec<_> = scopes.iter().filter_map(ValueEnum::to_possible_value).collect();
    let scopes: Vec<_> = scopes.iter().map(clap::builder::PossibleValue::get_name).collect();
    let body = json!({"owner": new.owner, "scopes": scopes, "label": new.label, "expires_at": new.expires_at});
    let made = Client::from_args(&new.server)?.post("/v1/tokens", &body)?;
    ui.step(
        "made",
        format!(
            "a token for `{}`: {}; its id is {}",
            new.owner,
            scopes.join(", "),
            text(&made["id"])
        ),
    );
    // Alone on standard output, so that a script can take it.
    ui.result(&made, |_| text(&made["token"]).to_owned())
}

fn list(client: &Client, ui: &mut Ui) -> Result<()> {
    let listed = client.get("/v1/tokens")?;
    ui.result(&listed, |ui| {
        let tokens = listed["results"].as_array().into_iter().flatten();
        let lines = tokens.map(|token| {
            let scopes: Vec<_> = token["scopes"].as_array().into_iter().flatten().map(text).collect();
            let times = [
                ("made", "created_at"),
                ("used", "last_used_at"),
                ("until", "expires_at"),
            ];
            let times = times.map(|(word, key)| match text(&token[key]) {
                "" => String::new(),
                time => format!("  {word} {time}"),
            });
            let label = match text(&token["label"]) {
                "" => String::new(),
                label => format!("  ({label})"),
            };
            let (id, owner) = (text(&token["id"]), text(&token["owner"]));
            format!(
                "{}  {owner}  {}{}{label}\n",
                ui.strong(id),
                scopes.join(","),
                times.concat()
            )
        });
        lines.collect()
    })
}

fn revoke(client: &Client, id: &str, ui: &mut Ui) -> Result<()> {
    // A path of its own would be another request.
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') {
        return Err(Failure::usage("this is not the id of a token").help("`maquette token list` shows the ids"));
    }
    client.delete(&format!("/v1/tokens/{id}"))?;
    ui.step("revoked", id);
    ui.result(&json!({"revoked": id}), |_| String::new())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
