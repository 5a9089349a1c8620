//! When to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at the first SIGTERM or SIGINT (Ctrl-C). A second one ends the process at once, as if nobody listened.
///
/// # Errors
/// If signals cannot be listened to.
pub async fn stop_requested() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(())
}
