/// Says once, when a store is opened, what in its set-up would lose what it acknowledges.
pub(crate) fn warn(store: &'static str, warnings: &[String]) {
    #[cfg(feature = "tracing")]
    for warning in warnings {
        tracing::warn!(store, "{warning}");
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (store, warnings);
}
