//! Shows on the desktop that messages came, unless somebody reads them at once.

use std::{sync::Arc, time::Duration};

use super::{Shared, alerting::Alerting, blocking};

/// A chat or a page that is open reads what comes sooner than that.
const READ: Duration = Duration::from_secs(2);
/// How long until messages that come later are shown.
const PAUSE: Duration = Duration::from_secs(30);

/// Shows what comes from now on. Called within the runtime.
pub(super) fn start(shared: &Arc<Shared>, alerting: Arc<Alerting>) {
    if !alerting.has_desktop() {
        return;
    }
    let shared = shared.clone();
    let mut arrivals = shared.letters.subscribe();
    tokio::spawn(async move {
        let unread = || {
            let volume = shared.volume.clone();
            blocking(move || volume.unread_letters().unwrap_or_default())
        };
        let mut told = unread().await.last;
        while arrivals.changed().await.is_ok() {
            tokio::time::sleep(READ).await;
            let there = unread().await;
            if there.last > told {
                told = there.last;
                alerting.tell_messages(there.count);
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
}
