//! Work that waits for the disk, off the threads that move packets.

/// Runs `work` where blocking is allowed and waits for its result.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down: this task goes with it.
        Err(_) => std::future::pending().await,
    }
}
