//! The OpenAPI document: what all operations have in common. The rest stands with each handler.

use std::collections::BTreeMap;

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, Modify};

/// The job in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a parameter that `extract::Named` reads")]
pub(super) struct JobPath {
    /// The job
    #[param(pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01GZEC5GJHFKWMK4Z5A1NM9DPF")]
    job_id: String,
}

/// The release in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a parameter that `extract::Named` reads")]
pub(super) struct ReleasePath {
    /// The release
    #[param(pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01GZEC5GJHFKWMK4Z5A1NM9DPF")]
    release_id: String,
}

/// The log of a report in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes parameters that `extract::LogOf` reads")]
pub(super) struct LogPath {
    /// The release
    #[param(pattern = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$", example = "01GZEC5GJHFKWMK4Z5A1NM9DPF")]
    release_id: String,
    /// SHA-256 of the log
    #[param(pattern = "^[0-9a-f]{64}$")]
    digest: String,
}

/// The app in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a parameter that `extract::Named` reads")]
pub(super) struct AppPath {
    /// The app
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", example = "app-one")]
    deployment_id: String,
}

/// The name in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a parameter that `extract::Named` reads")]
pub(super) struct NamePath {
    /// The name
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", example = "chat")]
    name: String,
}

/// The inventory in a path.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "describes a parameter that `extract::Named` reads")]
pub(super) struct InventoryPath {
    /// The inventory
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", example = "app-one.epfl.ch")]
    inventory: String,
}

/// What the whole document says.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Lockstep",
        description = "Runs deployments on behalf of CI: one inventory, one container, nothing lost. Errors of /api/v1 are \
            problems as in RFC 9457 with a stable `type`; trouble that may pass is 429 or 503 with Retry-After.",
    ),
    tags(
        (name = "jobs", description = "Ask for a deployment, follow it, cancel it"),
        (name = "events", description = "What has happened, in one order"),
        (name = "apps", description = "What may be deployed"),
        (name = "locks", description = "The operator's: deploy locks and freezes"),
        (name = "webhooks", description = "Events sent to receivers, signed"),
        (name = "pipelines", description = "Stages that releases go through"),
        (name = "releases", description = "Services together, on their way through the stages of a pipeline"),
        (name = "reporters", description = "Who reports on releases, and what awaits them"),
        (name = "tokens", description = "The operator's: who may do what, and the audit log"),
        (name = "operations", description = "Health, readiness, metrics"),
        (name = "seed", description = "The endpoints that existing clients use"),
    ),
    components(schemas(crate::wire::Problem, crate::wire::ReportView, super::problem::SeedRefusal)),
    modifiers(&Credentials),
)]
pub(super) struct Document;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut OpenApi) {
        let http = |scheme, text: &str| {
            SecurityScheme::Http(HttpBuilder::new().scheme(scheme).description(Some(text)).build())
        };
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("app", http(HttpAuthScheme::Basic, "Deployment id and its secret."));
        let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT");
        let token =
            token.description(Some("An ID token of a CI job (OpenID Connect) that fits the rules in the app's entry."));
        components.add_security_scheme("oidc", SecurityScheme::Http(token.build()));
        components.add_security_scheme("operator", http(HttpAuthScheme::Bearer, "A token with the role operator."));
        components.add_security_scheme("viewer", http(HttpAuthScheme::Bearer, "A token with the role viewer."));
        let releaser = "A token with the role releaser: sees everything, makes releases and moves them.";
        components.add_security_scheme("releaser", http(HttpAuthScheme::Bearer, releaser));
        let reporter = "A token with the role reporter: reports on releases, and sees those that concern it.";
        components.add_security_scheme("reporter", http(HttpAuthScheme::Bearer, reporter));
        components.add_security_scheme("feed", http(HttpAuthScheme::Bearer, "The feed's token, or a live feed job's."));
        components.add_security_scheme("job", http(HttpAuthScheme::Bearer, "The job's own token."));
    }
}

fn described(description: &str, kind: &str, schema: &str) -> RefOr<Response> {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
    ResponseBuilder::new().description(description).content(kind, content).build().into()
}

fn problems(list: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let problem = |text: &str| described(text, "application/problem+json", "Problem");
    list.iter().map(|(status, text)| ((*status).to_owned(), problem(text))).collect()
}

/// What every v1 operation that asks for credentials may answer.
pub(super) struct Guarded;

impl IntoResponses for Guarded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            ("401", "No credentials, or not the right ones"),
            ("403", "The credentials have no right to this"),
            ("422", "A parameter is not of the right form"),
            ("429", "Too many failed attempts; Retry-After says how long"),
            ("500", "A fault of the dispatcher"),
            (
                "503",
                "Redis, the engine or the issuer of an ID token is out of reach, state is being rebuilt, or no app is known; Retry-After says when to try again",
            ),
        ])
    }
}

/// What every v1 operation with a body may answer besides.
pub(super) struct WithBody;

impl IntoResponses for WithBody {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[
            ("400", "The body is not JSON"),
            ("408", "The body did not arrive in time"),
            ("413", "The body is too large"),
            ("415", "The body is not declared as JSON"),
        ])
    }
}

/// What every operation on one job may answer besides.
pub(super) struct OfJob;

impl IntoResponses for OfJob {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[("404", "No such job, or another app's")])
    }
}

/// What every operation on one release may answer besides.
pub(super) struct OfRelease;

impl IntoResponses for OfRelease {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[("404", "No such release, or none that this token may see")])
    }
}

/// What every operation that changes a release may answer besides.
pub(super) struct Moving;

impl IntoResponses for Moving {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems(&[("409", "It may not be changed so: `detail` says why, and what it waits for")])
    }
}

/// What the seed's endpoints may answer besides 200.
pub(super) struct SeedTrouble;

impl IntoResponses for SeedTrouble {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [
            ("400", "The body is not JSON"),
            ("408", "The body did not arrive in time"),
            ("413", "The body is too large"),
            ("422", "The body is not of the right form"),
            ("429", "Too many failed attempts; Retry-After says how long"),
            ("500", "A fault of the dispatcher"),
            ("503", "Trouble that may pass; Retry-After says when to try again"),
        ]
        .map(|(status, text)| (status.to_owned(), described(text, "application/json", "SeedRefusal")))
        .into()
    }
}
