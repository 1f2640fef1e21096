//! The mapping from errors to answers, as it is published.

use super::*;
use crate::model::pipeline::file::read;

/// What clients may rely on, line by line: status, word, whether the seed's endpoints answer it with 200, Retry-After.
#[test]
fn the_mapping_is_as_published() {
    let job = JobId::new(1, 1);
    let freeze = Freeze { reason: "audit\n".into(), by: "ada".into(), until_ms: None };
    let feed = FeedError::NotAnArray;
    let inside = || "secret inside".to_owned();
    let ada = || "ada".parse().expect("a name");
    let errors = [
        ApiError::MalformedBody("x".into()),
        ApiError::Invalid("x".into()),
        ApiError::TooLarge(1),
        ApiError::SlowBody,
        ApiError::WrongMediaType,
        ApiError::Unauthorized(Wanted::App),
        ApiError::Forbidden("x"),
        ApiError::Barred(60),
        ApiError::NoApps,
        ApiError::IssuerNotReached,
        ApiError::UnknownPath,
        ApiError::MethodNotAllowed,
        ApiError::UnknownJob,
        ApiError::UnknownApp,
        ApiError::NotLocked,
        ApiError::NotFrozen,
        ApiError::UnknownToken,
        ApiError::NameTaken,
        ApiError::UnknownWebhook,
        ApiError::UnknownPipeline,
        ApiError::Pipeline(read("").expect_err("nothing")),
        ApiError::UnknownRelease,
        ApiError::Release(Fault::Nothing),
        ApiError::Refused(Refused::NotOfGroup("testers".into())),
        ApiError::Refused(Refused::OwnRelease(ada())),
        ApiError::Refused(Refused::NotAsked { reporter: ada(), stage: ada() }),
        ApiError::Refused(Refused::Held("because\n".into())),
        ApiError::Refused(Refused::NothingHeld),
        ApiError::UnknownLog,
        ApiError::LogTooLarge(1),
        ApiError::UnknownReporter,
        ApiError::TooMany(100),
        ApiError::JobEnded,
        ApiError::Busy(Some(job)),
        ApiError::Reserved(ReleaseId::new(1, 1)),
        ApiError::Frozen(freeze),
        ApiError::KeyReused,
        ApiError::Vars(VarError::NotScalar("v".into())),
        ApiError::Feed(feed),
        ApiError::Shrunken(7),
        ApiError::StillRunning(job),
        ApiError::OffsetBeyondEnd(3),
        ApiError::Store(StoreError::NotReached(inside())),
        ApiError::Store(StoreError::Epoch),
        ApiError::Store(StoreError::Stale(inside())),
        ApiError::Store(StoreError::Unreadable(inside())),
        ApiError::Engine(EngineError::NotReached { doing: "x", cause: inside() }),
        ApiError::Engine(EngineError::Refused { doing: "x", cause: inside().into() }),
        ApiError::NotReady("shutting down"),
        ApiError::Internal(inside()),
    ];
    let mut table = String::new();
    for error in errors {
        let face = error.face();
        assert!(!face.detail.contains("secret inside"), "{face:?}");
        assert!(!face.detail.chars().any(char::is_control), "{face:?}");
        let refusal = if face.refusal { " refusal" } else { "" };
        let retry = face.retry_after.map_or(String::new(), |seconds| format!(" retry {seconds}"));
        table += &format!("{} {}{refusal}{retry}\n", face.status.as_u16(), face.word);
    }
    insta::assert_snapshot!(table, @r"
    400 malformed-body
    422 invalid
    413 too-large
    408 timeout
    415 wrong-media-type
    401 unauthorized refusal
    403 forbidden refusal
    429 barred retry 60
    503 no-apps retry 2
    503 issuer-not-reached retry 5
    404 unknown-path
    405 method-not-allowed
    404 unknown-job refusal
    404 unknown-app
    404 not-locked
    404 not-frozen
    404 unknown-token
    409 name-taken
    404 unknown-webhook
    404 unknown-pipeline
    422 invalid-pipeline
    404 unknown-release
    422 invalid-release
    403 forbidden
    403 forbidden
    403 forbidden
    409 release-refused
    409 release-refused
    404 unknown-log
    413 log-too-large
    404 unknown-reporter
    409 too-many
    409 job-ended
    409 busy refusal
    409 reserved refusal
    409 frozen refusal
    422 key-reused
    422 vars
    422 invalid-feed
    409 shrunken-list refusal
    409 still-running
    416 offset-beyond-end
    503 unavailable retry 2
    503 unavailable retry 2
    503 unavailable retry 2
    500 unreadable
    503 unavailable retry 2
    500 engine-refused
    503 unavailable retry 2
    500 internal
    ");
}
