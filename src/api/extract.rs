//! Reading requests: bodies, queries and path parameters, each with a bound and with our own errors.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;

use super::Shared;
use super::error::ApiError;
use crate::model::ids::{DeploymentId, Inventory, JobId, NameError, ReleaseId, Word};
use crate::model::mistakes::FILE_MAX;
use crate::model::release::ARTIFACT_MAX;
use crate::model::text::acts;

/// The most bytes that a body may have where nothing else is said.
pub(super) const BODY_MAX: usize = 64 * 1024;
/// The most bytes that a list of apps may have.
pub(super) const FEED_MAX: usize = 4 * 1024 * 1024;
/// How long a body may take to arrive.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Reads a body of at most `limit` bytes.
pub(super) async fn body(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::TooLarge(limit));
    }
    let reading = async {
        let mut chunks = body.into_data_stream();
        let mut whole: Option<Vec<u8>> = None;
        let mut first = Bytes::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| ApiError::MalformedBody("The body broke off.".into()))?;
            let so_far = whole.as_ref().map_or(first.len(), Vec::len);
            if so_far + chunk.len() > limit {
                return Err(ApiError::TooLarge(limit));
            }
            match &mut whole {
                Some(whole) => whole.extend_from_slice(&chunk),
                // The usual body is one chunk, and is not copied.
                None if first.is_empty() => first = chunk,
                None => whole = Some([first.as_ref(), chunk.as_ref()].concat()),
            }
        }
        Ok(whole.map_or(first, Bytes::from))
    };
    tokio::time::timeout(BODY_PATIENCE, reading).await.unwrap_or(Err(ApiError::SlowBody))
}

/// Reads a JSON object.
pub(super) fn parse_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde would take an array for a struct, field by field.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => parse(body),
        _ => parse::<serde_json::Value>(body)
            .and_then(|_| Err(ApiError::Invalid("The body must be a JSON object".into()))),
    }
}

/// Reads JSON: 400 where it is none, 422 where it is not of the right form.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        if error.is_data() {
            return ApiError::Invalid(without_value(&error.to_string()));
        }
        // serde calls a value of the wrong type an error of syntax where it expects one word of several.
        match serde_json::from_slice::<serde::de::IgnoredAny>(body) {
            Ok(_) => {
                ApiError::Invalid(format!("the value that ends at line {line}, column {column} is of the wrong type"))
            }
            Err(_) => ApiError::MalformedBody(format!(
                "The one received breaks off or goes wrong at line {line}, column {column}."
            )),
        }
    })
}

/// serde repeats a value of the wrong type in its message; it could be a secret in the wrong place.
fn without_value(message: &str) -> String {
    for kind in ["string", "integer", "floating point", "boolean", "character"] {
        for wrong in ["invalid type: ", "invalid value: "] {
            if let Some(rest) = message.strip_prefix(wrong).and_then(|rest| rest.strip_prefix(kind))
                && let Some(at) = rest.rfind(", expected")
            {
                return format!("{wrong}{kind}{}", &rest[at..]);
            }
        }
    }
    message.to_owned()
}

/// A body declared as JSON; none: it is empty.
async fn json_body(request: Request, limit: usize) -> Result<Option<Bytes>, ApiError> {
    let (parts, content) = request.into_parts();
    let bytes = body(content, limit).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if is_json(&parts.headers) { Ok(Some(bytes)) } else { Err(ApiError::WrongMediaType) }
}

/// A JSON object.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Shared) -> Result<Self, ApiError> {
        LargeJson::<T, BODY_MAX>::from_request(request, api).await.map(|LargeJson(it)| Self(it))
    }
}

/// A JSON object that may be left out.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Shared> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, ApiError> {
        match json_body(request, BODY_MAX).await? {
            None => Ok(Self(T::default())),
            Some(bytes) if bytes.trim_ascii() == b"null" => Ok(Self(T::default())),
            Some(bytes) => parse_object(&bytes).map(Self),
        }
    }
}

/// A JSON object of at most so many bytes.
pub(super) struct LargeJson<T, const MAX: usize>(pub(super) T);

impl<T: DeserializeOwned, const MAX: usize> FromRequest<Shared> for LargeJson<T, MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, ApiError> {
        let body = json_body(request, MAX).await?;
        parse_object(&body.ok_or_else(missing)?).map(Self)
    }
}

fn missing() -> ApiError {
    ApiError::Invalid("The body is missing; it must be a JSON object".into())
}

/// The file of a pipeline, whatever it is declared as.
pub(super) struct Text(pub(super) String);

impl FromRequest<Shared> for Text {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, ApiError> {
        let bytes = body(request.into_body(), FILE_MAX).await?;
        let text = String::from_utf8(bytes.to_vec());
        text.map(Self).map_err(|_| ApiError::Invalid("The body is not UTF-8".into()))
    }
}

/// A list of apps, not checked yet.
pub(super) struct FeedJson(pub(super) serde_json::Value);

