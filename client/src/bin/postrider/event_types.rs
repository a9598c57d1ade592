//! `postrider event-types`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use postrider_client::v1::{DeleteEventTypeRequest, EventType, UpdateEventTypeRequest};
use prost_types::FieldMask;
use serde_json::json;

use crate::{
    cli::Session,
    failure::Failure,
    json,
    output::{Format, printable, properties, say, say_json, time},
    triggers::TriggersArgs,
};

/// What the contract calls every tenant.
const ALL_TENANTS: &str = "-";

#[derive(Debug, Args)]
pub(crate) struct EventTypesArgs {
    #[command(subcommand)]
    command: Option<EventTypesCommand>,
}

#[derive(Debug, Subcommand)]
enum EventTypesCommand {
    /// List event types, built-in ones first; the same as `postrider triggers`.
    List(TriggersArgs),
    /// Register an event type.
    #[command(after_help = "Examples:
  postrider event-types create order.created --title Order --example '{\"id\":\"o-1\"}'
  postrider event-types create order.created --schema order.schema.json --all-tenants")]
    Create(CreateArgs),
    /// Change a registered event type.
    #[command(after_help = "Example: postrider event-types update order.created --schema order.schema.json")]
    Update(UpdateArgs),
    /// Delete a registered event type that no webhook names.
    #[command(after_help = "Example: postrider event-types delete order.created")]
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// The event type's name.
    name: String,
    /// It is every tenant's, not that of --tenant.
    #[arg(long)]
    all_tenants: bool,
}

impl WhichArgs {
    fn tenant(&self) -> String {
        if self.all_tenants { ALL_TENANTS.to_owned() } else { String::new() }
    }
}

#[derive(Debug, Args)]
struct ContentArgs {
    /// A short name for people.
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// When such an event happens.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// An example body.
    #[arg(long, value_name = "JSON")]
    example: Option<String>,
    /// Take a JSON Schema for bodies from a file; those that do not hold to it are refused.
    #[arg(long, value_name = "PATH")]
    schema: Option<PathBuf>,
}

impl ContentArgs {
    /// Sets what was given, and returns the names of the fields, for an update's mask.
    async fn apply(self, event_type: &mut EventType) -> Result<Vec<String>, Failure> {
        let schema = match &self.schema {
            Some(path) => Some(read(path).await?),
            None => None,
        };
        let mut set = Vec::new();
        let mut put = |name: &str, field: &mut String, value: Option<String>| {
            if let Some(value) = value {
                *field = value;
                set.push(name.to_owned());
            }
        };
        put("title", &mut event_type.title, self.title);
        put("description", &mut event_type.description, self.description);
        put("example", &mut event_type.example, self.example);
        put("json_schema", &mut event_type.json_schema, schema);
        Ok(set)
    }
}

#[derive(Debug, Args)]
struct CreateArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    content: ContentArgs,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    content: ContentArgs,
    /// A field to empty, as the contract names it (`json_schema`). Repeatable, or separated by commas.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    clear: Vec<String>,
    /// Update it only if this is still its etag.
    #[arg(long, default_value = "")]
    etag: String,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Delete it only if this is still its etag.
    #[arg(long, default_value = "")]
    etag: String,
}

impl EventTypesArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self.command.unwrap_or(EventTypesCommand::List(TriggersArgs::default())) {
            EventTypesCommand::List(args) => args.run(session).await,
            EventTypesCommand::Create(args) => create(session, args).await,
            EventTypesCommand::Update(args) => update(session, args).await,
            EventTypesCommand::Delete(args) => delete(session, args).await,
        }
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<(), Failure> {
    let tenant = args.which.tenant();
    let mut event_type = EventType { name: args.which.name, tenant, ..EventType::default() };
    let _all_of_them = args.content.apply(&mut event_type).await?;
    show(session, &session.client.create_event_type(event_type).await?)
}

async fn update(session: &Session, args: UpdateArgs) -> Result<(), Failure> {
    let tenant = args.which.tenant();
    let mut event_type = EventType { name: args.which.name, tenant, etag: args.etag, ..EventType::default() };
    let mut paths = args.content.apply(&mut event_type).await?;
    if let Some(twice) = args.clear.iter().find(|field| paths.contains(field)) {
        return Err(Failure::Usage(format!("{twice} is both set and cleared")));
    }
    paths.extend(args.clear);
    if paths.is_empty() {
        return Err(Failure::Usage("say what to update, or which fields to --clear".into()));
    }
    let request = UpdateEventTypeRequest { event_type: Some(event_type), update_mask: Some(FieldMask { paths }) };
    show(session, &session.client.update_event_type(request).await?)
}

async fn delete(session: &Session, args: DeleteArgs) -> Result<(), Failure> {
    let (tenant, name) = (args.which.tenant(), args.which.name);
    let request = DeleteEventTypeRequest { tenant, name: name.clone(), etag: args.etag };
    session.client.delete_event_type(request).await?;
    match session.format {
        Format::Json => say_json(&json!({ "deleted": name })),
        Format::Table => say(format_args!("Deleted {}.", printable(&name))),
    }
}

async fn read(path: &Path) -> Result<String, Failure> {
    let read = tokio::fs::read_to_string(path).await;
    read.map_err(|error| Failure::Local(format!("cannot read {}: {error}", path.display())))
}

fn show(session: &Session, event_type: &EventType) -> Result<(), Failure> {
    match session.format {
        Format::Json => say_json(&json!({ "event_type": json::event_type(event_type) })),
        Format::Table => say(properties(&[
            ("name", event_type.name.clone()),
            ("tenant", if event_type.tenant == ALL_TENANTS { "all".into() } else { event_type.tenant.clone() }),
            ("title", event_type.title.clone()),
            ("description", event_type.description.clone()),
            ("example", event_type.example.clone()),
            ("schema", if event_type.json_schema.is_empty() { "none".into() } else { "yes".to_owned() }),
            ("created", time(event_type.create_time.as_ref())),
            ("updated", time(event_type.update_time.as_ref())),
            ("etag", event_type.etag.clone()),
        ])),
    }
}
