//! [`Front`]: what all handlers share. It reads the caller from the headers, runs the call and tells its failure.

use std::sync::Arc;
use std::time::Duration;

use mmap_core::error::Result;
use mmap_core::manager::{Caller, MmapManager};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::told::Told;
use crate::identity::{PidHeader, caller};
use crate::layers::Call;
use crate::meter::{Meters, Running};
use crate::metrics::Calls;

/// The core, as a call holds it.
pub(crate) type Core = Arc<MmapManager>;

/// What the services serve from. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    /// The core.
    pub(crate) manager: Core,
    /// What each subject asks for.
    pub(crate) meters: Meters,
    /// What calls are counted in.
    pub(crate) calls: Arc<Calls>,
    /// Largest data of one read or write, in bytes.
    pub(crate) max_message: u64,
    /// How long a process lives after its stream broke.
    pub(crate) grace: Duration,
    /// Cancelled when the server begins to stop: streams that would last for ever end.
    pub(crate) stopping: CancellationToken,
}

impl Front {
    /// Counts a call that runs.
    ///
    /// # Errors
    /// ENOMEM over a limit of its subject's.
    pub(super) fn begin(&self, caller: &Caller) -> Result<Option<Running>> {
        let Some(meter) = self.meters.of(&caller.subject) else { return Ok(None) };
        meter.admit(0)?;
        meter.begin().map(Some)
    }

    /// Answers a call: `run` gets the core, the caller and the message.
    pub(crate) async fn answer<Q, A, F, R>(
        &self,
        request: Request<Q>,
        pid_header: PidHeader,
        run: F,
    ) -> std::result::Result<Response<A>, Status>
    where
        Q: Told,
        F: FnOnce(Core, Caller, Q) -> R,
        R: Future<Output = Result<A>>,
    {
        let call = Call::of(&request);
        call.set_received();
        let (metadata, _, message) = request.into_parts();
        message.about().tell(call.span());
        let answered = match caller(call.identity(), metadata.as_ref(), pid_header, call.deadline()) {
            Ok(caller) => match self.begin(&caller) {
                Ok(_running) => run(self.manager.clone(), caller, message).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        answered.map(Response::new).map_err(|error| call.fail(&error))
    }
}
