//! Errors on the wire: problems (RFC 9457) in v1, `{"status":"error","error":"…"}` in the seed's endpoints.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::error::ApiError;
use crate::wire::Problem;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let face = self.face();
        self.log(&face);
        let problem = Problem {
            kind: format!("{}{}", Problem::PREFIX, face.word),
            title: face.title.to_owned(),
            status: face.status.as_u16(),
            detail: face.detail.clone().into_owned(),
            job_id: face.job.map(|job| job.to_string()),
        };
        let mut response = answer(face.status, "application/problem+json", &problem);
        if let Self::Unauthorized(_) = self {
            const BOTH: &str = r#"Basic realm="lockstep", charset="UTF-8", Bearer realm="lockstep""#;
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(BOTH));
        }
        if let Self::OffsetBeyondEnd(length) = self
            && let Ok(range) = HeaderValue::try_from(format!("bytes */{length}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        with_retry_after(response, face.retry_after)
    }
}

/// An error in the seed's form.
#[derive(Debug)]
pub(super) struct SeedError {
    error: ApiError,
    /// `/job-status/`: existing clients give up on an answer without a string `output`.
    output: bool,
}

impl SeedError {
    /// As every endpoint but one gives it.
    pub(super) fn plain(error: impl Into<ApiError>) -> Self {
        Self { error: error.into(), output: false }
    }

    /// As `/job-status/` gives it: with an empty `output`.
    pub(super) fn with_output(error: impl Into<ApiError>) -> Self {
        Self { error: error.into(), output: true }
    }
}

/// `{"error":"…","status":"error"}`, and `output` where a job was asked about.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct SeedRefusal {
    /// What happened, and what to do.
    #[schema(value_type = String)]
    pub error: Cow<'static, str>,
    /// Always empty; there in answers of `/job-status/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub output: Option<&'static str>,
    /// Always `error`.
    #[schema(value_type = String, pattern = "^error$")]
    pub status: &'static str,
}

impl IntoResponse for SeedError {
    fn into_response(self) -> Response {
        let face = self.error.face();
        self.error.log(&face);
        let status = if face.refusal { StatusCode::OK } else { face.status };
        let error = face.seed.map_or(face.detail, Cow::Borrowed);
        let body = SeedRefusal { error, output: self.output.then_some(""), status: "error" };
        with_retry_after(answer(status, "application/json", &body), face.retry_after)
    }
}

/// Seconds after which to ask again, if that may help.
pub(super) fn with_retry_after(mut response: Response, seconds: Option<u64>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// A JSON answer.
pub(super) fn answer(status: StatusCode, kind: &'static str, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("answers are structs of strings and numbers");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
