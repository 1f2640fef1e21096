//! How a call goes wrong, and what is noted of it.

use lockstep::engine::EngineError;
use tokio_util::sync::CancellationToken;

/// A call of the trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Id,
    EnsureImage,
    Create,
    PutFiles,
    ReadFile,
    Start,
    Inspect,
    List,
    Follow,
    Wait,
    Signal,
    Rename,
    Remove,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The call.
    pub(crate) verb: Verb,
    /// The container, by id or by name, or the image, or the instance.
    pub(crate) about: String,
}

/// What happens to one call.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It has no effect; this is the answer.
    Answer(EngineError),
    /// It has its effect; the reply is lost.
    LoseReply,
    /// It waits at the gate, then has its effect.
    HoldBefore(Gate),
    /// It has its effect; the reply waits at the gate.
    HoldAfter(Gate),
}

impl Fault {
    /// It has no effect and is not answered.
    pub(crate) fn lost(verb: Verb) -> Self {
        Self::Answer(lost(verb, "the request was lost"))
    }
}

/// What `NotReached` says.
pub(super) fn lost(verb: Verb, cause: &str) -> EngineError {
    let doing = match verb {
        Verb::Id => "ask for its id",
        Verb::EnsureImage => "look for the image",
        Verb::Create => "create the container",
        Verb::PutFiles => "put files into the container",
        Verb::ReadFile => "read a file of the container",
        Verb::Start => "start the container",
        Verb::Inspect => "look at the container",
        Verb::List => "list containers",
        Verb::Follow => "follow the container's output",
        Verb::Wait => "wait for the container's end",
        Verb::Signal => "send the container a signal",
        Verb::Rename => "rename the container",
        Verb::Remove => "remove the container",
    };
    EngineError::NotReached { doing, cause: cause.to_owned() }
}

/// Where a call is held until a test lets it pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    reached: CancellationToken,
    open: CancellationToken,
}

impl Gate {
    /// Waits until a call stands at the gate.
    pub(crate) async fn reached(&self) {
        self.reached.cancelled().await;
    }

    /// Lets it pass.
    pub(crate) fn open(&self) {
        self.open.cancel();
    }

    pub(super) async fn pass(&self) {
        self.reached.cancel();
        self.open.cancelled().await;
    }
}
