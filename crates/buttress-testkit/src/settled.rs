use std::sync::{Arc, Mutex};

use buttress_core::{Settle, Verdict};

/// How the calls ended whose permits a [`Watch`](buttress_core::Watch) holds: each with its verdict, or with `None` if its
/// permit was dropped before.
///
/// ```
/// use buttress_core::{Now, Verdict, Watch};
/// use buttress_testkit::Settled;
///
/// let settled = Settled::default();
/// Now.watch("response", &mut settled.permit(), Verdict::Success);
/// drop(settled.permit());
/// assert_eq!(settled.take(), [Some(Verdict::Success), None]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Settled(Arc<Mutex<Vec<Option<Verdict>>>>);

impl Settled {
    /// The permit of a call whose end is to be noted here.
    pub fn permit(&self) -> Permit {
        Permit(Some(self.clone()))
    }

    /// How calls have ended since this was last asked, in order.
    pub fn take(&self) -> Vec<Option<Verdict>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// The permit of a call; made by [`Settled::permit`]. The default is that of no call.
#[derive(Debug, Default)]
pub struct Permit(Option<Settled>);

impl Permit {
    /// Whether its call has not ended yet.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    fn note(&mut self, end: Option<Verdict>) {
        if let Some(settled) = self.0.take() {
            settled.0.lock().unwrap().push(end);
        }
    }
}

/// What follows the first verdict is not heard.
impl Settle for Permit {
    fn settle(&mut self, verdict: Verdict) {
        self.note(Some(verdict));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.note(None);
    }
}