impl FromRequest<Shared> for FeedJson {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, ApiError> {
        let bytes = json_body(request, FEED_MAX).await?.unwrap_or_default();
        parse(&bytes).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, ApiError> {
        let AxumQuery(query) = AxumQuery::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::Invalid(format!("The query is wrong: {}", innermost(&error))))?;
        Ok(Self(query))
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What a path parameter is called, and how it is read.
pub(super) trait PathName: Sized {
    const NAME: &'static str;
    fn read(text: String) -> Result<Self, NameError>;
}

impl PathName for JobId {
    const NAME: &'static str = "job_id";
    fn read(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl PathName for ReleaseId {
    const NAME: &'static str = "release_id";
    fn read(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl PathName for DeploymentId {
    const NAME: &'static str = "deployment_id";
    fn read(text: String) -> Result<Self, NameError> {
        text.try_into()
    }
}

impl PathName for Word {
    const NAME: &'static str = "name";
    fn read(text: String) -> Result<Self, NameError> {
        text.try_into()
    }
}

impl PathName for Inventory {
    const NAME: &'static str = "inventory";
    fn read(text: String) -> Result<Self, NameError> {
        text.try_into()
    }
}

/// The path's one parameter, as the name that it is.
pub(super) struct Named<T>(pub(super) T);

impl<T: PathName> FromRequestParts<Shared> for Named<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::Invalid(format!("The {} in the path is not UTF-8", T::NAME)))?;
        T::read(text).map(Self).map_err(|error| ApiError::Invalid(format!("The {} in the path {error}", T::NAME)))
    }
}

/// A release and the digest of one of its logs.
pub(super) struct LogOf(pub(super) ReleaseId, pub(super) String);

impl FromRequestParts<Shared> for LogOf {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let Path((id, digest)) = Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::Invalid("The path is not UTF-8".into()))?;
        let wrong = |error| ApiError::Invalid(format!("The {} in the path {error}", ReleaseId::NAME));
        let id = ReleaseId::read(id).map_err(wrong)?;
        let good = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if good {
            Ok(Self(id, digest))
        } else {
            Err(ApiError::Invalid("The digest in the path is no SHA-256 in hexadecimal digits".into()))
        }
    }
}

/// A name in a body or a query.
pub(super) fn word(what: &str, text: String) -> Result<Word, ApiError> {
    text.try_into().map_err(|error| ApiError::Invalid(format!("{what} {error}")))
}

/// The same, where it may be left out.
pub(super) fn optional_word(what: &str, text: Option<String>) -> Result<Option<Word>, ApiError> {
    text.map(|text| word(what, text)).transpose()
}

/// A text for people: 1 to 500 characters, none of them a control character.
pub(super) fn reason(text: &str) -> Result<&str, ApiError> {
    let text = text.trim();
    if !(1..=500).contains(&text.chars().count()) || text.chars().any(acts) {
        return Err(ApiError::Invalid("reason must have 1 to 500 characters, none of them a control character".into()));
    }
    Ok(text)
}

/// A version of an artifact that is looked for.
pub(super) fn optional_version(text: Option<String>) -> Result<Option<String>, ApiError> {
    match text {
        Some(text) if !(1..=ARTIFACT_MAX).contains(&text.len()) => {
            Err(ApiError::Invalid(format!("version must have 1 to {ARTIFACT_MAX} bytes")))
        }
        text => Ok(text),
    }
}

/// A reason that may be left out.
pub(super) fn optional_reason(text: Option<&str>) -> Result<String, ApiError> {
    text.map_or(Ok(String::new()), |text| reason(text).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::JobRequest;

    #[test]
    fn what_is_no_json_and_what_is_of_another_form_are_told_apart() {
        for text in ["", "{", "nope", "{\"vars\": {}} x", "\u{0}", "[]x"] {
            let error = parse_object::<JobRequest>(text.as_bytes());
            assert!(matches!(error, Err(ApiError::MalformedBody(_))), "{text:?}: {error:?}");
        }
        for text in [
            "[]",
            "7",
            "{\"x\": 1}",
            "{\"vars\": \"hush-hush\"}",
            "{\"when_busy\": \"now\"}",
            "{\"when_busy\": null}",
            "{\"vars\": {}, \"vars\": {}}",
        ] {
            let error = parse_object::<JobRequest>(text.as_bytes());
            let Err(ApiError::Invalid(what)) = error else { panic!("{text:?}: {error:?}") };
            assert!(!what.contains("hush"), "{what}");
        }
        assert!(parse_object::<JobRequest>(b" {} ").is_ok());
    }

    #[tokio::test]
    async fn a_body_is_bounded_whether_or_not_it_says_its_length() {
        let taken = body(Body::from("abc"), 3).await.expect("fits");
        assert_eq!(taken.as_ref(), b"abc");
        assert!(matches!(body(Body::from("abcd"), 3).await, Err(ApiError::TooLarge(3))));
        let chunks = |parts: &'static [&'static str]| {
            Body::from_stream(futures::stream::iter(parts.iter().map(|p| Ok::<_, std::io::Error>(*p))))
        };
        assert_eq!(body(chunks(&["a", "", "b", "c"]), 3).await.expect("fits").as_ref(), b"abc");
        assert!(matches!(body(chunks(&["ab", "cd"]), 3).await, Err(ApiError::TooLarge(3))));
    }
}
